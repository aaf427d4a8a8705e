"""TIFF files written by hand, also in variants that Pillow does not write."""

import struct
from enum import IntEnum


class Tag(IntEnum):
    """The numbers of TIFF's tags."""

    WIDTH = 256
    HEIGHT = 257
    BITS_PER_SAMPLE = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    STRIP_OFFSETS = 273
    SAMPLES_PER_PIXEL = 277
    ROWS_PER_STRIP = 278
    STRIP_BYTE_COUNTS = 279
    TILE_WIDTH = 322
    TILE_HEIGHT = 323
    TILE_OFFSETS = 324
    TILE_BYTE_COUNTS = 325
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339


def tiff(path, data, *, bits, width, height=1, photometric=1, extra=(), order="<"):
    """Writes a TIFF file of one uncompressed strip; returns its path. extra: further tags and their values."""
    tags = {
        Tag.WIDTH: width,
        Tag.HEIGHT: height,
        Tag.BITS_PER_SAMPLE: bits,
        Tag.COMPRESSION: 1,
        Tag.PHOTOMETRIC: photometric,
        Tag.STRIP_OFFSETS: 8,
        Tag.SAMPLES_PER_PIXEL: 1,
        Tag.ROWS_PER_STRIP: height,
        Tag.STRIP_BYTE_COUNTS: len(data),
    } | dict(extra)
    fields = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    path.write_bytes(head + data + struct.pack(f"{order}H", len(tags)) + fields + bytes(4))
    return path


def packed_bits(values, bits):
    """Values of the given number of bits, packed one after another, the last byte padded with zeros."""
    text = "".join(f"{value:0{bits}b}" for value in values)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[start : start + 8], 2) for start in range(0, len(text), 8))
