"""Activations: launchers of kernels/activation.cu and softmax.cu."""

from __future__ import annotations

import functools
import math

import numpy as np

from gpuconv.backends.cuda.ops.class_rows import row_blocks, row_module
from gpuconv.backends.cuda.runtime.grids import THREADS, flat_grid
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.outputs import buffer, contiguous, pack_width, store
from gpuconv.backends.cuda.runtime.rows import grid_over_rows, rows_of
from gpuconv.backends.cuda.runtime.structs import struct
from gpuconv.integers import ceil_div
from gpuconv.types import Array, ArrayT, Size

_ROWS = np.dtype([(name, np.int64) for name in ("count", "to", "from", "saved")], align=True)
_GELU_KERNELS = {"none": "gelu_erf", "tanh": "gelu_tanh"}  # by `approximate`


def _map(kernel: str, out: ArrayT | None, *inputs: ArrayT, scalars: tuple[float, ...] = ()) -> ArrayT:
    """Launch an elementwise kernel(out, inputs..., n, rows, scalars...).

    The arrays may be rows with a pitch, of n numbers each; arrays without a pitch are a single row."""
    first = inputs[0]
    y = buffer(out, first.shape, first.dtype, like=first, pitched=True)
    arrays: tuple[Array, ...] = (y, *inputs)
    geometry: tuple[Size, Size]
    if all(array.flags.c_contiguous for array in arrays):
        width, n = pack_width(first.dtype, *arrays), first.size
        geometry, rows = (flat_grid(ceil_div(n, width)), THREADS), _rows(1)
    else:
        arrays, pitches = zip(*map(rows_of, arrays))
        n = first.shape[-1]
        width, count = pack_width(first.dtype, *arrays, count=math.gcd(n, *pitches)), first.size // n
        geometry, rows = grid_over_rows(count, n // width), _rows(count, *(pitch // width for pitch in pitches))
    run = load("activation.cu", {"DTYPE": first.dtype, "WIDTH": width}).kernel(kernel)
    run(*geometry, *arrays, n, rows, *scalars)
    return store(y, out)


@functools.lru_cache(maxsize=1024)
def _rows(count: int, *pitches: int) -> np.void:
    """The kernels' `struct Rows`. pitches: in packs, of the output and the inputs; none for a single row."""
    return struct(_ROWS, count, *pitches, *[0] * (3 - len(pitches)))


def relu(x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    return _map("relu_forward", out, x)


def relu_backward(dy: ArrayT, y: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    return _map("relu_backward", out, dy, y)


def relu6(x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    return _map("relu6_forward", out, x)


def relu6_backward(dy: ArrayT, y: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    return _map("relu6_backward", out, dy, y)


def leaky_relu(x: ArrayT, *, negative_slope: float, out: ArrayT | None = None) -> ArrayT:
    return _map("leaky_relu_forward", out, x, scalars=(negative_slope,))


def leaky_relu_backward(dy: ArrayT, y: ArrayT, *, negative_slope: float, out: ArrayT | None = None) -> ArrayT:
    return _map("leaky_relu_backward", out, dy, y, scalars=(negative_slope,))


def elu(x: ArrayT, *, alpha: float, out: ArrayT | None = None) -> ArrayT:
    return _map("elu_forward", out, x, scalars=(alpha,))


def elu_backward(dy: ArrayT, y: ArrayT, *, alpha: float, out: ArrayT | None = None) -> ArrayT:
    return _map("elu_backward", out, dy, y, scalars=(alpha,))


def sigmoid(x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    return _map("sigmoid_forward", out, x)


def sigmoid_backward(dy: ArrayT, y: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    return _map("sigmoid_backward", out, dy, y)


def tanh(x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    return _map("tanh_forward", out, x)


def tanh_backward(dy: ArrayT, y: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    return _map("tanh_backward", out, dy, y)


def gelu(x: ArrayT, *, approximate: str, out: ArrayT | None = None) -> ArrayT:
    return _map(f"{_GELU_KERNELS[approximate]}_forward", out, x)


def gelu_backward(dy: ArrayT, x: ArrayT, *, approximate: str, out: ArrayT | None = None) -> ArrayT:
    return _map(f"{_GELU_KERNELS[approximate]}_backward", out, dy, x)


def silu(x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    return _map("silu_forward", out, x)


def silu_backward(dy: ArrayT, x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    return _map("silu_backward", out, dy, x)


def hard_swish(x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    return _map("hard_swish_forward", out, x)


def hard_swish_backward(dy: ArrayT, x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    return _map("hard_swish_backward", out, dy, x)


def softmax(x: ArrayT, *, out: ArrayT | None) -> ArrayT:
    (x,) = contiguous(x)
    (rows, classes), y = x.shape, buffer(out, x.shape, x.dtype, like=x)
    if y.size:
        module, lanes = row_module("softmax.cu", x)
        module.kernel("softmax_forward")(row_blocks(rows, lanes), THREADS, y, x, rows, classes, lanes)
    return store(y, out)
