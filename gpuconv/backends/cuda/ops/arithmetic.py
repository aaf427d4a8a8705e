"""Sums, copies and multiples: launchers of kernels/arithmetic.cu."""

from __future__ import annotations

import math

import numpy as np

from gpuconv.backends.cuda.runtime.grids import THREADS, flat_grid
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.outputs import buffer, pack_width, store
from gpuconv.backends.cuda.runtime.rows import grid_over_rows, rows_of
from gpuconv.backends.cuda.runtime.scalars import device_scalar
from gpuconv.integers import ceil_div
from gpuconv.types import Array, ArrayT, Scalar


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
        _launch_by_rows(f"{name}_rows", first.shape, flat, steps, *scalars)
    return store(y, out)


def _launch_by_rows(
    kernel: str, shape: tuple[int, ...], arrays: tuple[Array, ...], pitches: tuple[int, ...], *scalars: object
) -> None:
    """Launch a kernel(arrays..., rows, packs, pitches..., scalars...) over the rows of the last axis;
    the kernel's pitches are in packs."""
    if not arrays[0].size:
        return
    length = shape[-1] if shape else 1
    rows, width = math.prod(shape[:-1]), pack_width(arrays[0].dtype, *arrays, count=math.gcd(length, *pitches))
    packs = length // width
    run = load("arithmetic.cu", {"DTYPE": arrays[0].dtype, "WIDTH": width}).kernel(kernel)
    run(*grid_over_rows(rows, packs), *arrays, rows, packs, *(pitch // width for pitch in pitches), *scalars)


def add(a: ArrayT, b: ArrayT, *, out: ArrayT | None) -> ArrayT:
    return _map("add", out, (a, b))


def copy(x: ArrayT, *, out: ArrayT | None) -> ArrayT:
    return _map("copy", out, (x,))


def scale(x: ArrayT, *, factor: Scalar, divisor: Scalar, out: ArrayT | None) -> ArrayT:
    scalars = (*device_scalar(factor, np.float64), *device_scalar(divisor, np.float64))
    return _map("scale", out, (x,), *scalars)
