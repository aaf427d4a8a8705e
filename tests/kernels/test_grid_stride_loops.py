"""Grid-stride loops: if an array has more elements, or rows, than the largest grid covers, each block goes on to
further ones. These tests limit the grid to two blocks, or to one."""

import pytest

from gpuconv import verify
from gpuconv.activations import ACTIVATIONS
from gpuconv.backends.cuda.runtime import grids, rows
from gpuconv.profiling.launches import record_launches

ELEMENTWISE = [op for name in ACTIVATIONS for op in (name, f"{name}_backward")] + ["add", "scale"]
FLAT = [
    *ELEMENTWISE,
    *("dropout", "dropout_backward", "random_uniform", "random_normal", "random_permutation"),
    *("max_pool2d", "max_pool2d_backward", "avg_pool2d", "avg_pool2d_backward", "global_avg_pool2d_backward"),
]
CASES = verify.cases(("odd", "real"))


@pytest.mark.parametrize("op", FLAT)
def test_few_blocks_do_the_work_of_many(device, op, monkeypatch):
    monkeypatch.setattr(grids, "_MAX_BLOCKS", 2)
    with record_launches() as launches:
        for case in CASES:
            if case.op == op:
                outcome = verify.run_case(case, "float32" if "float32" in case.dtypes else case.dtypes[0], device)
                assert outcome.passed, f"{case.name}: {outcome.failure}"
    assert 2 in {launch.grid for launch in launches}, "a launch must reach the limit of two blocks"


def blocks_over_rows(device):
    """The number of blocks that the cases of copy and add launch. Every case must pass."""
    with record_launches() as launches:
        for case in verify.cases():
            if case.op in ("copy", "add"):
                outcome = verify.run_case(case, "float32", device)
                assert outcome.passed, f"{case.op} {case.name}: {outcome.failure}"
    return sum(launch.grid for launch in launches)


def test_one_block_processes_all_rows(device, monkeypatch):
    without_limit = blocks_over_rows(device)
    monkeypatch.setattr(rows, "_MOST_BLOCKS", 1)
    assert blocks_over_rows(device) < without_limit
