"""A single rank, ranks that differ, and refused arguments."""

import pytest

from gpuconv import parallel
from gpuconv.parallel import ParallelError, Ranks


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


def test_wrong_arguments_are_refused_by_a_single_process_too(monkeypatch):
    for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="unknown device 'nmpy'; did you mean 'numpy'"):
        parallel.launched_ranks("nmpy", 300.0)
    with pytest.raises(ValueError, match=r"unknown device 'None' \(known: numpy, "):
        parallel.launched_ranks(None, 300.0)
    with pytest.raises(ValueError, match="time_limit must be above 0, received -1"):
        parallel.launched_ranks("numpy", -1)
    for messages in (None, Ranks()):
        with pytest.raises(ValueError, match="time_limit must be above 0, received 0"):
            parallel.NCCL(0, messages)
