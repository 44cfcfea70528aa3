"""The wheels that Brigade's libtorch is made of, pinned by SHA-256.

libtorch comes out of the wheels that PyTorch publishes for Python 3.11. No Python of that version is needed: the
wheels are only unpacked. Sizes are bytes of the wheel file and feed the progress bar and the check for room.
"""

from typing import NamedTuple

TORCH = "2.11.0"

# Raise it when the unpacked layout changes, so that older unpacked copies are replaced.
LAYOUT = 1


class Wheel(NamedTuple):
    """One file of a package index."""

    name: str
    version: str
    platform: str
    size: int
    sha256: str


class Variant(NamedTuple):
    """One flavour of libtorch: its folder's name, its wheels, and the bytes it fills once unpacked."""

    name: str
    folder: str
    wheels: "tuple[Wheel, ...]"
    unpacked: int

    def stamp(self) -> str:
        """The text that a complete folder holds in its `wheels.txt`."""
        lines = [f"{self.name} layout {LAYOUT}"]
        lines += [f"{wheel.sha256}  {wheel.name}=={wheel.version}" for wheel in self.wheels]
        return "\n".join(lines) + "\n"


_BASE = (
    Wheel("torch", TORCH, "manylinux_2_28_x86_64", 530604548,
          "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a"),
    # libtorch_cpu.so does not load without these two, even where there is no GPU.
    Wheel("nvidia-cuda-runtime", "13.0.96", "manylinux2014_x86_64", 2243632,
          "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548"),
    Wheel("nvidia-cuda-cupti", "13.0.85", "manylinux_2_25_x86_64", 10715597,
          "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8"),
)

CPU = Variant("cpu", f"libtorch-{TORCH}-cpu", _BASE, 520_000_000)
CUDA = CPU
