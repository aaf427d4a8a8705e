"""Whether two arrays on a GPU may share an element is decided by their addresses. The answer "no" is never wrong."""

from collections import Counter

import numpy as np

import gpuconv as gc
from gpuconv import ops
from gpuconv.ops import overlap
from tests import standin


def test_arrays_overlap_where_their_addresses_meet():
    with standin.installed():
        memory = gc.asarray(np.zeros((4, 6), np.float32), "cuda")
        assert overlap.overlap(memory[1:3], memory[2:])
        assert overlap.overlap(memory[:, :3], memory[:, 2:])
        assert not overlap.overlap(memory[:, :3], memory[:, 3:])  # slices of other channels
        assert not overlap.overlap(memory[:2], memory[2:])
        assert not overlap.overlap(memory[2:], memory[:2])
        assert not overlap.overlap(memory[2:][:0], memory)  # empty


def test_the_address_of_the_last_element_counts():
    with standin.installed():
        memory = gc.asarray(np.zeros((4, 6), np.float32), "cuda")
        assert overlap.overlap(memory[:3, 0], memory[2, 0:1])
        assert not overlap.overlap(memory[:3, 0], memory[2, 1:2])


def test_a_reversed_slice_reaches_back_from_its_first_element():
    rows = np.arange(24, dtype=np.float32).reshape(4, 6)
    with standin.installed():
        memory = gc.asarray(rows, "cuda")
        assert overlap.overlap(memory[2::-1], memory[0])
        assert not overlap.overlap(memory[:1:-1], memory[:2])
        ops.scale(memory[2::-1], factor=2, out=memory[:3])
        np.testing.assert_array_equal(gc.to_numpy(memory), [*(2 * rows[2::-1]), rows[3]])


def random_slices(rng, shape):
    return tuple(slice(*np.sort(rng.integers(0, size + 1, 2))) for size in shape)


def test_slices_overlap_where_numpy_says_that_they_share_memory():
    rng, of_the_same_pixels = np.random.default_rng(0), Counter()
    with standin.installed():
        for number in range(1000):
            volume = np.zeros(rng.integers(1, 7, 3), np.float32)
            on_gpu = gc.asarray(volume, "cuda")
            one, other = (random_slices(rng, volume.shape) for _ in range(2))
            if number % 2:
                other = (*one[:2], other[2])  # channels of the same pixels, for which the answer is exact
            overlaps = overlap.overlap(on_gpu[one], on_gpu[other])
            shares = np.shares_memory(volume[one], volume[other])
            assert overlaps or not shares
            if one[:2] == other[:2] and volume[one].size and volume[other].size:
                assert overlaps == shares
                of_the_same_pixels[overlaps] += 1
    assert min(of_the_same_pixels[True], of_the_same_pixels[False]) > 20
