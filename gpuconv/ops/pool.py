"""Max and average pooling, and their gradients."""

from __future__ import annotations

from collections.abc import Sequence

from gpuconv.arguments import flag
from gpuconv.backends import backend_of
from gpuconv.ops.expect import expect_float, expect_out, expect_shape, expect_volume_shape
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.problems import Pool2dProblem
from gpuconv.types import Array, ArrayT, Padding, Size

__all__ = [
    "avg_pool2d",
    "avg_pool2d_backward",
    "global_avg_pool2d",
    "global_avg_pool2d_backward",
    "max_pool2d",
    "max_pool2d_backward",
]


@op("max_pool2d.cu")
def max_pool2d(
    x: ArrayT,
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Padding = 0,
    fit: str = "floor",
    out: ArrayT | None = None,
) -> tuple[ArrayT, Array]:
    """The largest value of each window. NaN wins; ties go to the first in row-major window order; padding is -inf
    and never wins, not even over -inf in the input.

    Args:
        x: (N, H, W, C), any float dtype.
        kernel_size: Height and width of a window: a number or (height, width).
        stride: Pixels from one window to the next; by default kernel_size.
        padding: Cells of -inf around the input, given as in conv2d; less than kernel_size.
        fit: "floor", "exact" or "cover": what happens where windows do not tile the padded input (see
            `gpuconv.ops`).
        out: Receives y.

    Returns:
        y: (N, P, Q, C), and argmax: (N, P, Q, C), the index r * S + s inside the window, in the smallest unsigned
        dtype that holds R * S - 1.
    """
    backend = backend_of(x=x, optional=dict(out=out))
    shape = expect_float("x", x, "N H W C")
    problem = Pool2dProblem.of(shape, kernel_size, stride=stride, padding=padding, fit=fit)
    expect_out(out, problem.y_shape, x.dtype)
    (x,) = copy_if_overlapping([out], x)
    return backend.pool.max_pool2d(x, problem, out=out)


@op("max_pool2d.cu")
def max_pool2d_backward(
    dy: ArrayT,
    argmax: Array,
    *,
    input_shape: Sequence[int],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    fit: str = "floor",
    out: ArrayT | None = None,
) -> ArrayT:
    """The gradient of max_pool2d: each window's dy is added to the input pixel that was the window's maximum.

    Args:
        dy: The gradient with respect to y, (N, P, Q, C), any float dtype.
        argmax: What max_pool2d returned, (N, P, Q, C).
        input_shape: x's shape, (N, H, W, C).
        kernel_size: As in max_pool2d.
        stride: As in max_pool2d.
        padding: As in max_pool2d.
        fit: As in max_pool2d.
        out: Receives the result and must have its shape and dtype; by default a new array.

    Returns:
        dx: (N, H, W, C), of dy's dtype.

    Raises:
        TypeError: argmax is not of the dtype that max_pool2d returns.
    """
    backend = backend_of(dy=dy, argmax=argmax, optional=dict(out=out))
    shape = expect_volume_shape("input_shape", input_shape)
    problem = Pool2dProblem.of(shape, kernel_size, stride=stride, padding=padding, fit=fit)
    _expect_gradient(dy, problem, out)
    expect_shape("argmax", argmax, problem.y_shape, "the pool's output")
    expected = problem.argmax_dtype
    if argmax.dtype != expected:
        raise TypeError(f"argmax must be {expected.name}, as max_pool2d returns it, received {argmax.dtype.name}")
    dy, argmax = copy_if_overlapping([out], dy, argmax)
    return backend.pool.max_pool2d_backward(dy, argmax, problem, out=out)


@op("avg_pool2d.cu")
def avg_pool2d(
    x: ArrayT,
    kernel_size: Size,
    *,
    stride: Size | None = None,
    padding: Padding = 0,
    count_include_pad: bool = True,
    fit: str = "floor",
    out: ArrayT | None = None,
) -> ArrayT:
    """The mean of each window (PyTorch's rules).

    Args:
        x: (N, H, W, C), any float dtype.
        kernel_size: Height and width of a window: a number or (height, width).
        stride: Pixels from one window to the next; by default kernel_size.
        padding: Zeros around the input, given as in conv2d; less than kernel_size.
        count_include_pad: Divide by the number of a window's cells inside the padded input; False counts only those
            inside the input. Cells that "cover" adds past the padding never count.
        fit: "floor", "exact" or "cover": what happens where windows do not tile the padded input (see
            `gpuconv.ops`).
        out: Receives the result and must have its shape and dtype; by default a new array.

    Returns:
        y: (N, P, Q, C), of x's dtype.
    """
    backend = backend_of(x=x, optional=dict(out=out))
    shape = expect_float("x", x, "N H W C")
    problem = Pool2dProblem.of(shape, kernel_size, stride=stride, padding=padding, fit=fit)
    expect_out(out, problem.y_shape, x.dtype)
    (x,) = copy_if_overlapping([out], x)
    return backend.pool.avg_pool2d(x, problem, count_include_pad=flag("count_include_pad", count_include_pad), out=out)


@op("avg_pool2d.cu")
def avg_pool2d_backward(
    dy: ArrayT,
    *,
    input_shape: Sequence[int],
    kernel_size: Size,
    stride: Size | None = None,
    padding: Padding = 0,
    count_include_pad: bool = True,
    fit: str = "floor",
    out: ArrayT | None = None,
) -> ArrayT:
    """The gradient of avg_pool2d: dx of a cell is the sum, over the windows that read it, of dy divided by the number
    of cells in the window's mean.

    Args:
        dy: The gradient with respect to y, (N, P, Q, C), any float dtype.
        input_shape: x's shape, (N, H, W, C).
        kernel_size: As in avg_pool2d.
        stride: As in avg_pool2d.
        padding: As in avg_pool2d.
        count_include_pad: As in avg_pool2d.
        fit: As in avg_pool2d.
        out: Receives the result and must have its shape and dtype; by default a new array.

    Returns:
        dx: (N, H, W, C), of dy's dtype.
    """
    backend = backend_of(dy=dy, optional=dict(out=out))
    shape = expect_volume_shape("input_shape", input_shape)
    problem = Pool2dProblem.of(shape, kernel_size, stride=stride, padding=padding, fit=fit)
    _expect_gradient(dy, problem, out)
    (dy,) = copy_if_overlapping([out], dy)
    return backend.pool.avg_pool2d_backward(
        dy, problem, count_include_pad=flag("count_include_pad", count_include_pad), out=out
    )


@op("global_avg_pool2d.cu")
def global_avg_pool2d(x: ArrayT, *, out: ArrayT | None = None) -> ArrayT:
    """The mean of each map.

    Args:
        x: (N, H, W, C), any float dtype.
        out: Receives the result and must have its shape and dtype; by default a new array.

    Returns:
        y: (N, 1, 1, C), of x's dtype.

    Raises:
        ValueError: The maps are empty.
    """
    backend = backend_of(x=x, optional=dict(out=out))
    n, h, w, c = expect_float("x", x, "N H W C")
    if h * w == 0:
        raise ValueError(f"the mean over an empty map is undefined, received shape {(n, h, w, c)}")
    expect_out(out, (n, 1, 1, c), x.dtype)
    (x,) = copy_if_overlapping([out], x)
    return backend.pool.global_avg_pool2d(x, out=out)


@op("global_avg_pool2d.cu")
def global_avg_pool2d_backward(dy: ArrayT, *, input_shape: Sequence[int], out: ArrayT | None = None) -> ArrayT:
    """The gradient of global_avg_pool2d: dx = dy / (H * W) everywhere.

    Args:
        dy: (N, 1, 1, C), any float dtype.
        input_shape: x's shape, (N, H, W, C).
        out: Receives the result and must have its shape and dtype; by default a new array.

    Returns:
        dx: input_shape, of dy's dtype.
    """
    backend = backend_of(dy=dy, optional=dict(out=out))
    n, h, w, c = expect_volume_shape("input_shape", input_shape)
    expect_float("dy", dy, "N 1 1 C")
    expect_shape("dy", dy, (n, 1, 1, c), "one value for each map")
    expect_out(out, (n, h, w, c), dy.dtype)
    (dy,) = copy_if_overlapping([out], dy)
    return backend.pool.global_avg_pool2d_backward(dy, input_shape=(n, h, w, c), out=out)


def _expect_gradient(dy: Array, problem: Pool2dProblem, out: Array | None) -> None:
    expect_float("dy", dy, "N P Q C")
    expect_shape("dy", dy, problem.y_shape, "the pool's output")
    expect_out(out, problem.x_shape, dy.dtype)
