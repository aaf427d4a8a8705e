"""Structs that kernels take by value, among them `struct FastDivmod` of kernels/fast_divmod.cuh."""

from __future__ import annotations

from typing import cast

import numpy as np

from gpuconv.integers import ceil_div

FAST_DIVMOD = np.dtype([(name, np.uint32) for name in ("divisor", "multiplier", "shift")], align=True)


def struct(dtype: np.dtype, *members: object) -> np.void:
    """A structured scalar. dtype: made with align=True, as C lays it out."""
    return cast(np.void, np.array(members, dtype)[()])


def fast_divmod(d: int) -> tuple[int, int, int]:
    """The members of `struct FastDivmod` for 1 <= d < 2^31: (d, ceil(2^(31+l) / d), l), where 2^(l-1) < d <= 2^l."""
    shift = (d - 1).bit_length()
    return d, ceil_div(1 << (31 + shift), d), shift
