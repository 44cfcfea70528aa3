"""The wheels that Brigade's libtorch is made of, pinned by SHA-256.

libtorch comes out of the wheels that PyTorch publishes for Python 3.11. No Python of that version is needed: the
wheels are only unpacked. Sizes are bytes of the wheel file and feed the progress bar and the check for room.
"""

from typing import NamedTuple

TORCH = "2.11.0"

# Raise it when the unpacked layout changes, so that older unpacked copies are replaced.
LAYOUT = 2


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

# What libtorch_cuda.so loads, in the versions that the torch wheel asks for.
_CUDA = _BASE + (
    Wheel("nvidia-cublas", "13.1.0.3", "manylinux_2_27_x86_64", 423133236,
          "ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171"),
    Wheel("nvidia-cuda-nvrtc", "13.0.88", "manylinux2010_x86_64", 90215200,
          "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575"),
    Wheel("nvidia-cudnn-cu13", "9.19.0.56", "manylinux_2_27_x86_64", 366066321,
          "d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf"),
    Wheel("nvidia-cufft", "12.0.0.61", "manylinux2014_x86_64", 214085489,
          "6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3"),
    Wheel("nvidia-cufile", "1.15.1.6", "manylinux2014_x86_64", 1223672,
          "08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44"),
    Wheel("nvidia-curand", "10.4.0.35", "manylinux_2_27_x86_64", 59544258,
          "1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc"),
    Wheel("nvidia-cusolver", "12.0.4.66", "manylinux_2_27_x86_64", 200941980,
          "0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112"),
    Wheel("nvidia-cusparse", "12.6.3.3", "manylinux2014_x86_64", 145942937,
          "2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b"),
    Wheel("nvidia-cusparselt-cu13", "0.8.0", "manylinux2014_x86_64", 169884119,
          "25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd"),
    Wheel("nvidia-nccl-cu13", "2.28.9", "manylinux_2_18_x86_64", 196493177,
          "e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42"),
    Wheel("nvidia-nvjitlink", "13.0.88", "manylinux2010_x86_64", 40713933,
          "13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b"),
    Wheel("nvidia-nvshmem-cu13", "3.4.5", "manylinux2014_x86_64", 60412546,
          "290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80"),
    Wheel("nvidia-nvtx", "13.0.85", "manylinux1_x86_64", 148047,
          "4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4"),
    # Headers alone: no library needs these two, the C++ shim does.
    Wheel("nvidia-cuda-cccl", "13.0.85", "manylinux2014_x86_64", 3120526,
          "e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649"),
    Wheel("nvidia-cuda-crt", "13.0.88", "manylinux2014_x86_64", 134086,
          "2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4"),
)

CPU = Variant("cpu", f"libtorch-{TORCH}-cpu", _BASE, 520_000_000)
CUDA = Variant("cuda", f"libtorch-{TORCH}-cuda", _CUDA, 3_860_000_000)
