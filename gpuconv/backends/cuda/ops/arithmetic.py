"""Sums, copies and multiples: launchers of kernels/arithmetic.cu."""

from __future__ import annotations

import numpy as np

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
from gpuconv.backends.cuda.runtime.rows import copy_rows, launch_by_rows, rows_of
from gpuconv.types import ArrayT, Scalar


def _map(kernel: str, out: ArrayT | None, inputs: tuple[ArrayT, ...], *scalars: object) -> ArrayT:
    first = inputs[0]
    y = buffer(out, first.shape, first.dtype, like=first)
    width = pack_width(first.dtype, first, y, *inputs[1:])
    run = load("arithmetic.cu", {"DTYPE": first.dtype, "WIDTH": width}).kernel(kernel)
    run(flat_grid(ceil_div(first.size, width)), THREADS, y, *inputs, first.size, *scalars)
    return store(y, out)


def add(a: ArrayT, b: ArrayT, *, out: ArrayT | None) -> ArrayT:
    if a.shape == b.shape:
        y = buffer(out, a.shape, a.dtype, like=a, pitched=True)
        if y.flags.c_contiguous and a.flags.c_contiguous and b.flags.c_contiguous:
            return _map("add_forward", out, (a, b))
        arrays, pitches = zip(*map(rows_of, (y, a, b)))
        launch_by_rows("add_rows", a.shape, arrays, pitches)
        return store(y, out)
    a, b = contiguous(a, b)
    y = buffer(out, a.shape, a.dtype, like=a)
    launch_by_rows("add_vector_forward", a.shape, (y, a, b), ())
    return store(y, out)


def copy(x: ArrayT, *, out: ArrayT | None) -> ArrayT:
    y = buffer(out, x.shape, x.dtype, like=x, pitched=True)
    copy_rows(y, x)
    return store(y, out)


def scale(x: ArrayT, *, factor: Scalar, divisor: Scalar, out: ArrayT | None) -> ArrayT:
    scalars = (*device_scalar(factor, np.float64), *device_scalar(divisor, np.float64))
    return _map("scale_forward", out, contiguous(x), *scalars)
