"""Bulk copies, boxes of tensors and stmatrix: the results are right in every order, and each planted fault is named. No
GPU has run these kernels."""

import re
from pathlib import Path

import numpy as np
import pytest

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.emulator.tensor_map import tensor_map
from gpuconv.backends.cuda.runtime import nvrtc
from gpuconv.backends.cuda.runtime.kernel import load
from tests.kernels.fault_messages import pattern

FILE = Path(__file__).with_name("bulk_copies.cu")
BLOCKS, N = 2, 2 * 4 * 128

# What the message of each fault says, in the notation of fault_messages.py. Every run finds the faults in ALWAYS; a
# checked run also finds those in CHECKED.
ALWAYS = {
    "expects_less": "wrong byte count: phase 0 of the mbarrier shared full + # bytes received 256 bytes more than it "
    "expects",
    "expects_less_of_two": "wrong byte count: ",
    "expects_more": "deadlock; warpgroup 0: 128 threads, first (0, 0, 0), wait at @ for the end of phase 0 (parity "
    "0) of the mbarrier shared full + # bytes, which lacks 16 bytes",
    "each_warp_loads": "wrong byte count: ",
    "no_init_fence": "loads for the mbarrier shared full + 0 bytes of @, which the async proxy does not see: no "
    "fence_mbarrier_init() by the thread that initialized it, at @",
    "ends_too_early": "the block ended before a bulk store was waited for",
    "load_not_waited_for": "the block ended before a bulk copy arrived that no thread waited for, at @",
    "misaligned_source": "a bulk copy moves a multiple of 16 bytes between addresses aligned to 16, at @",
}
CHECKED = {
    "each_warp_loads": "race: a bulk copy writes shared in | wrong byte count: ",
    "expects_less_of_two": "race: a bulk copy writes shared out | wrong byte count: ",
    "load_not_waited_for": "the block ended before a bulk copy arrived | race: a bulk copy writes shared in",
    "reads_too_early": "reads shared in + # bytes, which ",
    "no_proxy_fence": "a bulk store reads shared out + 20 bytes, which thread (5, 0, 0) wrote at @ with no "
    "fence_proxy_async() between, at @",
    "overwrites_source": "race: writes shared out + # bytes, which a bulk store of thread (0, 0, 0) read at @ and "
    "which is unfinished",
    "past_the_array": "out of bounds: reads ",
}


def launch(kernel, **settings):
    """What a kernel of bulk_copies.cu computes, and the right result."""
    x = np.arange(N, dtype=np.float32)
    y = emulator.empty(N)
    with emulator.configure(**settings):
        load(FILE).kernel(kernel)(BLOCKS, 128, y, emulator.asarray(x))
    return np.asarray(y), 2 * x


@pytest.mark.parametrize("sanitize", ["none", "checked"])
def test_loads_and_stores_are_right_in_every_order_of_threads(sanitize):
    for seed in range(12):
        np.testing.assert_array_equal(*launch("correct", seed=seed, sanitize=sanitize))


@pytest.mark.parametrize(
    ("kernel", "sanitize"),
    [(kernel, "none") for kernel in ALWAYS] + [(kernel, "checked") for kernel in ALWAYS | CHECKED],
    ids=lambda value: value,
)
def test_a_planted_fault_is_named(kernel, sanitize):
    text = (ALWAYS | CHECKED if sanitize == "checked" else ALWAYS)[kernel]
    expected = pattern(text)
    for seed in range(6):
        with pytest.raises(emulator.EmulatorError) as caught:
            launch(kernel, seed=seed, sanitize=sanitize)
        message = str(caught.value)
        assert re.match(rf"kernel {kernel}, block \([01], 0, 0\), thread \(\d+, 0, 0\) of warpgroup 0: ", message), (
            message
        )
        assert re.search(expected, message), message


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


@pytest.mark.parametrize("at", [(0, 0, 0), (1, 2, 8), (-1, -2, 0), (3, 5, 16), (-3, 5, 24)], ids=str)
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
        # The swizzle: bits of the address from the 128s up are xored into those from the 16s up.
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


def test_a_copy_that_fails_halfway_leaves_nothing_for_the_next_launch():
    x = emulator.asarray(np.zeros(SHAPE, np.uint16))
    most = 227 * 1024
    with pytest.raises(emulator.EmulatorError, match="out of bounds: an access to shared memory at address"):
        load(FILE).kernel("past_shared_memory")(1, 32, x, tensor_map(x, SHAPE), most, shared=most)
    np.testing.assert_array_equal(*launch("correct"))


def test_a_tensor_map_beyond_a_limit_is_refused():
    x = emulator.asarray(np.zeros((4, 6, 40), np.float16))
    for box, swizzle, message in [
        ((4, 32), 0, "2 to 5 dimensions"),
        ((4, 300, 32), 0, "from 1 to 256"),
        ((4, 3, 12), 0, "multiple of 16 bytes"),
        ((4, 3, 32), 16, "swizzle"),
        ((4, 3, 32), 32, "at least a box's line of 64"),
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


def test_matrices_are_stored_directly_and_transposed():
    halves = np.arange(256, dtype=np.uint16).reshape(4, 8, 8)
    lanes = np.arange(32)
    fragments = np.stack([halves[m, lanes // 4, lanes % 4 * 2 + i] for m in range(4) for i in range(2)], axis=-1)
    y = emulator.empty((2, 32, 4), np.uint32)
    load(FILE).kernel("matrices")(1, 32, y, emulator.asarray(np.ascontiguousarray(fragments).view(np.uint32)))
    direct, transposed = np.asarray(y).view(np.uint16).reshape(2, 4, 8, 8)
    np.testing.assert_array_equal(direct, halves)
    np.testing.assert_array_equal(transposed, halves.transpose(0, 2, 1))


def test_the_wrappers_compile_for_hopper():
    pytest.importorskip("cuda.core", reason="NVRTC is not installed")
    module = load(FILE)
    for arch in ("sm_90", "sm_90a", "sm_100a", "sm_120"):
        resources = nvrtc.compile_cubin(FILE.stem, module.text, module.defines, arch).resources
        assert resources["boxes"].spill_stores == resources["correct"].spill_stores == 0
    with pytest.raises(nvrtc.CompileError, match=r"compute capability 9\.0"):
        nvrtc.compile_cubin(FILE.stem, module.text, module.defines, "sm_80")
