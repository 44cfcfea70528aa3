"""Changes where a program looks for its shared libraries, without a tool that has to be installed.

The path lies in the program's table of strings, and a shorter one fits into its place. ELF for 64 bits, little-endian, as in
System V's ABI (gABI, chapters 4 and 5).
"""

import struct
from pathlib import Path

import common

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_STRTAB, DT_RPATH, DT_RUNPATH = 0, 5, 15, 29


def _segments(content: bytearray) -> "list[tuple[int, int, int, int]]":
    """Type, place in the file, address and length in the file of each segment."""
    if content[:6] != b"\x7fELF\x02\x01":
        raise common.SetupError("not a program for 64 bits, little-endian; only such ones are packed")
    (start,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    segments = []
    for number in range(count):
        kind, _, place, address, _, length = struct.unpack_from("<IIQQQQ", content, start + number * size)
        segments.append((kind, place, address, length))
    return segments


def _string(content: bytearray) -> int:
    """Where in the file the path stands."""
    segments = _segments(content)
    entries = {}
    for kind, place, _, length in segments:
        if kind == PT_DYNAMIC:
            for at in range(place, place + length, 16):
                tag, value = struct.unpack_from("<QQ", content, at)
                if tag == DT_NULL:
                    break
                entries[tag] = value
    offset = entries.get(DT_RUNPATH, entries.get(DT_RPATH))
    if offset is None or DT_STRTAB not in entries:
        raise common.SetupError("the program has no path for its libraries; is it one that Cargo linked here?")
    wanted = entries[DT_STRTAB] + offset
    for kind, place, address, length in segments:
        if kind == PT_LOAD and address <= wanted < address + length:
            return place + wanted - address
    raise common.SetupError("the program's table of strings is in none of its segments; build it again")


def runpath(program: Path) -> str:
    """Where `program` looks for its libraries."""
    content = bytearray(program.read_bytes())
    at = _string(content)
    return content[at:content.index(0, at)].decode()


def set_runpath(program: Path, path: str) -> None:
    """Lets `program` look in `path`."""
    content = bytearray(program.read_bytes())
    at = _string(content)
    room = content.index(0, at) - at
    new = path.encode()
    if len(new) > room:
        raise common.SetupError(
            f"libtorch's folder has too short a name for the program to be moved: {len(new)} characters at least; set "
            "BRIGADE_CACHE to a longer path, and build again"
        )
    content[at:at + room] = new + bytes(room - len(new))
    program.write_bytes(content)
