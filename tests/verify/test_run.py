"""The forms in which tiers and dtypes can be given, and the arguments that are refused."""

from __future__ import annotations

import pytest

from gpuconv import verify

TINY = [case for case in verify.cases("tiny") if case.op in ("relu", "add")]


def rows(dtypes, **options):
    return [(row.op, row.dtype) for row in verify.verify(TINY, dtypes, "numpy", **options)]


def test_tiers_and_dtypes_may_come_from_a_generator_or_be_one_name():
    assert verify.cases(tier for tier in ("odd", "tiny")) == verify.cases(("tiny", "odd"))
    assert verify.cases("tiny") == verify.cases(("tiny",))
    assert rows(dtype for dtype in ("float32", "float64")) == rows(["float32", "float64"])
    assert len(rows(["float32", "float64"])) == 4
    assert rows("float32") == rows(["float32"]) == [("relu", "float32"), ("add", "float32")]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: verify.cases(("tinny",)), ValueError, "unknown tier 'tinny'; did you mean 'tiny'"),
        (lambda: verify.cases(random_cases=-1), ValueError, "random_cases must be at least 0, received -1"),
        (lambda: verify.cases(seed=-1), ValueError, "seed must be at least 0, received -1"),
        (lambda: rows(["float31"]), ValueError, "unknown dtype 'float31'; did you mean 'float32'"),
        (lambda: rows([float]), TypeError, "the dtype is chosen by name, received type"),
        (lambda: rows("float32", seed=1.5), TypeError, "seed must be an integer, received 1.5"),
    ],
    ids=["tier", "random_cases", "seed of cases", "dtype", "dtype by type", "seed"],
)
def test_wrong_tiers_dtypes_seeds_and_numbers_of_cases_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
