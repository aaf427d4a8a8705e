"""MPI without other processes: what is refused, and which ranks an error names."""

import sys

import pytest

from gpuconv import parallel
from gpuconv.parallel import MPI


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
