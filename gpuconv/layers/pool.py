"""POOL: the maximum or the mean of each window."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from itertools import pairwise

from gpuconv import arguments, ops
from gpuconv.integers import ceil_div
from gpuconv.layers.base import Layer
from gpuconv.layers.shapes import expect_axes
from gpuconv.names import canonical
from gpuconv.problems import FITS, Pool2dProblem
from gpuconv.types import Array, Options, Padding, Shape, Size
from gpuconv.window_sizes import canonical_padding, padding_pairs


@dataclass(eq=False, repr=False)
class Pool2D(Layer, base=True):
    """The base of max and average pooling: (H, W, C) -> (P, Q, C).

    Args:
        kernel_size: Height and width of a window: a number or (height, width).
        stride: Pixels from one window to the next; by default kernel_size.
        padding: A number, (height, width), ((top, bottom), (left, right)), "same" (only at stride 1) or "valid".
        fit: "floor", "exact" or "cover", as in `gpuconv.ops`.
    """

    stem = "pool"
    writes_slices = reads_slices = takes_slices = True

    kernel_size: Size
    _: KW_ONLY
    stride: Size | None = None
    padding: Padding = 0
    fit: str = "floor"

    def __post_init__(self) -> None:
        super().__post_init__()
        kernel_size = arguments.pair("kernel_size", self.kernel_size, 1)
        stride = kernel_size if self.stride is None else arguments.pair("stride", self.stride, 1)
        self.padding = canonical_padding(self.padding)
        padding_pairs(self.padding, kernel_size, stride)
        self.fit = canonical("fit", self.fit, FITS)

    def plan(self, input_shape: Shape) -> Shape:
        expect_axes(input_shape, "H W C")
        self.problem = Pool2dProblem.of(
            (1, *input_shape), self.kernel_size, stride=self.stride, padding=self.padding, fit=self.fit
        )
        return self.problem.y_shape[1:]

    @property
    def options(self) -> Options:
        """The keyword arguments of both directions."""
        problem = self.problem
        return dict(kernel_size=problem.kernel_size, stride=problem.stride, padding=problem.padding, fit=problem.fit)


@dataclass(eq=False, repr=False)
class MaxPool2D(Pool2D):
    """The maximum of each window; see `gpuconv.ops.max_pool2d`."""

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        y, argmax = ops.max_pool2d(x, **self.options, out=out)
        self.stash(argmax, x.shape)
        return y

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        argmax, input_shape = self.unstash()
        return ops.max_pool2d_backward(dy, argmax, input_shape=input_shape, **self.options) if input_grad else None


@dataclass(eq=False, repr=False)
class AvgPool2D(Pool2D):
    """The mean of each window; see `gpuconv.ops.avg_pool2d`.

    Args:
        count_include_pad: Whether to divide by the number of a window's cells inside the padded input; False counts
            only the cells inside the input.
    """

    _: KW_ONLY
    count_include_pad: bool = True

    @property
    def options(self) -> Options:
        return super().options | dict(count_include_pad=self.count_include_pad)

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        self.stash(x.shape)
        return ops.avg_pool2d(x, **self.options, out=out)

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        (input_shape,) = self.unstash()
        return ops.avg_pool2d_backward(dy, input_shape=input_shape, **self.options) if input_grad else None


@dataclass(eq=False, repr=False)
class AdaptiveAvgPool2D(Layer):
    """The mean of each of P x Q equal windows that cover the map: (H, W, C) -> (P, Q, C).

    Window p reads the rows from floor(p * H / P) up to but not including ceil((p + 1) * H / P), as in PyTorch. All
    windows must have the same size and distance, for example because P divides H; then this is an average pool.

    Args:
        output_size: P and Q: a number or (P, Q).
    """

    stem = "pool"
    slides = False
    writes_slices = reads_slices = takes_slices = True

    output_size: Size

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments.pair("output_size", self.output_size, 1)

    def plan(self, input_shape: Shape) -> Shape:
        expect_axes(input_shape, "H W C")
        p, q = arguments.pair("output_size", self.output_size, 1)
        windows = [_adaptive(size, count) for size, count in zip(input_shape, (p, q))]
        self.kernel_size, self.stride = zip(*windows)
        return p, q, input_shape[2]

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        self.stash(x.shape)
        return ops.avg_pool2d(x, self.kernel_size, stride=self.stride, out=out)

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        (input_shape,) = self.unstash()
        if not input_grad:
            return None
        return ops.avg_pool2d_backward(dy, input_shape=input_shape, kernel_size=self.kernel_size, stride=self.stride)

    def as_sliding(self, flattened: Shape | None) -> tuple[Layer, Shape | None]:
        return AvgPool2D(self.kernel_size, stride=self.stride, name=self.name), flattened


def _adaptive(size: int, count: int) -> tuple[int, int]:
    """The kernel size and stride of `count` windows over `size` pixels."""
    starts = [number * size // count for number in range(count)]
    kernels = {ceil_div((number + 1) * size, count) - start for number, start in enumerate(starts)}
    strides = {after - before for before, after in pairwise(starts)} or {size}
    if len(kernels) > 1 or len(strides) > 1 or 0 in strides:
        near = [each for each in (count * (size // count), count * ceil_div(size, count)) if each]
        raise ValueError(
            f"{count} windows over {size} pixels differ in size or distance; an input of "
            f"{' or '.join(map(str, dict.fromkeys(near)))} pixels would fit"
        )
    return kernels.pop(), strides.pop()


@dataclass(eq=False, repr=False)
class GlobalAvgPool2D(Layer):
    """The mean of each map: (H, W, C) -> (1, 1, C)."""

    stem = "pool"
    slides = False
    writes_slices = reads_slices = takes_slices = True

    def plan(self, input_shape: Shape) -> Shape:
        expect_axes(input_shape, "H W C")
        return (1, 1, input_shape[2])

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        self.stash(x.shape)
        return ops.global_avg_pool2d(x, out=out)

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        (input_shape,) = self.unstash()
        return ops.global_avg_pool2d_backward(dy, input_shape=input_shape) if input_grad else None

    def as_sliding(self, flattened: Shape | None) -> tuple[Layer, Shape | None]:
        assert self.input_shape is not None
        return AvgPool2D((self.input_shape[0], self.input_shape[1]), stride=1, name=self.name), flattened
