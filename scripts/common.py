"""What the scripts share: the cache, pip, and errors in one line each."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

# What pip says when it fails, and what to do about it.
PIP_FAILURES = (
    (r"No space left on device|Errno 28", "the disk is full; free some space, or set BRIGADE_CACHE to another disk"),
    (r"DO NOT MATCH THE HASHES|Expected sha256",
     "what came is not what was published: its SHA-256 differs from the pinned one; try again, and if it happens "
     "again, do not trust that mirror"),
    (r"NewConnectionError|Max retries|Name or service|Temporary failure|timed out|ConnectionError|ProxyError|SSLError",
     "the package index cannot be reached; check the network (pip's proxy and index settings apply)"),
    (r"No matching distribution|Could not find a version",
     "the package index has no such file, or it cannot be reached; check the network and pip's index settings"),
    (r"no such option", "this pip is too old; `python3 -m pip install --upgrade pip`"),
)


class SetupError(Exception):
    """What went wrong and what to do about it, in one line."""


def cache_dir() -> Path:
    """`$BRIGADE_CACHE`, else `brigade` in the user's cache folder."""
    if os.environ.get("BRIGADE_CACHE"):
        return Path(os.environ["BRIGADE_CACHE"]).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "brigade"


def find_pip() -> "list[str]":
    """The command that starts pip."""
    candidates = [[sys.executable, "-m", "pip"]] if sys.executable else []
    candidates += [[found] for found in map(shutil.which, ("pip3", "pip")) if found]
    for command in candidates:
        if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode == 0:
            return command
    raise SetupError("pip is missing; `apt install python3-pip`, or `python3 -m ensurepip --user`")


def explain(stderr: str) -> str:
    """Turns what pip wrote into one line."""
    for pattern, meaning in PIP_FAILURES:
        if re.search(pattern, stderr):
            return meaning
    lines = [line for line in stderr.splitlines() if line.strip()]
    return "pip failed: " + (lines[-1].strip() if lines else "it gave no reason")


@contextlib.contextmanager
def locked(cache: Path):
    """Holds the cache for this process: two setups at once would delete each other's work."""
    cache.mkdir(parents=True, exist_ok=True)
    with open(cache / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another setup is at work in the same cache; waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(program: str, main) -> int:
    """Calls `main`, with every failure that can be expected as one line; returns the exit status."""
    if sys.version_info < (3, 9):
        print(f"{program}: Python 3.9 or later is needed", file=sys.stderr)
        return 1
    # So that a terminated script takes its pip and its half-made folder with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return main()
    except SetupError as error:
        print(f"{program}: {error}", file=sys.stderr)
    except OSError as error:
        remedy = "BRIGADE_CACHE names the folder that is written to"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space, or set BRIGADE_CACHE to a folder on another disk"
        print(f"{program}: {error.strerror or error}: {error.filename or cache_dir()}; {remedy}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{program}: stopped; nothing was changed", file=sys.stderr)
        return 130
    return 1
