"""Every op, on each device that runs kernels, agrees with the oracle in the cases of all tiers."""

from __future__ import annotations

import pytest

from gpuconv import ops, verify

CASES = verify.cases()


def test_every_op_has_cases_in_the_tiers_tiny_odd_and_real():
    assert {case.op for case in CASES} == set(ops.__all__)
    for tier in ("tiny", "odd", "real"):
        assert {case.op for case in CASES if case.tier == tier} == set(ops.__all__)


@pytest.mark.parametrize(("op", "dtype"), sorted({(case.op, dtype) for case in CASES for dtype in case.dtypes}))
def test_op_agrees_with_the_oracle(device, op, dtype):
    for case in CASES:
        if case.op == op and dtype in case.dtypes:
            outcome = verify.run_case(case, dtype, device)
            assert outcome.passed, f"{case.name}: {outcome.failure}"
