"""The gradient of a bias."""

from __future__ import annotations

from gpuconv.backends import backend_of
from gpuconv.ops.expect import (
    expect_accumulate,
    expect_activation,
    expect_any_float,
    expect_out,
    expect_same_dtype,
    expect_shape,
)
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.types import ArrayT


@op("bias_grad.cu")
def bias_grad(
    dy: ArrayT,
    saved: ArrayT | None = None,
    *,
    activation: str | None = None,
    out: ArrayT | None = None,
    accumulate: bool = False,
) -> ArrayT:
    """The gradient of a bias: the sum of dy over all axes but the last. If an activation follows the bias, the gradient
    of the activation's input is summed instead. The op computes that gradient from dy and `saved` without storing it.

    Args:
        dy: (..., K), of rank 2 or more, any float dtype; with an activation the gradient of its output.
        saved: With an activation, the input or output that its backward op takes, of dy's shape and dtype.
        activation: The name of an activation, with its op's defaults, or None.
        out: Receives db; by default a new array.
        accumulate: Add to out instead of overwriting it.

    Returns:
        db: (K,), of dy's dtype.

    Raises:
        ValueError: An activation without `saved`, `saved` without an activation, or accumulate=True without out.
    """
    backend = backend_of(dy=dy, optional=dict(saved=saved, out=out))
    shape, activation = expect_any_float("dy", dy, 2), expect_activation(activation)
    if (saved is None) != (activation is None):
        received = f"activation={activation!r} with saved={'None' if saved is None else 'an array'}"
        raise ValueError(f"bias_grad takes saved together with activation, received {received}")
    if saved is not None:
        expect_shape("saved", saved, shape, "dy's shape")
        expect_same_dtype(dy=dy, saved=saved)
    expect_out(out, shape[-1:], dy.dtype)
    expect_accumulate(accumulate, out=out)
    dy, saved = copy_if_overlapping([out], dy, saved)
    return backend.conv.bias_grad(dy, saved, activation=activation, out=out, accumulate=accumulate)
