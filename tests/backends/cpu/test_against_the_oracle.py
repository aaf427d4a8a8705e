"""The fast NumPy code against the oracle: every op and dtype, on the shared cases and within the shared bounds."""

import numpy as np
import pytest

from gpuconv import verify
from gpuconv.backends import cpu

CASES = verify.cases()


@pytest.mark.parametrize(
    "tiers", [("tiny", "odd"), pytest.param(("real", "random"), marks=pytest.mark.slow)], ids=" ".join
)
@pytest.mark.parametrize(("op", "dtype"), sorted({(case.op, dtype) for case in CASES for dtype in case.dtypes}))
def test_op_is_within_its_bound(op, dtype, tiers):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    for case in CASES:
        if case.op == op and case.tier in tiers and dtype in case.dtypes:
            outcome = verify.run_case(case, dtype, "numpy")
            assert outcome.passed, f"{case.name}: {outcome.failure}"


def test_a_case_runs_the_fast_code_and_not_the_oracle(monkeypatch):
    """Otherwise the oracle would be compared with itself."""
    monkeypatch.setattr(cpu.activation, "relu", lambda x, *, out=None: np.full_like(x, 7))
    case = next(case for case in CASES if case.op == "relu")
    assert not verify.run_case(case, "float32", "numpy").passed
