#!/usr/bin/env python3
"""Decode an update file or a delta file, written from docs/update-format.md alone.

LAYOUT is JSON, a list of [name, shape] pairs in order. OUT.npz gets a float32 array per tensor, zero where nothing was
kept; stdout gets the header, a line of JSON. A file that breaks a rule gives a line on stderr and exit code 1. Not
checked: the bounds of §6, and the header's fields that only the caller can know, as run, window and peer.
"""
import argparse
import hashlib
import json
import struct
import sys

import numpy as np

CHUNKS_IN_SECTION, TILE, RUN, WIDEST_TILED, LANES, LANE_END = 1024, 64, 4096, 65536, 16, 1 << 32
SCALE_ZERO, SCALE_IN_FULL, LAST_SCALE_CODE, ESCAPE_UNITS = 14, 15, 2048, 31
KINDS = {b"BRIGUPD\x01": "update", b"BRIGDEL\x01": "delta"}
# By bits, because 2 ** (i / 16) need not be the same number in every mathematics library.
MANTISSAS = np.frombuffer(bytes.fromhex(
    "3f800000 3f85aac3 3f8b95c2 3f91c3d3 3f9837f0 3f9ef532 3fa5fed7 3fad583f 3fb504f3 3fbd08a4 3fc5672a 3fce248c"
    "3fd744fd 3fe0ccdf 3feac0c7 3ff5257d"), ">u4").astype(np.uint32).view(np.float32)
# A symbol that owns every slot leaves x as it is, so reading its raw bits is reading bits alone.
ALL_SLOTS = [(0, 4096, slot) for slot in range(4096)]

def require(kept, rule):
    if not kept:
        raise ValueError(rule)

def read_layout(path):
    """The (name, shape) pairs and their digest (§1)."""
    with open(path, encoding="utf-8") as file:
        layout = [(name, tuple(shape)) for name, shape in json.load(file)]
    require(len(dict(layout)) == len(layout) <= 1 << 20, "layout: a name twice, or more than 2^20 tensors")
    digest = hashlib.sha256(b"brigade layout v1\n" + struct.pack("<I", len(layout)))
    for name, shape in layout:
        encoded, dimensions = name.encode(), len(shape)
        require(1 <= len(encoded) <= 4096, "layout: a name is not 1 to 4096 bytes")
        require(dimensions <= 8 and all(type(size) is int and size > 0 for size in shape), f"layout: {name}: shape")
        digest.update(struct.pack("<I", len(encoded)) + encoded + struct.pack(f"<I{dimensions}Q", dimensions, *shape))
    return layout, digest.digest()

def cut_into_rows(tensor):
    """The chunks of a tensor by rows of tiles; a run is a row of its own. A chunk is (flat, first, width, stride,
    length): its position p is element first + (p // width) * stride + p % width of the flat tensor."""
    flat = tensor.reshape(-1)
    if tensor.ndim == 2 and tensor.shape[1] <= WIDEST_TILED:
        rows, columns = tensor.shape
        widths = [(left, min(TILE, columns - left)) for left in range(0, columns, TILE)]
        return [[(flat, top * columns + left, width, columns, width * min(TILE, rows - top)) for left, width in widths]
                for top in range(0, rows, TILE)]
    return [[(flat, first, RUN, RUN, min(RUN, flat.size - first))] for first in range(0, flat.size, RUN)]

def form_sections(tensors):
    """A list of chunks for each section; the last of the list is the open one."""
    sections = [[]]
    for rows in map(cut_into_rows, tensors):
        chunks = [chunk for row in rows for chunk in row]
        if len(sections[-1]) + len(chunks) > CHUNKS_IN_SECTION:
            whole_rows = CHUNKS_IN_SECTION // len(rows[0]) * len(rows[0])
            while len(chunks) > CHUNKS_IN_SECTION:
                sections.append(chunks[:whole_rows])
                chunks = chunks[whole_rows:]
            sections.append([])
        sections[-1].extend(chunks)
    return [section for section in sections if section]

class SectionReader:
    """The preamble of a section, then its entropy-coded stream (§4)."""
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, form):
        start, self.at = self.at, self.at + struct.calcsize(form)
        require(self.at <= len(self.data), "it ends within its preamble or its lanes")
        return struct.unpack_from(form, self.data, start)

    def take_table(self, name, most_symbols):
        """A table (§4.1) as (symbol, share, slot - start) for each of the 4096 slots."""
        (last,), slots = self.take("<B"), []
        require(last < most_symbols, f"table of {name}: more than {most_symbols} symbols")
        for symbol in range(last + 1):
            (share,) = self.take("<B")
            if share >= 128:
                (high,) = self.take("<B")
                require(high > 0, f"table of {name}: a share below 128 is written as two bytes")
                share += 128 * high - 128
            slots += [(symbol, share, offset) for offset in range(share)]
        require(len(slots) == 4096 and share > 0, f"table of {name}: shares do not add up to 4096, or the last is 0")
        return slots

    def open_stream(self):
        self.lanes = list(self.take(f"<{LANES}Q"))
        require(min(self.lanes) >= LANE_END, "stream: a lane starts below 2^32")
        require((len(self.data) - self.at) % 4 == 0, "stream: not a whole number of words")
        self.words = struct.iter_unpack("<I", self.data[self.at:])

    def symbol(self, lane, table, raw_bits):
        raw, x = self.lanes[lane] & (1 << raw_bits) - 1, self.lanes[lane] >> raw_bits
        symbol, share, offset = table[x & 4095]
        x = share * (x >> 12) + offset
        if x < LANE_END:
            word = next(self.words, None)
            require(word is not None, "stream: it ends before a word is needed")
            x = x << 32 | word[0]
        self.lanes[lane] = x
        return symbol, raw

    def bits(self, lane, count):
        return self.symbol(lane, ALL_SLOTS, count)[1]

def decode_section(data, chunks, top_k, levels):
    """Writes the values of one section (§3) into its chunks and returns how many there are."""
    reader, kept, code = SectionReader(data), 0, 0
    step, low = reader.take("<HB")
    require(1 <= step <= 4096 if levels > 1 else step == 0, "step: not 1 to 4096, or not 0 for one level")
    require(low <= 7, "low: above 7")
    if top_k == 0:
        count_min, count_max = reader.take("<HH")
        require(1 <= count_min <= count_max <= 4096 or count_min == count_max == 0, "counts: not 1 to 4096, nor both 0")
    scale_table, value_table = reader.take_table("scales", 16), reader.take_table("values", 32 * levels)
    reader.open_stream()
    ratios = (256 + np.arange(levels) * step).astype(np.float32) / np.float32(256)
    for number, (flat, first, width, stride, length) in enumerate(chunks):
        symbol, _ = reader.symbol(0, scale_table, 0)
        if symbol == SCALE_ZERO:
            continue
        difference = -(symbol + 1) // 2 if symbol % 2 else symbol // 2
        code = reader.bits(0, 12) + 1 if symbol == SCALE_IN_FULL else code + difference
        require(1 <= code <= LAST_SCALE_CODE, f"scale: the code of chunk {number} is {code}, not 1 to 2048")
        count = (top_k * length + 4095) // 4096
        if top_k == 0:
            count = count_min + reader.bits(0, (count_max - count_min).bit_length())
            require(count <= count_max, f"count: chunk {number} has {count} values, more than count_max")
        require(1 <= count <= length, f"count: chunk {number} of length {length} has {count} values")
        position, positions, signed_levels = -1, [], []
        for lane in (value % LANES for value in range(count)):
            symbol, raw = reader.symbol(lane, value_table, low + 1)
            units, level = divmod(symbol, levels)
            if units == ESCAPE_UNITS:
                units += reader.bits(lane, 12 - low)
            position += 1 + (units << low) + (raw >> 1)
            require(position < length, f"position: a value of chunk {number} lies behind its end")
            positions.append(position)
            signed_levels.append(level + levels if raw & 1 else level)
        magnitudes = ratios * np.ldexp(MANTISSAS[(code - 1) % 16], (code - 1) // 16 - 96)
        row, column = np.divmod(positions, width)
        flat[first + row * stride + column] = np.concatenate([magnitudes, -magnitudes])[signed_levels]
        kept += count
    ended = set(reader.lanes) == {LANE_END} and next(reader.words, None) is None
    require(ended, "stream: a lane does not end at 2^32, or a word is left")
    return kept

def decode(data, layout, layout_digest):
    """The tensors by name and the header, as it is printed (§2)."""
    kind, kept = KINDS.get(data[:8]), 0
    require(kind, "header: another magic or version")
    tensors = {name: np.zeros(shape, np.float32) for name, shape in layout}
    sections = form_sections(tensors.values())
    hashed, at = 161 + 36 * len(sections), 193 + 36 * len(sections)
    require(len(sections) <= 1 << 20, "layout: more than 2^20 sections")
    require(len(data) >= at, "header: the file ends within it")
    require(data[8:12] == struct.pack("<I", hashed - 12), "header: its length is not the one for this layout")
    require(hashlib.sha256(data[:hashed]).digest() == data[hashed:at], "header: its SHA-256 differs")
    run, window, peer, start, digest, top_k, bits, count = struct.unpack_from("<32sQ32s32s32sIBQ", data, 12)
    require(digest == layout_digest, "header: the layout digest differs")
    require(count == len(sections), "header: the number of sections is not the one for this layout")
    require(1 <= bits <= 4, "header: bits is not 1 to 4")
    require(int(kind == "update") <= top_k <= 4096, "header: top_k is not 1 to 4096, or 0 in a delta")
    require(kind == "update" or peer == bytes(32), "header: a delta names a peer")
    for number, chunks in enumerate(sections):
        length, sha256 = struct.unpack_from("<I32s", data, 161 + 36 * number)
        body, at = data[at:at + length], at + length
        try:
            require(at <= len(data), "the file ends within it")
            require(hashlib.sha256(body).digest() == sha256, "its SHA-256 differs")
            kept += decode_section(body, chunks, top_k, 1 << bits - 1)
        except ValueError as broken:
            raise ValueError(f"section {number}: {broken}") from None
    require(at == len(data), "file: bytes are left after the last section")
    return tensors, {"kind": kind, "run": run.hex(), "window": window, "peer": peer.hex(),
                     "start_state_root": start.hex(), "top_k": top_k, "bits": bits, "sections": count, "kept": kept}

def main():
    parser = argparse.ArgumentParser(description="Decode an update file or a delta file.")
    for name in ("FILE", "LAYOUT", "OUT"):
        parser.add_argument(name)
    paths = parser.parse_args()
    try:
        layout, layout_digest = read_layout(paths.LAYOUT)
        with open(paths.FILE, "rb") as file:
            tensors, header = decode(file.read(), layout, layout_digest)
        with open(paths.OUT, "wb") as out:
            np.savez(out, **tensors)
    except (OSError, ValueError, TypeError, AttributeError, MemoryError, struct.error) as error:
        sys.exit(f"{type(error).__name__ + ': ' if type(error) is not ValueError else ''}{error}")
    print(json.dumps(header))

if __name__ == "__main__":
    main()
