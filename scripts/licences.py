"""The licences of what a release is made of, for whoever gets it: most ask that their text goes along.

    share/licenses/crates.txt       the Rust packages that the program is linked from, and their texts, each once
    share/licenses/libtorch/...     what the wheels of libtorch came with
    share/licenses/NAME.txt         of each library of the machine that built this
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import common

TEXTS = re.compile(r"(licen[sc]e|copying|notice|unlicense|copyright)", re.IGNORECASE)


def _cargo(clone: Path, *words: str) -> str:
    done = subprocess.run(["cargo", *words], cwd=clone, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise common.SetupError(f"cargo {words[0]} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return done.stdout


def _packages(clone: Path) -> "list[dict]":
    """What the program is linked from, but for our own."""
    tree = ("tree", "--locked", "--package", "brigade", "--edges", "normal", "--prefix", "none", "--format", "{p}")
    linked = {tuple(line.split()[:2]) for line in _cargo(clone, *tree).splitlines() if line.strip()}
    every = json.loads(_cargo(clone, "metadata", "--locked", "--format-version", "1"))["packages"]
    ours = [package for package in every if package["source"] and (package["name"], f"v{package['version']}") in linked]
    return sorted(ours, key=lambda package: (package["name"], package["version"]))


def crates(clone: Path) -> str:
    """A list of the packages with their licences, then every text with the packages that came with it."""
    head, owners = [], {}
    for package in _packages(clone):
        name = f"{package['name']} {package['version']}"
        told = (package["license"] or "as its text below says", package["repository"])
        head.append(f"{name}: {', '.join(filter(None, told))}")
        for path in sorted(Path(package["manifest_path"]).parent.iterdir()):
            if path.is_file() and TEXTS.match(path.name):
                text = "\n".join(line.rstrip() for line in path.read_text(errors="replace").strip().splitlines())
                owners.setdefault(text, []).append(name)
    if not head:
        raise common.SetupError("cargo tree names no package that the program is linked from")
    parts = ["The Rust packages that this program is linked from.", "\n".join(head)]
    for text, names in owners.items():
        parts.append("-" * 80 + "\n" + ", ".join(sorted(set(names))) + "\n" + "-" * 80 + "\n\n" + text)
    return "\n\n".join(parts) + "\n"


def _of_the_system(library: Path) -> "Path | None":
    """What Debian's package of a library says of its licence."""
    if shutil.which("dpkg") is None:
        return None
    # Where /lib is a link to /usr/lib, some packages know their files by the one name and some by the other.
    for name in (str(library), str(library).removeprefix("/usr")):
        done = subprocess.run(["dpkg", "--search", name], capture_output=True, text=True, check=False)
        text = Path("/usr/share/doc") / done.stdout.split(":")[0].strip() / "copyright"
        if done.returncode == 0 and text.is_file():
            return text
    return None


def write(clone: Path, shared: "dict[str, Path]", folder: Path) -> None:
    """Writes all of it into `folder`; `shared` are the libraries that go along."""
    folder.mkdir(parents=True)
    (folder / "crates.txt").write_text(crates(clone))
    # A library that a user set as LIBTORCH brings what it brings.
    torch = shared["libtorch_cpu.so"].parent.parent if "libtorch_cpu.so" in shared else None
    if torch and (torch / "licenses").is_dir():
        shutil.copytree(torch / "licenses", folder / "libtorch", copy_function=shutil.copyfile)
    for name, path in shared.items():
        if torch and torch in path.parents:
            continue
        if text := _of_the_system(path):
            shutil.copyfile(text, folder / f"{name.split('.so')[0]}.txt")
