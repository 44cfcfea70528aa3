#!/usr/bin/env python3
"""Makes the Python environment that some tests call, in the cache: `python3 scripts/test_python.py`.

The tests find it through BRIGADE_TEST_PYTHON, which the Makefile sets to `<cache>/test-python/bin/python`.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import common

REQUIREMENTS = Path(__file__).with_name("test-requirements.txt")


def stamp() -> str:
    """What a complete environment holds in `stamp.txt`: it is of no use to another Python."""
    return f"{sys.executable} {sys.version}\n{REQUIREMENTS.read_text()}"


def is_complete(folder: Path) -> bool:
    """Whether `folder` is an environment for this Python and these requirements."""
    try:
        return (folder / "stamp.txt").read_text() == stamp()
    except OSError:
        return False


def make(folder: Path) -> None:
    """Builds the environment in `folder`."""
    # Without pip in it: Debian's Python can make such an environment with no further package.
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next((folder / "lib").glob("python3.*")) / "site-packages"
    command = [
        *common.find_pip(), "install", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps",
        "--only-binary=:all:", "--target", str(packages), "--requirement", str(REQUIREMENTS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise common.SetupError(f"cannot install the tests' Python packages: {common.explain(done.stderr)}")
    (folder / "stamp.txt").write_text(stamp())


def main() -> int:
    """Runs the command line; returns the exit status."""
    cache = common.cache_dir()
    folder = cache / "test-python"
    if is_complete(folder):
        return 0
    with common.locked(cache):
        if is_complete(folder):
            return 0
        partial = cache / ".partial-test-python"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            make(partial)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    print(f"the tests' Python is ready in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(common.run("test-deps", main))
