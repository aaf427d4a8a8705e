"""Malicious files: whatever their bytes, they are read or refused quickly, with little memory, and without running
code."""

from __future__ import annotations

import pickle
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from gpuconv.images import image_file

Image = pytest.importorskip("PIL.Image")

pytestmark = pytest.mark.slow

READ_ALL = """
import resource, sys, time
from pathlib import Path
from gpuconv.data import cifar10
from gpuconv.images import image_file
{prepare}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = dict.fromkeys(("read", "refused"), 0)
for path in sorted(Path(sys.argv[1]).iterdir()):
    begun = time.monotonic()
    try:
        {read}
        count["read"] += 1
    except (ValueError, OSError) as error:
        assert str(path) in str(error) and len(str(error).splitlines()) == 1, (path, str(error))
        count["refused"] += 1
    assert time.monotonic() - begun < 20, path
print(count["read"], count["refused"], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def read_all(folder, read, prepare=""):
    """Reads all files of a folder in another process, which has at most 4 GB of memory and runs in that folder. Returns
    (files read, files refused, MB used)."""
    limit = (4 << 30, 4 << 30)
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL.format(read=read, prepare=prepare), str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, limit),
    )
    assert done.returncode == 0, done.stderr
    return tuple(map(int, done.stdout.split()))


def read_images(folder):
    return read_all(folder, "image_file.read_image(path)")


def changed(valid, random):
    """A copy with a few changed bytes, most of them in the first 100; one copy in ten is truncated."""
    copy = bytearray(valid)
    for _ in range(random.integers(1, 5)):
        position = random.integers(0, min(len(copy), 100 if random.random() < 0.7 else len(copy)))
        copy[position] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.integers(256)])
    if random.random() < 0.1:
        return bytes(copy[: random.integers(1, len(copy) + 1)])
    return bytes(copy)


@pytest.mark.parametrize("format", sorted({*image_file.FORMATS} - {"HEIF"}))
def test_images_with_changed_bytes_are_read_or_refused(tmp_path, format):
    if format not in image_file.readable_formats():
        pytest.skip(f"this Pillow reads no {format}")
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (24, 20, 3)).astype(np.uint8)
    for number in range(200):
        mode = ("RGB", "L", "1")[number % 3 if format in ("BMP", "PNG", "PPM", "TIFF") else 0]
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).convert(mode).save(path, format=format)
        path.write_bytes(changed(path.read_bytes(), random))
    read, refused, memory = read_images(tmp_path)
    assert read + refused == 200
    assert refused
    assert memory < 1200


def chunk(name, data):
    """A part of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, color, pixels=b""):
    """A PNG file of 8 bits per channel. color: PNG's type of color. pixels: the compressed rows."""
    header = struct.pack(">IIBBBBB", width, height, 8, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def zeros(count):
    """Zeros, compressed; their count is rounded down to whole MiB."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(count >> 20)) + packer.flush()


def gif(width, height, frame_width, frame_height):
    """A GIF file whose screen and only frame have these sizes."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return head + b"," + struct.pack("<HHHHB", 0, 0, frame_width, frame_height, 0) + b"\x02\x02\x44\x01\x00;"


def test_decompression_bombs_are_refused(tmp_path):
    """Small files that would become large pictures, or a small picture with a long text."""
    row, picture = 1 + 4 * 12_000, png(1, 1, 0, zlib.compress(bytes(2)))
    bombs = {
        "rgba": png(12_000, 12_000, 6, zeros(row * 12_000)),
        "wide": png(2**31 - 1, 1, 0),
        "gray": png(65_000, 65_000, 0),
        "gif-screen": gif(65_535, 65_535, 1, 1),
        "gif-frame": gif(1, 1, 65_535, 65_535),
        "bmp": b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
        "ppm": b"P6 60000 60000 255\n",
        "text": picture[:33] + chunk(b"zTXt", b"Comment\0\0" + zeros(1 << 28)) + picture[33:],
    }
    for name, content in bombs.items():
        assert len(content) < 1 << 20
        (tmp_path / f"{name}.png").write_bytes(content)
    _, refused, memory = read_images(tmp_path)
    assert refused == len(bombs)
    assert memory < 100


def test_the_largest_picture_is_read_in_bounded_memory(tmp_path):
    side = 8192
    assert side * side == image_file.MAX_PIXELS
    (tmp_path / "a.png").write_bytes(png(side, side, 6, zeros((1 + 4 * side) * side + (1 << 20))))
    read, _, memory = read_images(tmp_path)
    assert read == 1
    assert memory < 1400


def test_a_file_without_an_end_is_refused(tmp_path):
    """A sparse file of 4 GB."""
    with open(tmp_path / "a.png", "wb") as file:
        file.write(png(4, 4, 0)[:33] + struct.pack(">I", 2**31 - 1) + b"tEXt")
        file.truncate(4 << 30)
    assert read_images(tmp_path)[:2] == (0, 1)


def test_pickles_with_changed_bytes_are_read_or_refused(tmp_path):
    random = np.random.default_rng(2)
    pixels = random.integers(0, 256, (6, 3072)).astype(np.uint8)
    for number in range(1200):
        content = {b"data": pixels, b"labels": [1, 2, 3, 4, 5, 6], b"filenames": [b"a.png"] * 6}
        (tmp_path / f"{number}").write_bytes(changed(pickle.dumps(content, number % 6), random))
    read, refused, memory = read_all(tmp_path, "cifar10._read_python(path)", "cifar10.IMAGES_PER_FILE = 6")
    assert read + refused == 1200
    assert min(read, refused) > 100
    assert memory < 200


def test_pickles_of_random_opcodes_run_no_code(tmp_path):
    """Random opcodes with random arguments, mixed with names and values that an attacker would put on the stack."""
    random = np.random.default_rng(3)
    codes = [bytes([code]) for code in pickle._Unpickler.dispatch]
    pieces = [
        b"cos\nsystem\n",
        b"cbuiltins\neval\n",
        b"cnumpy\nndarray\n",
        b"cnumpy\ndtype\n",
        b"c_codecs\nencode\n",
        b"cnumpy._core.numeric\n_frombuffer\n",
        b"Vtouch ran\n",
        b"U\x02u1",
        b"K\x01",
        b"(",
        b")",
        b"}",
        b"]",
        b"t",
        b"R",
        b"b",
    ]
    for number in range(3000):
        parts = [(pieces if random.random() < 0.7 else codes) for _ in range(random.integers(2, 40))]
        stream = b"".join(choices[random.integers(len(choices))] for choices in parts)
        (tmp_path / f"{number}").write_bytes(b"\x80\x05" + stream + b".")
    (tmp_path / "attack").write_bytes(b"\x80\x05cos\nsystem\n(Vtouch ran\ntR.")  # os.system("touch ran")
    read, refused, memory = read_all(tmp_path, "cifar10._read_python(path)")
    assert (read, refused) == (0, 3001)
    assert memory < 200
    assert not list(tmp_path.glob("ran"))
