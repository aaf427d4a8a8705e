"""Two arrays on a GPU overlap if a number belongs to both, which their addresses tell."""

import numpy as np

import gpuconv as gc
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


def test_slices_that_share_memory_by_numpy_overlap():
    rng = np.random.default_rng(0)
    with standin.installed():
        for _ in range(400):
            volume = np.zeros(rng.integers(1, 7, 3), np.float32)
            on_gpu = gc.asarray(volume, "cuda")
            one, other = (tuple(slice(*rng.integers(0, 7, 2)) for _ in range(3)) for _ in range(2))
            overlaps = overlap.overlap(on_gpu[one], on_gpu[other])
            shares = np.shares_memory(volume[one], volume[other])
            assert overlaps or not shares
            if one[:2] == other[:2]:  # slices of the channels of the same pixels
                assert overlaps == shares
