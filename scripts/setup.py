#!/usr/bin/env python3
"""Fetches libtorch and links it into the clone as `.libtorch`.

    python3 scripts/setup.py [--cpu | --cuda]

The wheels are downloaded with pip into a cache outside the clone, checked against pinned SHA-256 sums, unpacked as
far as a C++ build needs them, and removed. A second call finds the folder and returns at once. With neither flag a
`.libtorch` that already works is kept, whichever flavour it is; else the CPU flavour is set up.

Needs Python 3.9 or later and pip; nothing else.
"""

import argparse
import contextlib
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import common
import pins
from licences import TEXTS
from progress import Progress

CLONE = Path(__file__).resolve().parent.parent
LINK = CLONE / ".libtorch"

# What the CPU flavour takes out of its wheels' library folders; the CUDA flavour takes all but PYTHON_ONLY.
CPU_LIBRARIES = {"libtorch_cpu.so", "libc10.so", "libgomp.so.1", "libcudart.so.13", "libcupti.so.13"}
PYTHON_ONLY = {"libtorch_python.so", "libshm.so"}


def check_platform() -> None:
    """Refuses machines for which PyTorch publishes no such wheel."""
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in ("x86_64", "AMD64"):
        raise common.SetupError(
            f"libtorch is fetched for Linux on x86-64 only, and this is {sys.platform} on {machine}; install libtorch "
            f"{pins.TORCH} yourself and export LIBTORCH=<its folder>"
        )
    libc, version = platform.libc_ver()
    if libc != "glibc" or tuple(int(part) for part in version.split(".")[:2]) < (2, 28):
        raise common.SetupError(
            f"libtorch needs glibc 2.28 or later and this system has {libc or 'another libc'} {version}"
        )


def room_needed(variant: pins.Variant) -> int:
    """Bytes at the worst moment: all that is unpacked, and the largest wheel beside it."""
    return variant.unpacked + max(wheel.size for wheel in variant.wheels)


def check_room(variant: pins.Variant, folder: Path) -> None:
    """Refuses before the download what would fail after it."""
    need, free = room_needed(variant), shutil.disk_usage(folder).free
    if free < need:
        raise common.SetupError(
            f"{folder} has {free / 1e9:.1f} GB free and {need / 1e9:.1f} GB are needed; free some space, or set "
            "BRIGADE_CACHE to a folder on a larger disk"
        )


def bytes_under(folder: Path) -> int:
    """The size of all files in a folder that another process is writing to."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # it may be renamed between the walk and the stat
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def download(pip: "list[str]", wheel: pins.Wheel, folder: Path, label: str) -> Path:
    """Fetches one wheel into `folder`, which must be empty; pip checks its SHA-256."""
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    command = [
        *pip, "download", "--quiet", "--disable-pip-version-check", "--progress-bar", "off", "--no-input",
        # pip would keep a second copy of half a gigabyte in its own cache.
        "--no-cache-dir",
        "--no-deps", "--only-binary=:all:", "--require-hashes",
        # Named, so that every host fetches the very file whose sum is pinned, whatever its own Python is.
        "--python-version", "3.11", "--implementation", "cp", "--platform", wheel.platform,
        "--dest", str(folder), "--requirement", str(wanted),
    ]
    # pip downloads into TMPDIR first, and /tmp is often a small memory disk.
    environment = {**os.environ, "TMPDIR": str(folder)}
    # In memory: on a full disk a file could not even hold the reason.
    with Progress(label, wheel.size) as progress, open(os.memfd_create("pip"), "w+", errors="replace") as errors:
        child = subprocess.Popen(command, env=environment, stdout=errors, stderr=errors)
        try:
            while child.poll() is None:
                progress.update(bytes_under(folder))
                time.sleep(0.1)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        errors.seek(0)
        files = list(folder.glob("*.whl"))
        if child.returncode != 0 or len(files) != 1:
            raise common.SetupError(f"cannot fetch {wheel.name} {wheel.version}: {common.explain(errors.read())}")
        progress.update(wheel.size)
    return files[0]


def destination(member: str, variant: pins.Variant) -> "str | None":
    """Where a wheel's member goes in the unpacked folder, or `None` if it is not needed."""
    parts = member.split("/")
    if member.endswith("/") or ".." in parts:
        return None
    name = parts[-1]
    if parts[0].endswith(".dist-info") and ("licenses" in parts[1:-1] or TEXTS.match(name)):
        inside = parts[2:] if parts[1] == "licenses" else parts[1:]
        return "/".join(["licenses", parts[0][: -len(".dist-info")], *inside])
    in_lib = parts[-2:-1] == ["lib"] and ".so" in name
    if variant is pins.CPU:
        if parts[:2] == ["torch", "include"]:
            return "/".join(parts[1:])
        return f"lib/{name}" if in_lib and name in CPU_LIBRARIES else None
    # CUDA: all libraries lie in one folder, because each looks for the others beside itself ($ORIGIN).
    if parts[:2] == ["torch", "include"]:
        return "/".join(parts[1:])
    if parts[0] == "nvidia" and "include" in parts[:3]:
        return "cuda/" + "/".join(parts[2:])
    return f"lib/{name}" if in_lib and name not in PYTHON_ONLY else None


def unpack(wheel: Path, variant: pins.Variant, folder: Path, label: str) -> None:
    """Copies what is needed out of a wheel into `folder`."""
    with zipfile.ZipFile(wheel) as archive:
        wanted = [(info, destination(info.filename, variant)) for info in archive.infolist()]
        wanted = [(info, to) for info, to in wanted if to]
        with Progress(label, sum(info.file_size for info, _ in wanted)) as progress:
            done = 0
            for info, to in wanted:
                target = folder / to
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, open(target, "wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                done += info.file_size
                progress.update(done)


def finish(variant: pins.Variant, folder: Path) -> None:
    """Adds what the linker and torch-sys look for and the wheels lack."""
    lib = folder / "lib"
    if variant is pins.CPU:
        # Linker scripts. The wheel's own libtorch.so would pull in CUDA; and torch-sys, once built against the CUDA
        # flavour, goes on to name torch_cuda after a switch back, because Cargo sees no reason to build it again.
        for name in ("libtorch.so", "libtorch_cuda.so"):
            (lib / name).write_text("INPUT(-ltorch_cpu)\n")
    for versioned in sorted(lib.glob("*.so.*")):
        plain = lib / (versioned.name.split(".so.")[0] + ".so")
        if not plain.exists():
            plain.symlink_to(versioned.name)
    (folder / "build-version").write_text(pins.TORCH + "\n")
    (folder / "wheels.txt").write_text(variant.stamp())


def is_complete(variant: pins.Variant, folder: Path) -> bool:
    """Whether `folder` holds exactly this variant. `wheels.txt` is written last, and the folder then renamed."""
    try:
        return (folder / "wheels.txt").read_text() == variant.stamp()
    except OSError:
        return False


def build(variant: pins.Variant, cache: Path) -> Path:
    """Makes sure that the variant lies in the cache, and returns its folder."""
    folder = cache / variant.folder
    if is_complete(variant, folder):
        return folder
    with common.locked(cache):
        if is_complete(variant, folder):
            return folder
        check_platform()
        pip = common.find_pip()
        partial = cache / f".partial-{variant.folder}"
        shutil.rmtree(partial, ignore_errors=True)  # left by a setup that was killed
        check_room(variant, cache)
        try:
            for number, wheel in enumerate(variant.wheels, 1):
                step = f"[{number}/{len(variant.wheels)}]"
                downloads = partial / "download"
                downloads.mkdir(parents=True)
                file = download(pip, wheel, downloads, f"{step} fetch  {wheel.name} {wheel.version}")
                unpack(file, variant, partial / "out", f"{step} unpack {wheel.name} {wheel.version}")
                shutil.rmtree(downloads)
            finish(variant, partial / "out")
            if folder.exists():
                os.replace(folder, partial / "old")
            os.replace(partial / "out", folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def link(folder: Path) -> None:
    """Points the clone's `.libtorch` at `folder`, in one step."""
    if LINK.is_symlink() and LINK.resolve() == folder.resolve():
        return
    if LINK.exists() and not LINK.is_symlink():
        raise common.SetupError(f"{LINK} is not a link; move it away, or export LIBTORCH={LINK} to build with it")
    fresh = LINK.with_name(f".libtorch.{os.getpid()}")
    fresh.symlink_to(folder)
    os.replace(fresh, LINK)
    # Cargo compares this file's time with that of the last build, and so sees the switch between two flavours.
    os.utime(folder / "build-version")


def own_libtorch() -> bool:
    """Whether the user builds with a libtorch of their own, which Cargo's settings leave in force."""
    own = os.environ.get("LIBTORCH")
    if not own:
        return False
    if not (Path(own) / "lib" / "libtorch_cpu.so").exists():
        raise common.SetupError(f"LIBTORCH={own} has no lib/libtorch_cpu.so; unset it to let setup fetch libtorch")
    print(f"libtorch: LIBTORCH={own} is set, so nothing is fetched")
    return True


def linked() -> "pins.Variant | None":
    """The flavour that the clone is linked to, of this layout or an older one."""
    try:
        first = (LINK / "wheels.txt").read_text().split()[:1]
    except OSError:
        return None
    return next((variant for variant in (pins.CPU, pins.CUDA) if [variant.name] == first), None)


def choose(arguments: argparse.Namespace) -> "pins.Variant | None":
    """The variant to set up; `None` if what is linked now will do."""
    if arguments.cuda:
        return pins.CUDA
    if arguments.cpu:
        return pins.CPU
    variant = linked()
    return None if variant and is_complete(variant, LINK) else variant or pins.CPU


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Fetch libtorch and link it into the clone.")
    flavour = parser.add_mutually_exclusive_group()
    flavour.add_argument("--cpu", action="store_true", help="for a machine with no GPU (520 MB unpacked)")
    flavour.add_argument("--cuda", action="store_true", help="for NVIDIA GPUs (3.9 GB unpacked)")
    arguments = parser.parse_args()
    if own_libtorch():
        return 0
    variant = choose(arguments)
    if variant is None:
        return 0
    started = time.monotonic()
    folder = build(variant, common.cache_dir())
    link(folder)
    print(f"libtorch {pins.TORCH} ({variant.name}) is ready in {folder} ({time.monotonic() - started:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(common.run("setup", main))
