"""Boxes of tensors, loaded and stored through a TensorMap: swizzles, padding, and refused maps. No GPU has run these
kernels."""

from pathlib import Path

import numpy as np
import pytest

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.emulator.tensor_map import tensor_map
from gpuconv.backends.cuda.runtime.kernel import load

FILE = Path(__file__).with_name("bulk_copies.cu")
SHAPE = (5, 6, 40)  # h, w, c


def box_of(box, at, swizzle=0, shift=0, **settings):
    """A numbered array, its box in shared memory after a load, and an array of zeros after the box was stored to it."""
    x = np.arange(1, np.prod(SHAPE) + 1, dtype=np.uint16).reshape(SHAPE)
    source, copy = emulator.asarray(x), emulator.asarray(np.zeros(SHAPE, np.uint16))
    lines = emulator.empty(int(np.prod(box)), np.uint16)
    maps = (tensor_map(array, box, swizzle) for array in (source, copy))
    with emulator.configure(**settings):
        load(FILE).kernel("boxes")(1, 128, lines, *maps, 2 * lines.size, shift, *at[::-1], shared=16384)
    return x, np.asarray(lines), np.asarray(copy)


@pytest.mark.parametrize("at", [(0, 0, 0), (1, 2, 8), (-1, -2, 0), (3, 5, 16), (-3, 5, 24)])
@pytest.mark.parametrize(("channels", "swizzle"), [(32, 0), (16, 32), (32, 64), (64, 128)])
def test_a_box_is_loaded_with_its_swizzle_and_stored(at, channels, swizzle):
    box = (4, 3, channels)
    for settings in ({"sanitize": "none"}, {"sanitize": "checked", "seed": 3}):
        x, lines, copy = box_of(box, at, swizzle, **settings)
        padded = np.pad(x, [(8, 8), (8, 8), (64, 64)])
        begins = np.add(at, (8, 8, 64))
        within = tuple(slice(begin, begin + size) for begin, size in zip(begins, box))
        expected = padded[within].reshape(-1, 8)  # chunks of 16 bytes
        address = np.arange(len(expected)) * 16
        # The swizzle: the address bits for 128 and above are xored into those for 16 and above.
        address ^= (address >> 3) & (max(swizzle, 16) - 16)
        np.testing.assert_array_equal(lines.reshape(-1, 8)[address // 16], expected)
        inside = np.zeros_like(padded, bool)
        inside[within] = True
        np.testing.assert_array_equal(copy, np.where(inside[8:-8, 8:-8, 64:-64], x, 0))


@pytest.mark.parametrize(
    ("at", "swizzle", "shift", "fault"),
    [
        ((0, 0, 40), 64, 0, "coordinates out of range"),
        ((0, 0, -32), 64, 0, "coordinates out of range"),
        ((5, 0, 0), 64, 0, "coordinates out of range"),
        ((0, 134, 0), 64, 0, "coordinates out of range"),
        ((0, -131, 0), 64, 0, "coordinates out of range"),
        ((0, 0, 0), 0, 64, "the tile of a TensorMap is not aligned to 128 bytes"),
        ((0, 0, 0), 64, 128, "does not begin where a swizzled atom does"),
    ],
)
def test_a_box_out_of_range_or_misaligned_is_reported(at, swizzle, shift, fault):
    for sanitize in ("none", "checked"):
        with pytest.raises(emulator.EmulatorError, match=rf"kernel boxes, block .*{fault}.*, at bulk_copies\.cu:\d+"):
            box_of((4, 3, 32), at, swizzle, shift, sanitize=sanitize)


@pytest.mark.parametrize("w", [133, -130])
def test_a_box_in_the_furthest_padding_is_zeros(w):
    _, lines, copy = box_of((4, 3, 32), (0, w, 0), sanitize="checked")
    assert not lines.any()
    assert not copy.any()


def test_a_box_that_begins_one_byte_before_its_tensor_has_a_zero_there():
    x = np.arange(1, 49, dtype=np.uint8).reshape(1, 3, 16)
    source, copy, lines = emulator.asarray(x), emulator.asarray(np.zeros_like(x)), emulator.empty(24, np.uint16)
    maps = (tensor_map(array, (1, 3, 16)) for array in (source, copy))
    load(FILE).kernel("boxes")(1, 128, lines, *maps, 48, 0, -1, 0, 0, shared=1024)
    expected = np.pad(x[0], [(0, 0), (1, 0)])[:, :16]
    np.testing.assert_array_equal(np.asarray(lines).view(np.uint8).reshape(3, 16), expected)
    np.testing.assert_array_equal(np.asarray(copy)[0, :, :15], x[0, :, :15])
    assert not np.asarray(copy)[0, :, 15].any()


def test_coordinates_for_another_number_of_dimensions_are_reported():
    x = emulator.asarray(np.zeros(SHAPE, np.uint16))
    with pytest.raises(emulator.EmulatorError, match=r"number of coordinates .* dimensions, at bulk_copies"):
        load(FILE).kernel("two_coordinates")(1, 32, x, tensor_map(x, (1, 1, 8)))


def test_a_tensor_map_beyond_a_limit_is_refused():
    x = emulator.asarray(np.zeros((4, 6, 40), np.float16))
    for box, swizzle, message in [
        ((4, 32), 0, "2 to 5 dimensions"),
        ((4, 300, 32), 0, "from 1 to 256"),
        ((4, 3, 12), 0, "multiple of 16 bytes"),
        ((4, 3, 32), 16, "swizzle"),
        ((4, 3, 32), 32, "no less than a box's line of 64 bytes"),
    ]:
        with pytest.raises(ValueError, match=message):
            tensor_map(x, box, swizzle)
    with pytest.raises(ValueError, match="strides"):
        tensor_map(emulator.asarray(np.zeros((4, 6, 5), np.float16)), (1, 1, 8))
    with pytest.raises(ValueError, match=r"begin at multiples of 16 bytes .* received address 0x\w*8 "):
        tensor_map(x[:, :, 4:], (4, 3, 32))
    with pytest.raises(ValueError, match=r"an array with elements, received shape \(4, 0, 40\)"):
        tensor_map(x[:, :0], (4, 3, 32))


def test_bytes_that_are_no_tensor_map_are_refused():
    zeros = np.zeros(1, "V128")[0]
    with pytest.raises(emulator.EmulatorError, match="this TensorMap was not made by"):
        load(FILE).kernel("boxes")(1, 128, emulator.empty(64, np.uint16), zeros, zeros, 128, 0, 0, 0, 0, shared=1024)
