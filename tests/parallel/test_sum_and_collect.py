"""`sum` and `collect` over ranks, which are threads here: the results, and the bytes that each rank sends."""

import queue
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from gpuconv import asarray, backends, to_numpy
from gpuconv.parallel import MPI
from tests.parallel.thread_ranks import along_a_tree


class QueueRanks(MPI):
    """MPI's algorithms over queues between threads."""

    def __init__(self, rank, size, queues):
        self.rank, self.size, self.queues, self.sent = rank, size, queues, 0

    def _swap(self, partner, *, give=None, into=None):
        if give is not None:
            sent = np.array(to_numpy(give))
            self.sent += sent.nbytes
            self.queues[self.rank, partner].put(sent)
        if into is not None:
            received = self.queues[partner, self.rank].get(timeout=10)
            assert (received.shape, received.dtype) == (into.shape, into.dtype)
            backends.assign(into, received)


def summed(arrays, device="numpy"):
    """For each rank, (the sum, the number of bytes that the rank sent)."""
    return array_after(arrays, lambda ranks, flat: ranks.sum(flat), device)


def array_after(arrays, work, device="numpy"):
    """For each rank, (its array after work(ranks, array), the number of bytes that the rank sent)."""
    size = len(arrays)
    queues = {(one, other): queue.Queue() for one in range(size) for other in range(size)}

    def run(rank):
        ranks, flat = QueueRanks(rank, size, queues), asarray(arrays[rank].copy(), device)
        work(ranks, flat)
        return to_numpy(flat), ranks.sent

    with ThreadPoolExecutor(size) as pool:
        return [*pool.map(run, range(size))]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_ranks_sum_along_a_binary_tree(dtype):
    random = np.random.default_rng(0)
    for size in (1, 2, 4, 8):
        for length in (0, 1, 5, 64, 1001):
            arrays = [random.normal(size=length).astype(dtype) for _ in range(size)]
            expected = along_a_tree(arrays)
            for result, _ in summed(arrays):
                np.testing.assert_array_equal(result, expected)


def test_all_ranks_have_the_same_bits_even_if_their_number_is_not_a_power_of_two():
    for size in (3, 5, 6, 7):
        arrays = [np.random.default_rng(rank).normal(size=100).astype(np.float32) for rank in range(size)]
        results = [result.tobytes() for result, _ in summed(arrays)]
        assert len(set(results)) == 1
        np.testing.assert_allclose(np.frombuffer(results[0], np.float32), np.sum(arrays, 0), atol=1e-5)


def test_the_number_of_bytes_that_each_rank_sends():
    """Each of R ranks sends 2 (R - 1) / R of the array."""
    for size in (1, 2, 4, 8):
        sent = {sent for _, sent in summed([np.ones(1024, np.float32)] * size)}
        assert sent == {4096 * 2 * (size - 1) // size}


def test_arrays_of_the_emulated_device_are_summed_along_a_tree():
    arrays = [np.random.default_rng(rank).normal(size=33).astype(np.float32) for rank in range(4)]
    for result, _ in summed(arrays, "emulated"):
        np.testing.assert_array_equal(result, along_a_tree(arrays))


def collect(ends, ranks, flat):
    ranks.collect(flat, ends)


@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_each_rank_collects_the_sections_of_all_ranks(device):
    """Ranks past the largest power of two have empty sections."""
    for size, ends in {1: [0, 5], 2: [0, 3, 9], 3: [0, 4, 9, 9], 4: [0, 0, 7, 7, 9], 6: [0, 1, 2, 8, 9, 9, 9]}.items():
        values = np.arange(10, dtype=np.float32)
        # Value i stands at index i, and each rank has -1 outside of its own section.
        arrays = [np.where((values >= first) & (values < end), values, -1) for first, end in pairwise(ends)]
        results = array_after(arrays, partial(collect, ends), device)
        for result, _ in results:
            np.testing.assert_array_equal(result[: ends[-1]], values[: ends[-1]])
        if size in (2, 4):
            assert sum(sent for _, sent in results) == 4 * ends[-1] * (size - 1)
