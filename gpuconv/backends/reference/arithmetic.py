"""Sums, copies and multiples."""

from gpuconv.backends.reference.precision import round_to, wide
from gpuconv.dtypes import accumulation_dtype
from gpuconv.host_values import value_of


def add(a, b, *, out):
    return round_to(wide(a) + wide(b), a.dtype, out)


def copy(x, *, out):
    return round_to(wide(x), x.dtype, out)


def scale(x, *, factor, divisor, out):
    ratio = value_of(factor) / value_of(divisor) if value_of(divisor) else 0.0
    return round_to(wide(x) * float(accumulation_dtype(x.dtype).type(ratio)), x.dtype, out)
