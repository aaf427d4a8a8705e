"""Activations and their gradients, of arrays of any shape, and the softmax of rows. `out` may be an input itself."""

from __future__ import annotations

from gpuconv.arguments import number
from gpuconv.backends import backend_of
from gpuconv.names import canonical
from gpuconv.ops.expect import (
    expect_any_float,
    expect_elementwise,
    expect_float,
    expect_out,
    expect_same_dtype,
    expect_shape,
)
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.types import Array, ArrayT

__all__ = [
    "elu",
    "elu_backward",
    "gelu",
    "gelu_backward",
    "hard_swish",
    "hard_swish_backward",
    "leaky_relu",
    "leaky_relu_backward",
    "relu",
    "relu6",
    "relu6_backward",
    "relu_backward",
    "sigmoid",
    "sigmoid_backward",
    "silu",
    "silu_backward",
    "softmax",
    "tanh",
    "tanh_backward",
]

GELU_FORMS = ("none", "tanh")


@op("activation.cu")
def relu(x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """max(x, 0); NaN passes.

    Args:
        x: Any shape, any float dtype.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        y, of x's shape and dtype.
    """
    backend = backend_of(x=x, optional=dict(out=out))
    expect_elementwise(x, out)
    (x,) = copy_if_overlapping([out], x, in_place=True)
    return backend.activation.relu(x, out=out)


@op("activation.cu")
def relu_backward(dy: ArrayT, y: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """dx = dy where y > 0, else 0.

    Args:
        dy: The gradient with respect to y, any shape, any float dtype.
        y: The output of relu, of dy's shape and dtype.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        dx, of dy's shape and dtype.
    """
    backend = backend_of(dy=dy, y=y, optional=dict(out=out))
    _expect_backward(dy, out, y=y)
    dy, y = copy_if_overlapping([out], dy, y, in_place=True)
    return backend.activation.relu_backward(dy, y, out=out)


@op("activation.cu")
def relu6(x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """min(max(x, 0), 6); NaN passes (Howard et al. 2017, "MobileNets").

    Args:
        x: Any shape, any float dtype.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        y, of x's shape and dtype.
    """
    backend = backend_of(x=x, optional=dict(out=out))
    expect_elementwise(x, out)
    (x,) = copy_if_overlapping([out], x, in_place=True)
    return backend.activation.relu6(x, out=out)


@op("activation.cu")
def relu6_backward(dy: ArrayT, y: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """dx = dy where 0 < y < 6, else 0.

    Args:
        dy: The gradient with respect to y, any shape, any float dtype.
        y: The output of relu6, of dy's shape and dtype.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        dx, of dy's shape and dtype.
    """
    backend = backend_of(dy=dy, y=y, optional=dict(out=out))
    _expect_backward(dy, out, y=y)
    dy, y = copy_if_overlapping([out], dy, y, in_place=True)
    return backend.activation.relu6_backward(dy, y, out=out)


@op("activation.cu")
def leaky_relu(x: ArrayT, *, negative_slope: float = 0.01, out: ArrayT | None = None) -> ArrayT:
    """x where x > 0, else negative_slope * x (Maas et al. 2013).

    Args:
        x: Any shape, any float dtype.
        negative_slope: The factor of negative values, at least 0.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        y, of x's shape and dtype.
    """
    backend = backend_of(x=x, optional=dict(out=out))
    expect_elementwise(x, out)
    negative_slope = number("negative_slope", negative_slope, 0.0, used_with=[x])
    (x,) = copy_if_overlapping([out], x, in_place=True)
    return backend.activation.leaky_relu(x, negative_slope=negative_slope, out=out)


@op("activation.cu")
def leaky_relu_backward(dy: ArrayT, y: ArrayT, *, negative_slope: float = 0.01, out: ArrayT | None = None) -> ArrayT:
    """dx = dy where y > 0, else negative_slope * dy.

    Args:
        dy: The gradient with respect to y, any shape, any float dtype.
        y: The output of leaky_relu, of dy's shape and dtype.
        negative_slope: As in leaky_relu.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        dx, of dy's shape and dtype.
    """
    backend = backend_of(dy=dy, y=y, optional=dict(out=out))
    _expect_backward(dy, out, y=y)
    negative_slope = number("negative_slope", negative_slope, 0.0, used_with=[dy])
    dy, y = copy_if_overlapping([out], dy, y, in_place=True)
    return backend.activation.leaky_relu_backward(dy, y, negative_slope=negative_slope, out=out)


@op("activation.cu")
def elu(x: ArrayT, *, alpha: float = 1.0, out: ArrayT | None = None) -> ArrayT:
    """x where x > 0, else alpha * (exp(x) - 1) (Clevert et al. 2015).

    Args:
        x: Any shape, any float dtype.
        alpha: At least 0; -alpha is the limit for large negative values.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        y, of x's shape and dtype.
    """
    backend = backend_of(x=x, optional=dict(out=out))
    expect_elementwise(x, out)
    alpha = number("alpha", alpha, 0.0, used_with=[x])
    (x,) = copy_if_overlapping([out], x, in_place=True)
    return backend.activation.elu(x, alpha=alpha, out=out)


@op("activation.cu")
def elu_backward(dy: ArrayT, y: ArrayT, *, alpha: float = 1.0, out: ArrayT | None = None) -> ArrayT:
    """dx = dy where y > 0, else dy * (y + alpha).

    Args:
        dy: The gradient with respect to y, any shape, any float dtype.
        y: The output of elu, of dy's shape and dtype.
        alpha: As in elu.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        dx, of dy's shape and dtype.
    """
    backend = backend_of(dy=dy, y=y, optional=dict(out=out))
    _expect_backward(dy, out, y=y)
    alpha = number("alpha", alpha, 0.0, used_with=[dy])
    dy, y = copy_if_overlapping([out], dy, y, in_place=True)
    return backend.activation.elu_backward(dy, y, alpha=alpha, out=out)


@op("activation.cu")
def sigmoid(x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """1 / (1 + exp(-x)), without overflow for any x.

    Args:
        x: Any shape, any float dtype.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        y, of x's shape and dtype.
    """
    backend = backend_of(x=x, optional=dict(out=out))
    expect_elementwise(x, out)
    (x,) = copy_if_overlapping([out], x, in_place=True)
    return backend.activation.sigmoid(x, out=out)


@op("activation.cu")
def sigmoid_backward(dy: ArrayT, y: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """dx = dy * y * (1 - y).

    Args:
        dy: The gradient with respect to y, any shape, any float dtype.
        y: The output of sigmoid, of dy's shape and dtype.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        dx, of dy's shape and dtype.
    """
    backend = backend_of(dy=dy, y=y, optional=dict(out=out))
    _expect_backward(dy, out, y=y)
    dy, y = copy_if_overlapping([out], dy, y, in_place=True)
    return backend.activation.sigmoid_backward(dy, y, out=out)


@op("activation.cu")
def tanh(x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """The hyperbolic tangent.

    Args:
        x: Any shape, any float dtype.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        y, of x's shape and dtype.
    """
    backend = backend_of(x=x, optional=dict(out=out))
    expect_elementwise(x, out)
    (x,) = copy_if_overlapping([out], x, in_place=True)
    return backend.activation.tanh(x, out=out)


@op("activation.cu")
def tanh_backward(dy: ArrayT, y: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """dx = dy * (1 - y**2).

    Args:
        dy: The gradient with respect to y, any shape, any float dtype.
        y: The output of tanh, of dy's shape and dtype.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        dx, of dy's shape and dtype.
    """
    backend = backend_of(dy=dy, y=y, optional=dict(out=out))
    _expect_backward(dy, out, y=y)
    dy, y = copy_if_overlapping([out], dy, y, in_place=True)
    return backend.activation.tanh_backward(dy, y, out=out)


@op("activation.cu")
def gelu(x: ArrayT, *, approximate: str = "none", out: ArrayT | None = None) -> ArrayT:
    """x * Phi(x) with the standard normal distribution function Phi (Hendrycks and Gimpel 2016). approximate="tanh"
    computes 0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3))).

    Args:
        x: Any shape, any float dtype.
        approximate: "none", or "tanh" for the second formula.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        y, of x's shape and dtype.
    """
    backend = backend_of(x=x, optional=dict(out=out))
    expect_elementwise(x, out)
    approximate = canonical("GELU approximation", approximate, GELU_FORMS)
    (x,) = copy_if_overlapping([out], x, in_place=True)
    return backend.activation.gelu(x, approximate=approximate, out=out)


@op("activation.cu")
def gelu_backward(dy: ArrayT, x: ArrayT, *, approximate: str = "none", out: ArrayT | None = None) -> ArrayT:
    """dx = dy * d gelu(x) / dx.

    Args:
        dy: The gradient with respect to y, any shape, any float dtype.
        x: The input of gelu, of dy's shape and dtype.
        approximate: As in gelu.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        dx, of dy's shape and dtype.
    """
    backend = backend_of(dy=dy, x=x, optional=dict(out=out))
    _expect_backward(dy, out, x=x)
    approximate = canonical("GELU approximation", approximate, GELU_FORMS)
    dy, x = copy_if_overlapping([out], dy, x, in_place=True)
    return backend.activation.gelu_backward(dy, x, approximate=approximate, out=out)


@op("activation.cu")
def silu(x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """x * sigmoid(x) (Hendrycks and Gimpel 2016; Ramachandran et al. 2017, "swish").

    Args:
        x: Any shape, any float dtype.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        y, of x's shape and dtype.
    """
    backend = backend_of(x=x, optional=dict(out=out))
    expect_elementwise(x, out)
    (x,) = copy_if_overlapping([out], x, in_place=True)
    return backend.activation.silu(x, out=out)


@op("activation.cu")
def silu_backward(dy: ArrayT, x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """dx = dy * (s + x * s * (1 - s)) with s = sigmoid(x).

    Args:
        dy: The gradient with respect to y, any shape, any float dtype.
        x: The input of silu, of dy's shape and dtype.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        dx, of dy's shape and dtype.
    """
    backend = backend_of(dy=dy, x=x, optional=dict(out=out))
    _expect_backward(dy, out, x=x)
    dy, x = copy_if_overlapping([out], dy, x, in_place=True)
    return backend.activation.silu_backward(dy, x, out=out)


@op("activation.cu")
def hard_swish(x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """x * min(max(x + 3, 0), 6) / 6, and 0 for -inf (Howard et al. 2019, "MobileNetV3").

    Args:
        x: Any shape, any float dtype.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        y, of x's shape and dtype.
    """
    backend = backend_of(x=x, optional=dict(out=out))
    expect_elementwise(x, out)
    (x,) = copy_if_overlapping([out], x, in_place=True)
    return backend.activation.hard_swish(x, out=out)


@op("activation.cu")
def hard_swish_backward(dy: ArrayT, x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """dx = 0 where x <= -3, dy where x >= 3, else dy * (2 * x + 3) / 6.

    Args:
        dy: The gradient with respect to y, any shape, any float dtype.
        x: The input of hard_swish, of dy's shape and dtype.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        dx, of dy's shape and dtype.
    """
    backend = backend_of(dy=dy, x=x, optional=dict(out=out))
    _expect_backward(dy, out, x=x)
    dy, x = copy_if_overlapping([out], dy, x, in_place=True)
    return backend.activation.hard_swish_backward(dy, x, out=out)


@op("softmax.cu")
def softmax(x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """exp(x) / sum of exp(x) over each row, computed after subtracting the row's largest value.

    Args:
        x: (N, classes), any float dtype.
        out: Receives the result and must have its shape and dtype; may be an input itself; by default a new array.

    Returns:
        Probabilities, of x's shape and dtype.
    """
    backend = backend_of(x=x, optional=dict(out=out))
    expect_out(out, expect_float("x", x, "N classes"), x.dtype)
    (x,) = copy_if_overlapping([out], x, in_place=True)
    return backend.activation.softmax(x, out=out)


def _expect_backward(dy: Array, out: Array | None, **saved: Array) -> None:
    shape = expect_any_float("dy", dy)
    expect_same_dtype(dy=dy, **saved)
    for name, array in saved.items():
        expect_shape(name, array, shape, "dy's shape")
    expect_out(out, shape, dy.dtype)
