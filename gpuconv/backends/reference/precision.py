"""Conversion to float64, and the single rounding of results."""

import numpy as np


def wide(x: np.ndarray) -> np.ndarray:
    """A copy of x in float64, which holds the numbers of every floating-point dtype exactly."""
    return np.array(x, np.float64, order="C")


def factors(tf32: bool, *arrays: np.ndarray) -> list[np.ndarray]:
    """The factors of a product in float64, rounded to TF32 if `tf32`."""
    return [round_tf32(wide(x)) if tf32 else wide(x) for x in arrays]


def round_to(result, dtype: np.dtype, out: np.ndarray | None = None, accumulate: bool = False) -> np.ndarray:
    """Round a float64 result to dtype, ties to even, into `out` or a new array; `accumulate` first adds `out` to it."""
    result = np.asarray(result if out is None or not accumulate else wide(out) + result, np.float64)
    if dtype.name == "bfloat16":  # ml_dtypes would round twice, to float32 first
        step = _spacing(result, significant_bits=8, smallest=-133)
        result = np.rint(result / step) * step
    if out is None:
        return result.astype(dtype, order="C")
    out[...] = result.astype(dtype)
    return out


def round_tf32(x: np.ndarray) -> np.ndarray:
    """float32 numbers, given in float64, rounded to TF32: to nearest, ties away from zero."""
    step = _spacing(x, significant_bits=11, smallest=-136)
    return wide((np.copysign(np.floor(np.abs(x) / step + 0.5), x) * step).astype(np.float32))  # may become infinite


def _spacing(x: np.ndarray, significant_bits: int, smallest: int) -> np.ndarray:
    """The distance between neighboring numbers of a format around x, at least 2**smallest."""
    _, exponent = np.frexp(x)  # 2**(exponent - 1) <= |x| < 2**exponent
    return np.ldexp(1.0, np.maximum(exponent - significant_bits, smallest))
