"""Sums, copies and multiples: launchers of kernels/arithmetic.cu."""

from __future__ import annotations

import numpy as np

from gpuconv.backends.cuda.runtime.grids import THREADS, flat_grid
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.outputs import buffer, pack_width, store
from gpuconv.backends.cuda.runtime.rows import copy_rows, launch_by_rows, rows_of
from gpuconv.backends.cuda.runtime.scalars import device_scalar
from gpuconv.integers import ceil_div
from gpuconv.types import ArrayT, Scalar


def _map(name: str, out: ArrayT | None, inputs: tuple[ArrayT, ...], *scalars: object) -> ArrayT:
    """Launch `name`_forward over contiguous arrays, or `name`_rows over rows with a pitch. A second input that is a
    vector is added to every row of the first."""
    first = inputs[0]
    y = buffer(out, first.shape, first.dtype, like=first, pitched=True)
    arrays = (y, *inputs)
    if all(array.flags.c_contiguous and array.shape == first.shape for array in arrays):
        width = pack_width(first.dtype, *arrays)
        run = load("arithmetic.cu", {"DTYPE": first.dtype, "WIDTH": width}).kernel(f"{name}_forward")
        run(flat_grid(ceil_div(first.size, width)), THREADS, *arrays, first.size, *scalars)
    else:
        flat, pitches = zip(*map(rows_of, arrays))
        steps = tuple(pitch if array.shape == first.shape else 0 for array, pitch in zip(arrays, pitches))
        launch_by_rows(f"{name}_rows", first.shape, flat, steps, *scalars)
    return store(y, out)


def add(a: ArrayT, b: ArrayT, *, out: ArrayT | None) -> ArrayT:
    return _map("add", out, (a, b))


def copy(x: ArrayT, *, out: ArrayT | None) -> ArrayT:
    y = buffer(out, x.shape, x.dtype, like=x, pitched=True)
    copy_rows(y, x)
    return store(y, out)


def scale(x: ArrayT, *, factor: Scalar, divisor: Scalar, out: ArrayT | None) -> ArrayT:
    scalars = (*device_scalar(factor, np.float64), *device_scalar(divisor, np.float64))
    return _map("scale", out, (x,), *scalars)
