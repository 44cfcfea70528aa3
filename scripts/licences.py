"""The licences of what a release is made of, for whoever gets it: most ask that their text goes along.

    share/licenses/crates.txt       the Rust packages that the program is linked from, and their texts, each once
    share/licenses/libtorch/...     what the wheels of libtorch came with
    share/licenses/*.txt            GCC's, of its libraries, libtorch's libgomp among them; from dist/licenses
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import common

# Of the machine that built this.
GCC = ("libgcc_s.so", "libstdc++.so", "libgomp.so")
TEXTS = re.compile(r"(licen[sc]e|copying|notice|unlicense|copyright)", re.IGNORECASE)


def _cargo(clone: Path, *words: str) -> str:
    cargo = os.environ.get("CARGO", "cargo")
    try:
        done = subprocess.run([cargo, *words], cwd=clone, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise common.SetupError(f"{cargo} is missing; it tells which packages the program is linked from") from error
    if done.returncode != 0:
        raise common.SetupError(f"cargo {words[0]} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return done.stdout


def _packages(clone: Path) -> "list[dict]":
    """What the program is linked from, but for our own."""
    tree = ("tree", "--locked", "--package", "brigade", "--edges", "normal", "--prefix", "none", "--format", "{p}")
    linked = {tuple(line.split()[:2]) for line in _cargo(clone, *tree).splitlines() if line.strip()}
    metadata = ("metadata", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu", "--format-version", "1")
    every = json.loads(_cargo(clone, *metadata))["packages"]
    ours = [package for package in every if package["source"] and (package["name"], f"v{package['version']}") in linked]
    return sorted(ours, key=lambda package: (package["name"], package["version"]))


def crates(clone: Path) -> str:
    """A list of the packages with their licences, then every text with the packages that came with it."""
    head, owners = [], {}
    for package in _packages(clone):
        name = f"{package['name']} {package['version']}"
        files = sorted(Path(package["manifest_path"]).parent.iterdir())
        texts = [path.read_text(errors="replace") for path in files if path.is_file() and TEXTS.match(path.name)]
        told = [package["license"] or "as its text below says", package["repository"]]
        told += [] if texts else ["without a text of its own"]
        head.append(f"{name}: {', '.join(filter(None, told))}")
        for text in texts:
            text = "\n".join(line.rstrip() for line in text.strip().splitlines())
            owners.setdefault(text, []).append(name)
    if not head:
        raise common.SetupError("cargo tree names no package that the program is linked from")
    parts = ["The Rust packages that this program is linked from.", "\n".join(head)]
    for text, names in owners.items():
        parts.append("-" * 80 + "\n" + ", ".join(sorted(set(names))) + "\n" + "-" * 80 + "\n\n" + text)
    return "\n\n".join(parts) + "\n"


def write(clone: Path, shared: "dict[str, Path]", folder: Path) -> None:
    """Writes all of it into `folder`; `shared` are the libraries that go along."""
    shutil.copytree(clone / "dist" / "licenses", folder, copy_function=shutil.copyfile)
    (folder / "crates.txt").write_text(crates(clone))
    # A libtorch that a user has of their own brings what it brings.
    torch = shared["libtorch_cpu.so"].parent.parent if "libtorch_cpu.so" in shared else None
    if torch and (torch / "licenses").is_dir():
        shutil.copytree(torch / "licenses", folder / "libtorch", copy_function=shutil.copyfile)
    for name, path in shared.items():
        if not (torch and torch in path.parents) and not name.startswith(GCC):
            raise common.SetupError(f"{path} is linked, and nobody has looked at its licence: scripts/licences.py")
