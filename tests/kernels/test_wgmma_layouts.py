"""Operands of wgmma in shared memory (wgmma_layout.cuh), with 128 rows, a depth of 64 and 16-bit numbers. The expected
layouts are written out by hand from the PTX ISA's figures and CUTLASS's canonical layouts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from gpuconv import asarray, to_numpy
from gpuconv.backends.cuda.runtime.kernel import load

ROWS, DEPTH, START = 128, 64, 1024
KERNELS = Path(__file__).with_name("wgmma_layouts.cu")

# An atom's eight lines: which 16-byte chunk of the line lies at each position.
ATOMS = {
    128: ("01234567", "10325476", "23016745", "32107654", "45670123", "54761032", "67452301", "76543210"),
    64: ("0123", "0123", "1032", "1032", "2301", "2301", "3210", "3210"),
    32: ("01", "01", "01", "01", "10", "10", "10", "10"),
    16: ("0", "0", "0", "0", "0", "0", "0", "0"),
}


@dataclass(frozen=True)
class Expected:
    """A layout, computed by hand.

    width: the bytes of an atom's line. rows, depth: what one atom covers. next_rows, next_depth: bytes from an atom to
    the next one down the rows and along the depth. points: the offsets of some elements (row, k). descriptor: of the
    whole operand at address 1024. steps: the bytes from the operand's start to k = 0, 16, 32 and 48. second_half: the
    bytes from row 0 to row 64.
    """

    k_major: bool
    width: int
    rows: int
    depth: int
    next_rows: int
    next_depth: int
    points: dict[tuple[int, int], int]
    descriptor: int
    steps: tuple[int, int, int, int]
    second_half: int


LAYOUTS = {
    "K-128": Expected(
        k_major=True,
        width=128,
        rows=8,
        depth=64,
        next_rows=1024,
        next_depth=16384,
        points={
            (0, 0): 0,
            (0, 9): 18,
            (1, 0): 144,
            (1, 8): 128,
            (7, 63): 910,
            (8, 0): 1024,
            (13, 25): 1024 + 640 + 96 + 2,
        },
        descriptor=0x4000_0040_0001_0040,
        steps=(0, 32, 64, 96),
        second_half=8192,
    ),
    "K-64": Expected(
        k_major=True,
        width=64,
        rows=8,
        depth=32,
        next_rows=512,
        next_depth=8192,
        points={
            (0, 0): 0,
            (0, 9): 18,
            (1, 8): 80,
            (2, 0): 144,
            (7, 31): 462,
            (8, 0): 512,
            (0, 32): 8192,
            (13, 57): 8192 + 512 + 320 + 18,
        },
        descriptor=0x8000_0020_0001_0040,
        steps=(0, 32, 8192, 8224),
        second_half=4096,
    ),
    "K-32": Expected(
        k_major=True,
        width=32,
        rows=8,
        depth=16,
        next_rows=256,
        next_depth=4096,
        points={
            (0, 0): 0,
            (0, 9): 18,
            (3, 8): 112,
            (4, 0): 144,
            (7, 15): 238,
            (8, 0): 256,
            (0, 16): 4096,
            (13, 57): 12288 + 256 + 160 + 2,
        },
        descriptor=0xC000_0010_0001_0040,
        steps=(0, 4096, 8192, 12288),
        second_half=2048,
    ),
    "K-none": Expected(
        k_major=True,
        width=16,
        rows=8,
        depth=8,
        next_rows=128,
        next_depth=2048,
        points={(0, 0): 0, (0, 9): 2050, (1, 0): 16, (7, 7): 126, (8, 0): 128, (13, 57): 14336 + 128 + 80 + 2},
        descriptor=0x0000_0008_0080_0040,
        steps=(0, 4096, 8192, 12288),
        second_half=1024,
    ),
    "MN-128": Expected(
        k_major=False,
        width=128,
        rows=64,
        depth=8,
        next_rows=8192,
        next_depth=1024,
        points={
            (0, 0): 0,
            (9, 0): 18,
            (0, 1): 144,
            (8, 1): 128,
            (63, 7): 910,
            (0, 8): 1024,
            (64, 0): 8192,
            (77, 21): 8192 + 2048 + 640 + 74,
        },
        descriptor=0x4000_0040_0200_0040,
        steps=(0, 2048, 4096, 6144),
        second_half=8192,
    ),
    "MN-64": Expected(
        k_major=False,
        width=64,
        rows=32,
        depth=8,
        next_rows=4096,
        next_depth=512,
        points={
            (0, 0): 0,
            (9, 0): 18,
            (8, 1): 80,
            (0, 2): 144,
            (31, 7): 462,
            (0, 8): 512,
            (32, 0): 4096,
            (77, 21): 8192 + 1024 + 320 + 58,
        },
        descriptor=0x8000_0020_0100_0040,
        steps=(0, 1024, 2048, 3072),
        second_half=8192,
    ),
    "MN-32": Expected(
        k_major=False,
        width=32,
        rows=16,
        depth=8,
        next_rows=2048,
        next_depth=256,
        points={
            (0, 0): 0,
            (9, 0): 18,
            (8, 3): 112,
            (0, 4): 144,
            (15, 7): 238,
            (0, 8): 256,
            (16, 0): 2048,
            (77, 21): 8192 + 512 + 160 + 10,
        },
        descriptor=0xC000_0010_0080_0040,
        steps=(0, 512, 1024, 1536),
        second_half=8192,
    ),
    "MN-none": Expected(
        k_major=False,
        width=16,
        rows=8,
        depth=8,
        next_rows=1024,
        next_depth=128,
        points={(0, 0): 0, (9, 0): 1026, (0, 1): 16, (7, 7): 126, (0, 8): 128, (77, 21): 9216 + 256 + 80 + 10},
        descriptor=0x0000_0040_0008_0040,
        steps=(0, 256, 512, 768),
        second_half=8192,
    ),
}


def offsets_by_hand(layout: Expected) -> np.ndarray:
    """The offset of every element, read off the picture of the atom."""
    offsets = np.full((ROWS, DEPTH), -1)
    for line, chunks in enumerate(ATOMS[layout.width]):
        for position, chunk in enumerate(chunks):
            for i in range(8):
                across, offset = int(chunk) * 8 + i, line * layout.width + position * 16 + i * 2
                row, k = (line, across) if layout.k_major else (across, line)
                for down in range(ROWS // layout.rows):
                    for along in range(DEPTH // layout.depth):
                        at = down * layout.rows + row, along * layout.depth + k
                        offsets[at] = offset + down * layout.next_rows + along * layout.next_depth
    return offsets


@pytest.fixture
def layouts(device):
    """The kernel's offsets, the addresses that descriptors give, and the descriptors, each by the layout's name."""
    shapes = dict(offsets=(8, ROWS, DEPTH), addresses=(8, ROWS, DEPTH), descriptors=(8, 2, DEPTH // 16))
    dtypes = dict(offsets=np.uint32, addresses=np.uint32, descriptors=np.uint64)
    arrays = {name: asarray(np.zeros(shape, dtypes[name]), device) for name, shape in shapes.items()}
    load(KERNELS).kernel("layouts")(1, ROWS, *arrays.values())
    return {name: dict(zip(LAYOUTS, to_numpy(array))) for name, array in arrays.items()}


def test_every_atom_lies_as_the_documentation_draws_it(layouts):
    for name, layout in LAYOUTS.items():
        offsets = layouts["offsets"][name]
        np.testing.assert_array_equal(offsets, offsets_by_hand(layout), name)
        assert {at: offsets[at] for at in layout.points} == layout.points, name
        assert sorted(offsets.flat) == list(range(0, ROWS * DEPTH * 2, 2)), name


def test_descriptors_have_the_documented_bits(layouts):
    for name, layout in LAYOUTS.items():
        for half, second in enumerate((0, layout.second_half)):
            expected = [layout.descriptor + (second + step) // 16 for step in layout.steps]
            assert [hex(bits) for bits in layouts["descriptors"][name][half]] == [hex(bits) for bits in expected], name


def test_descriptors_lead_to_every_element(layouts):
    for name in LAYOUTS:
        np.testing.assert_array_equal(layouts["addresses"][name], START + layouts["offsets"][name], name)


def test_a_descriptors_fields_equal_those_computed_by_hand(device):
    """The fields are start, leading, stride, base offset and swizzle, and whether the descriptor is aligned as K-major,
    and as MN-major."""
    cases = {
        0x4000_0040_0001_0040: (0x400, 16, 1024, 0, 1, True, True),
        0x4000_0040_0001_0046: (0x460, 16, 1024, 0, 1, True, False),  # the last 16 values of k in a panel
        0x4000_0040_0001_0047: (0x470, 16, 1024, 0, 1, False, False),  # its 16 values of k reach past the panel
        0x4000_0040_0001_0048: (0x480, 16, 1024, 0, 1, False, False),  # in the second line of an atom
        0x4002_0040_0001_0040: (0x400, 16, 1024, 1, 1, False, False),
        0x8000_0020_0100_0060: (0x600, 4096, 512, 0, 2, True, True),
        0x8000_0020_0100_0064: (0x640, 4096, 512, 0, 2, False, False),
        0xC000_0010_0080_0010: (0x100, 2048, 256, 0, 3, True, True),
        0xC000_0010_0080_0012: (0x120, 2048, 256, 0, 3, False, False),
        0x0000_0008_0080_0041: (0x410, 2048, 128, 0, 0, True, True),
        0xC00E_3FFF_3FFF_3FFF: (0x3FFF0, 0x3FFF0, 0x3FFF0, 7, 3, False, False),
    }
    fields = asarray(np.zeros((len(cases), 7), np.uint32), device)
    encoded_again = asarray(np.zeros(len(cases), np.uint64), device)
    load(KERNELS).kernel("decode")(1, len(cases), fields, encoded_again, asarray(np.array([*cases], np.uint64), device))
    assert [tuple(row) for row in to_numpy(fields).tolist()] == [*cases.values()]
    assert to_numpy(encoded_again).tolist() == [*cases]
