"""The fast NumPy code, op by op and dtype by dtype, over the cases and within the bounds of every device."""

import numpy as np
import pytest

from gpuconv import ops, verify
from gpuconv.backends import cpu

CASES = verify.cases()


@pytest.mark.parametrize(
    "tiers", [("tiny", "odd"), pytest.param(("real", "random"), marks=pytest.mark.slow)], ids=" ".join
)
@pytest.mark.parametrize("dtype", verify.DTYPES)
@pytest.mark.parametrize("op", ops.__all__)
def test_op(op, dtype, tiers):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    for case in CASES:
        if case.op == op and case.tier in tiers and dtype in case.dtypes:
            outcome = verify.run_case(case, dtype, "numpy")
            assert outcome.passed, f"{case.name}: {outcome.failure}"


def test_the_oracle_is_not_what_runs(monkeypatch):
    """Otherwise it would be compared with itself."""
    monkeypatch.setattr(cpu.activation, "relu", lambda x, *, out=None: np.full_like(x, 7))
    case = next(case for case in CASES if case.op == "relu")
    assert not verify.run_case(case, "float32", "numpy").passed
