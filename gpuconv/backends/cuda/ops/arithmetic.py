"""Sums, copies and multiples: launchers of kernels/arithmetic.cu."""

from __future__ import annotations

import math

import numpy as np

from gpuconv.backends.cuda.runtime.device_array import span
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.outputs import (
    THREADS,
    buffer,
    ceil_div,
    contiguous,
    device_scalar,
    flat_grid,
    pack_width,
    store,
)
from gpuconv.types import Array, ArrayT, Scalar

_MOST_ROWS = 65535  # blocks along the rows; a block loops over further rows


def _map(kernel: str, out: ArrayT | None, inputs: tuple[ArrayT, ...], *scalars: object) -> ArrayT:
    first = inputs[0]
    y = buffer(out, first.shape, first.dtype, like=first)
    width = pack_width(first, y, *inputs[1:])
    run = load("arithmetic.cu", {"DTYPE": first.dtype, "WIDTH": width}).kernel(kernel)
    run(flat_grid(ceil_div(first.size, width)), THREADS, y, *inputs, first.size, *scalars)
    return store(y, out)


def add(a: ArrayT, b: ArrayT, *, out: ArrayT | None) -> ArrayT:
    a, b = contiguous(a, b)
    if a.shape == b.shape:
        return _map("add_forward", out, (a, b))
    y = buffer(out, a.shape, a.dtype, like=a)
    _by_rows("add_vector_forward", a.shape, (y, a, b), ())
    return store(y, out)


def copy(x: ArrayT, *, out: ArrayT | None) -> ArrayT:
    if _row_step(x) is None:
        (x,) = contiguous(x)
    y = out if out is not None and _row_step(out) else buffer(out, x.shape, x.dtype, like=x)
    steps = _row_step(y) or 0, _row_step(x) or 0
    if y.size:
        _by_rows("copy_rows", x.shape, (_with_gaps(y, steps[0]), _with_gaps(x, steps[1])), steps)
    return store(y, out)


def _with_gaps(array: ArrayT, step: int) -> ArrayT:
    """A contiguous array over the memory of a non-empty array whose rows are `step` elements apart, from its first
    element to its last."""
    if array.flags.c_contiguous:
        return array
    return span(array, (math.prod(array.shape[:-1]) - 1) * step + array.shape[-1])


def _by_rows(kernel: str, shape: tuple[int, ...], arrays: tuple[ArrayT, ...], steps: tuple[int, ...]) -> None:
    """Launch a kernel(arrays..., rows, packs, steps...) over the rows of the last axis. steps: elements from one row of
    an array to the next."""
    if not arrays[0].size:
        return
    length = shape[-1] if shape else 1
    rows, width = math.prod(shape[:-1]), pack_width(*arrays, count=math.gcd(length, *steps))
    packs = length // width
    columns = min(32, 1 << (packs - 1).bit_length())
    block = columns, THREADS // columns
    grid = ceil_div(packs, columns), min(ceil_div(rows, block[1]), _MOST_ROWS)
    run = load("arithmetic.cu", {"DTYPE": arrays[0].dtype, "WIDTH": width}).kernel(kernel)
    run(grid, block, *arrays, rows, packs, *(step // width for step in steps))


def _row_step(array: Array) -> int | None:
    """The elements from one row of the last axis to the next; None if the rows are not evenly spaced."""
    if array.flags.c_contiguous:
        return array.shape[-1] if array.ndim else 1
    *outer, (length, last) = zip(array.shape, array.strides)
    step = after = None
    for size, stride in reversed(outer):
        if size != 1:
            if stride <= 0 or stride != (after or stride):
                return None
            step, after = step or stride, size * stride
    itemsize = array.dtype.itemsize
    return step // itemsize if step and (last == itemsize or length == 1) and step >= length * itemsize else None


def scale(x: ArrayT, *, factor: Scalar, divisor: Scalar, out: ArrayT | None) -> ArrayT:
    scalars = (*device_scalar(factor, np.float64), *device_scalar(divisor, np.float64))
    return _map("scale_forward", out, contiguous(x), *scalars)
