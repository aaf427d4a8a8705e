"""The forms in which tiers and dtypes can be given, and the arguments that are refused."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import verify
from gpuconv.verify.run import to_device

TINY = [case for case in verify.cases("tiny") if case.op in ("relu", "add")]


def rows(dtypes, **options):
    return [(row.op, row.dtype) for row in verify.verify(TINY, dtypes, "numpy", **options)]


def test_tiers_and_dtypes_may_come_from_a_generator_or_be_one_name():
    assert verify.cases(tier for tier in ("odd", "tiny")) == verify.cases(("tiny", "odd"))
    assert verify.cases("tiny") == verify.cases(("tiny",))
    assert rows(dtype for dtype in ("float32", "float64")) == rows(["float32", "float64"])
    assert len(rows(["float32", "float64"])) == 4
    assert rows("float32") == rows(["float32"]) == [("relu", "float32"), ("add", "float32")]


def test_dtypes_have_short_names_too():
    assert rows("fp16") == rows(["float16"])
    assert rows(["fp32", "bf16"]) == rows(["float32", "bfloat16"])


def test_wrong_dtypes_and_seeds_are_refused_before_the_first_row_is_asked_for():
    with pytest.raises(ValueError, match="unknown dtype 'float31'"):
        verify.verify(TINY, "float31", "numpy")
    with pytest.raises(ValueError, match="seed must be at least 0, received -1"):
        verify.verify(TINY, "float32", "numpy", seed=-1)


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


@pytest.mark.parametrize("device", ["numpy", "emulated"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_slice_of_channels_is_one_on_the_device_too(device, dtype):
    wide_cases = [case for case in verify.cases("odd") if case.op in ("copy", "digest") and "channels" in case.name]
    assert len(wide_cases) == 6
    for case in wide_cases:
        ((x,), _) = case.arguments(dtype)
        moved, (in_tuple,) = to_device(x, device), to_device((x,), device)
        for array in (moved, in_tuple):
            assert array.strides == x.strides
            assert array.base.shape[-1] == x.shape[-1] + 3
            np.testing.assert_array_equal(np.asarray(array), x)


def test_other_arrays_become_dense_on_a_device():
    x = np.arange(24.0).reshape(2, 3, 4)
    for part in (x[:, ::2], x.T, x[..., ::2], x[1:, :, :2], np.broadcast_to(x[0], (2, 3, 4))):
        np.testing.assert_array_equal(np.asarray(to_device(part, "emulated")), part)
