"""Whether arrays of a GPU overlap follows from their addresses."""

import numpy as np

import gpuconv as gc
from gpuconv.ops import overlap
from tests import standin


def test_arrays_overlap_where_their_addresses_meet():
    with standin.installed():
        memory = gc.asarray(np.zeros((4, 6), np.float32), "cuda")
        assert overlap.overlap(memory[1:3], memory[2:])
        assert overlap.overlap(
            memory[:, :3], memory[:, 3:]
        )  # strided: only their ends are compared, so these count as overlapping
        assert not overlap.overlap(memory[:2], memory[2:])
        assert not overlap.overlap(memory[2:], memory[:2])
        assert not overlap.overlap(memory[2:][:0], memory)  # empty


def test_the_address_of_the_last_element_counts():
    with standin.installed():
        memory = gc.asarray(np.zeros((4, 6), np.float32), "cuda")
        assert overlap.overlap(memory[:3, 0], memory[2, 0:1])
        assert not overlap.overlap(memory[:3, 0], memory[2, 1:2])
