"""Kernels over a flat range stride over what is left past the largest grid: shown with grids of two blocks."""

import pytest

from gpuconv import problems, verify
from gpuconv.backends.cuda.runtime import outputs

ELEMENTWISE = [op for name in problems.ACTIVATIONS for op in (name, f"{name}_backward")] + ["add", "scale"]
FLAT = [
    *ELEMENTWISE,
    *("dropout", "dropout_backward", "random_uniform", "random_normal", "random_permutation"),
    *("max_pool2d", "max_pool2d_backward", "avg_pool2d", "avg_pool2d_backward", "global_avg_pool2d_backward"),
    *("conv2d", "conv2d_wgrad"),  # the reduction of splits
]
CASES = verify.cases(("odd", "real"))


@pytest.mark.parametrize("op", FLAT)
def test_few_blocks_do_the_work_of_many(device, op, monkeypatch):
    monkeypatch.setattr(outputs, "_MAX_BLOCKS", 2)
    for case in CASES:
        if case.op == op:
            outcome = verify.run_case(case, "float32" if "float32" in case.dtypes else case.dtypes[0], device)
            assert outcome.passed, f"{case.name}: {outcome.failure}"
