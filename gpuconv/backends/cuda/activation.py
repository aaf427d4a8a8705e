"""Activations: launchers of kernels/activation.cu and softmax.cu."""

from __future__ import annotations

from typing import Any

from gpuconv.backends.cuda.class_rows import row_blocks, row_module
from gpuconv.backends.cuda.launch import THREADS, ceil_div, contiguous, flat_grid, pack_width, write_to
from gpuconv.backends.cuda.module import load

__all__ = [
    "gelu",
    "gelu_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "relu",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax",
    "tanh",
    "tanh_backward",
]


def _map(kernel: str, out: Any, *inputs: Any, scalars: tuple[float, ...] = ()) -> Any:
    """Launch an elementwise kernel(out, inputs..., n, scalars...)."""
    inputs = contiguous(*inputs)
    first = inputs[0]

    def write(y: Any) -> None:
        width = pack_width(first.dtype, y, *inputs)
        run = load("activation.cu", {"DTYPE": first.dtype.name, "WIDTH": width}).kernel(kernel)
        run(flat_grid(ceil_div(first.size, width)), THREADS, y, *inputs, first.size, *scalars)

    return write_to(out, first.shape, first.dtype, first, write)


def relu(x: Any, *, out: Any = None) -> Any:
    return _map("relu_forward", out, x)


def relu_backward(dy: Any, y: Any, *, out: Any = None) -> Any:
    return _map("relu_backward", out, dy, y)


def leaky_relu(x: Any, *, negative_slope: float = 0.01, out: Any = None) -> Any:
    return _map("leaky_relu_forward", out, x, scalars=(negative_slope,))


def leaky_relu_backward(dy: Any, y: Any, *, negative_slope: float = 0.01, out: Any = None) -> Any:
    return _map("leaky_relu_backward", out, dy, y, scalars=(negative_slope,))


def sigmoid(x: Any, *, out: Any = None) -> Any:
    return _map("sigmoid_forward", out, x)


def sigmoid_backward(dy: Any, y: Any, *, out: Any = None) -> Any:
    return _map("sigmoid_backward", out, dy, y)


def tanh(x: Any, *, out: Any = None) -> Any:
    return _map("tanh_forward", out, x)


def tanh_backward(dy: Any, y: Any, *, out: Any = None) -> Any:
    return _map("tanh_backward", out, dy, y)


def gelu(x: Any, *, approximate: str = "none", out: Any = None) -> Any:
    return _map(f"gelu_{_FORM[approximate]}_forward", out, x)


def gelu_backward(dy: Any, x: Any, *, approximate: str = "none", out: Any = None) -> Any:
    return _map(f"gelu_{_FORM[approximate]}_backward", out, dy, x)


def silu(x: Any, *, out: Any = None) -> Any:
    return _map("silu_forward", out, x)


def silu_backward(dy: Any, x: Any, *, out: Any = None) -> Any:
    return _map("silu_backward", out, dy, x)


def softmax(x: Any, *, out: Any = None) -> Any:
    (x,) = contiguous(x)
    rows, classes = x.shape

    def write(y: Any) -> None:
        module, lanes = row_module("softmax.cu", x)
        module.kernel("softmax_forward")(row_blocks(rows, lanes), THREADS, y, x, rows, classes, lanes)

    return write_to(out, x.shape, x.dtype, x, write)


_FORM = {"none": "erf", "tanh": "tanh"}
