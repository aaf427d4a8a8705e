"""The fast NumPy code gives infinities, NaN, overflow and underflow as results, without warnings or errors."""

import numpy as np
import pytest

from gpuconv import ops, verify
from gpuconv.dtypes import is_float

CASES = verify.cases(("tiny",))
NUMBERS = {"infinite": [np.inf, -np.inf, np.nan, 0.0], "huge": [3e38, -3e38, 6e4, 1.0], "tiny": [1e-40, -1e-30, 6e-8]}
NOT_FILLED = ("scaling", "table", "lr", "grad_scale")  # their numbers come from an op, or must lie in a range


def filled(value, numbers, rng):
    """The value; in an array of floats, or a list of them, the numbers replace about half of the elements."""
    if isinstance(value, list):
        return [filled(entry, numbers, rng) for entry in value]
    if not isinstance(value, np.ndarray) or not is_float(value.dtype):
        return value
    return np.where(rng.random(value.shape) < 0.5, rng.choice(numbers, value.shape), value).astype(value.dtype)


@pytest.mark.parametrize("numbers", NUMBERS)
@pytest.mark.parametrize("op", ops.__all__)
def test_an_op_gives_its_result_even_where_numpy_is_set_to_raise(op, numbers):
    rng = np.random.default_rng(0)
    for case in CASES:
        for dtype in case.dtypes if case.op == op else ():
            arrays, options = case.arguments(dtype)
            call = dict(zip(ops.OPS[op].arrays, arrays)) | options
            with np.errstate(all="ignore"):
                call |= {name: filled(call[name], NUMBERS[numbers], rng) for name in call if name not in NOT_FILLED}
            with np.errstate(all="raise"):
                getattr(ops, op)(**call)
