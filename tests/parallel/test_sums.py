"""Sums over ranks, which are threads here: the order of additions, and the bytes that each rank sends."""

import queue
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from gpuconv import asarray, backends, parallel, to_numpy
from gpuconv.parallel import MPI, ParallelError, Ranks
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
    """(the sum, the number of bytes sent) of each rank."""
    return array_after(arrays, lambda ranks, flat: ranks.sum(flat), device)


def array_after(arrays, work, device="numpy"):
    """(its array after work(ranks, array), the number of bytes sent) of each rank."""
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


def test_each_of_r_ranks_sends_2_times_r_minus_1_over_r_of_the_array():
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
def test_each_rank_collects_the_stretches_of_all(device):
    """Ranks past the largest power of two have empty stretches."""
    for size, ends in {1: [0, 5], 2: [0, 3, 9], 3: [0, 4, 9, 9], 4: [0, 0, 7, 7, 9], 6: [0, 1, 2, 8, 9, 9, 9]}.items():
        values = np.arange(10, dtype=np.float32)
        stretches = [np.where((values >= first) & (values < end), values, -0.0) for first, end in pairwise(ends)]
        results = array_after([stretch.astype(np.float32) for stretch in stretches], partial(collect, ends), device)
        for result, _ in results:
            np.testing.assert_array_equal(result[: ends[-1]], values[: ends[-1]])
        if size in (2, 4):
            assert sum(sent for _, sent in results) == 4 * ends[-1] * (size - 1)


def test_a_single_rank_exchanges_with_itself():
    alone = parallel.ranks(None)
    assert (alone.rank, alone.size) == (0, 1)
    assert (alone.broadcast(3), alone.gather(3), alone.on_rank_0(lambda: 4)) == (3, [3], 4)


def test_a_rank_that_differs_is_named():
    class ThirdDiffers(Ranks):
        size = 3

        def gather(self, facts):
            return [{"settings": {"lr": 1}}, {"settings": {"lr": 1}}, {"settings": {"lr": 2}}]

    def differences(there, here):
        return [f"lr is {there['lr']} there and {here['lr']} here"] if there != here else []

    with pytest.raises(ParallelError, match=r"^rank 2 has other settings than rank 0: lr is 2 on rank 2 and 1 on"):
        ThirdDiffers().expect_same({}, differences)


def test_bad_values_of_parallel_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="mpi"):
        parallel.ranks("smoke signals")
    for wrong in (0, -1.0):
        with pytest.raises(ValueError, match="time_limit must"):
            MPI(wrong)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r"needs mpi4py and an MPI library .*: pip install 'gpuconv\[mpi\]'"):
        MPI()


def test_mpiexec_without_mpi4py_starts_no_run(monkeypatch, capsys, tmp_path):
    from gpuconv.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert main(["train", "--device", "numpy"]) == 2
    assert "pip install 'gpuconv[mpi]'" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_the_ranks_that_do_not_answer_are_named():
    ranks = MPI.__new__(MPI)
    ranks.rank, ranks.size, ranks.time_limit, ranks._processes = 0, 4, 5.0, [*"abcd"]
    assert ranks._timeout_message({1, 3}) == "rank 2 (c) did not answer within 5 s"
    assert ranks._timeout_message({1}) == "rank 2 (c) and rank 3 (d) did not answer within 5 s"
    assert "are out of step" in ranks._timeout_message({1, 2, 3})
