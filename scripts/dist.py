#!/usr/bin/env python3
"""Packs a release: `python3 scripts/dist.py TARGET_DIR [--with-libtorch | --without-libtorch]`.

Takes the program that `cargo build --release` left in TARGET_DIR and writes, below TARGET_DIR/dist, a tarball that runs
from wherever it is unpacked, and SHA256SUMS. The same program, libraries and files give the same tarball to the byte: names
are sorted, owners are nobody in particular, and the time is SOURCE_DATE_EPOCH, else the commit's, else 1980.

A program for CPUs comes with libtorch. One for NVIDIA GPUs comes without: those libraries are gigabytes, and most machines
with a GPU have PyTorch. Needs Python 3.9 or later, ldd and cargo; nothing else.
"""

import argparse
import gzip
import hashlib
import mmap
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import common
import elf
import licences
from progress import Progress

CLONE = Path(__file__).resolve().parent.parent

# What every machine has of its own: glibc, which must not come from elsewhere, and NVIDIA's driver.
SYSTEM = re.compile(
    r"(ld-linux-x86-64|linux-vdso|libc|libm|libdl|libpthread|librt|libutil|libresolv|libcuda|libnvidia-ml)\.so(\.|$)"
)
RUNPATH = "$ORIGIN/../lib"

# From the clone, into share/: what a tarball's reader wants to look up without the clone.
DOCUMENTS = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "bucket-layout.md", "scripts/pins.py")
# Whole folders, of which only what git knows: Terraform keeps its state, and keys in it, beside its files.
FOLDERS = ("docs", "terraform", "dist/monitoring")

SHELLS = {"bash": "brigade.bash", "zsh": "_brigade", "fish": "brigade.fish"}


def ask(*command: "str | Path") -> str:
    """What a program prints; a failure is an error with its last line."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise common.SetupError(f"{Path(command[0]).name} failed: {lines[-1] if lines else done.returncode}")
    return done.stdout


def libraries(program: Path) -> "dict[str, Path]":
    """The shared libraries that `program` loads, directly or not, by the name under which it looks for them."""
    found = {}
    for line in ask("ldd", program).splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if not arrow or SYSTEM.match(Path(name).name):
            continue
        if rest.startswith("not found"):
            raise common.SetupError(f"{program} needs {name}, which is gone: build again with `make dist`")
        found[name] = Path(rest.rsplit(" (", 1)[0]).resolve()
    return found


def everything(program: Path) -> "dict[str, Path]":
    """For CUDA: the whole of libtorch's folder beside what `ldd` tells, as libtorch opens many of its parts by name."""
    found = libraries(program)
    torch = next((path.parent for name, path in found.items() if name.startswith("libtorch_cuda")), None)
    if torch is None:
        raise common.SetupError(f"{program} loads no libtorch_cuda.so: `make setup CUDA=1`, then `make dist`")
    for path in sorted(torch.glob("*.so*")):
        if path.read_bytes()[:4] == b"\x7fELF":
            found.setdefault(path.name, path.resolve())
    return found


def glibc(files: "list[Path]") -> str:
    """The oldest glibc that has all that these programs and libraries call."""
    asked = {0}
    for path in files:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            asked |= {int(minor) for minor in re.findall(rb"\0GLIBC_2\.(\d+)(?:\.\d+)?(?=\0)", content)}
    return f"2.{max(asked)}"


def commit_time() -> int:
    """The time that every file of the tarball bears."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        if not given.isdigit():
            raise common.SetupError(f"SOURCE_DATE_EPOCH={given} is no number of seconds; correct it or unset it")
        return int(given)
    try:
        return int(ask("git", "-C", CLONE, "log", "-1", "--format=%ct"))
    except (common.SetupError, OSError, ValueError):
        return 315_532_800


def copy(source: Path, target: Path) -> None:
    """Copies the content of a file alone: its owner, time and mode are the tarball's business."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def fill(stage: Path, program: Path, shared: "dict[str, Path]") -> None:
    """Puts everything into the folder that is packed."""
    binary = stage / "bin" / "brigade"
    copy(program, binary)
    binary.chmod(0o755)
    # Asked of the original: the copy is not beside its libraries yet.
    completions = {file: ask(program, "dist", "completions", shell) for shell, file in SHELLS.items()}
    ask(program, "dist", "man", stage / "man" / "man1")
    if b"libtorch_cpu.so\0" in binary.read_bytes():
        elf.set_runpath(binary, RUNPATH)
    for name, path in shared.items():
        copy(path, stage / "lib" / name)
    for file, text in completions.items():
        (stage / "completions").mkdir(exist_ok=True)
        (stage / "completions" / file).write_text(text)
    for path in sorted((CLONE / "dist" / "systemd").iterdir()):
        copy(path, stage / "systemd" / path.name)
    fill_in = {"@GLIBC@": glibc([binary, *sorted(stage.glob("lib/*"))])}
    for name in ("README.md", "install.sh"):
        text = (CLONE / "dist" / name).read_text()
        for mark, value in fill_in.items():
            text = text.replace(mark, value)
        (stage / name).write_text(text)
    copy(CLONE / "LICENSE", stage / "LICENSE")
    licences.write(CLONE, shared, stage / "share" / "licenses")
    for name in DOCUMENTS:
        copy(CLONE / name, stage / "share" / "doc" / name)
    for name in ask("git", "-C", CLONE, "ls-files", *FOLDERS).splitlines():
        copy(CLONE / name, stage / "share" / "doc" / name)
    check_links(stage / "share" / "doc")
    for path in sorted((CLONE / "dist" / "monitoring").glob("*")):
        copy(path, stage / "share" / "monitoring" / path.name)


def check_links(folder: Path) -> None:
    """Refuses pages that lead nowhere: who has only the tarball cannot look it up in the clone."""
    for page in sorted(folder.rglob("*.md")):
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in link and not (page.parent / link).exists():
                raise common.SetupError(f"{page.relative_to(folder)} links to {link}, which is not in the tarball")


def pack(stage: Path, tarball: Path, time: int) -> None:
    """Packs a folder under its own name."""
    executable = {"bin/brigade", "install.sh"}
    paths = sorted(stage.rglob("*"), key=lambda path: path.relative_to(stage).as_posix())
    partial = tarball.with_suffix(".partial")
    total = sum(path.stat().st_size for path in paths if path.is_file())
    with Progress(f"pack {tarball.name}", total) as progress, open(partial, "wb") as raw, \
            gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed, \
            tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        done = 0
        for path in [stage, *paths]:
            inside = path.relative_to(stage).as_posix()
            entry = archive.gettarinfo(path, arcname=f"{stage.name}/{inside}" if path != stage else stage.name)
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = "root"
            entry.mtime = time
            entry.mode = 0o755 if path.is_dir() or inside in executable or path.suffix == ".sh" else 0o644
            if not path.is_file():
                archive.addfile(entry)
                continue
            with open(path, "rb") as content:
                archive.addfile(entry, content)
            done += entry.size
            progress.update(done)
    os.replace(partial, tarball)


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    summed = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            summed.update(chunk)
    return summed.hexdigest()


def write_sums(folder: Path, version: str) -> None:
    """SHA256SUMS of all tarballs of this version: the one for CPUs and the one for GPUs are built one after the other."""
    tarballs = sorted(folder.glob(f"brigade-{version}-*.tar.gz"))
    text = "".join(f"{digest(path)}  {path.name}\n" for path in tarballs)
    (folder / "SHA256SUMS").write_text(text)


def said(program: Path) -> "dict[str, str]":
    """What `brigade --version` says."""
    first, *rest = ask(program, "--version").splitlines()
    return {"version": first.split()[-1], **dict(line.split(": ", 1) for line in rest)}


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Pack a release.")
    parser.add_argument("target", type=Path, help="Cargo's target folder")
    inside = parser.add_mutually_exclusive_group()
    inside.add_argument("--with-libtorch", action="store_true", help="pack libtorch, also that for CUDA")
    inside.add_argument("--without-libtorch", action="store_true", help="leave it out, also that for CPUs")
    arguments = parser.parse_args()
    program = arguments.target.absolute() / "release" / "brigade"
    if not program.is_file():
        raise common.SetupError(f"{program} is not there: `make dist` builds it")
    about = said(program)
    cuda = ", CUDA" in about["libtorch"]
    bundled = arguments.with_libtorch or not (cuda or arguments.without_libtorch)
    shared = (everything if cuda else libraries)(program) if bundled else {}
    name = f"brigade-{about['version']}-x86_64-linux" + ("-cuda" if cuda else "")
    if about["libtorch"].startswith("without"):
        name += "-no-torch"
    elif bundled == cuda:  # what is not the rule for its kind is in the name
        name += "-libtorch" if bundled else "-bare"
    folder = program.parent.parent / "dist"
    stage = folder / name
    shutil.rmtree(stage, ignore_errors=True)
    fill(stage, program, shared)
    tarball = folder / f"{name}.tar.gz"
    pack(stage, tarball, commit_time())
    shutil.rmtree(stage)
    write_sums(folder, about["version"])
    dirty = "; not of a commit: there are changes" if about["commit"].endswith("-dirty") else ""
    print(f"{tarball}: {tarball.stat().st_size / 1e6:.1f} MB, commit {about['commit']}{dirty}")
    return 0


if __name__ == "__main__":
    sys.exit(common.run("dist", main))
