"""The sizes of a convolution, a pool or a linear layer, and its epilogue.

Problems are cached: two calls with the same shapes get the same object, as long as it is among the last 4096. So the
object serves as a cache key for data prepared for the problem, such as kernel arguments. A problem holds no arrays.
Letters are those of CUTLASS and cuDNN: input N x H x W x C, K filters of R x S taps, output N x P x Q x K. Creating a
problem raises ValueError if the sizes do not fit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# "as" marks names that can also be imported from here, their former place.
from gpuconv.activations import ACTIVATIONS as ACTIVATIONS
from gpuconv.activations import Activation as Activation
from gpuconv.arguments import integer, pair
from gpuconv.batch_augmentation import BatchAugmentation as BatchAugmentation
from gpuconv.integers import ceil_div
from gpuconv.names import lookup
from gpuconv.types import Options, Padding, PaddingPairs, Pair, Size
from gpuconv.window_sizes import NO_PADDING, expect_memory, output_hw, padding_pairs

FITS = {name: name for name in ("floor", "exact", "cover")}
DIRECTIONS = ("fprop", "dgrad", "wgrad")
MOST_FEW_CHANNELS = 4  # the most input channels for which the algorithms for few channels apply

_cached = functools.lru_cache(maxsize=4096)


@dataclass(frozen=True)
class Epilogue:
    """What a convolution or a linear layer does to its accumulators before it stores them. Gradient ops take the pool
    and the mask of the forward pass; they need no activation, because the mask says where gradients pass.

    activation: one of `gpuconv.activations.ACTIVATIONS`, or None. pool: 2 for max pooling of 2 x 2 windows at stride 2,
    1 for none. masked: whether the forward pass also stores a mask of where gradients pass, which gradient ops read;
    see `gpuconv.ops.conv2d_relu`. moments: also compute each filter's statistics. saves_input: also store the
    activation's input. norm_sums: also compute the sums that the backward pass of a batch norm needs. This is only for
    dgrad of a convolution whose input the norm computed; `activation` is then the one that followed the norm.
    """

    activation: str | None = None
    pool: int = 1
    masked: bool = False
    moments: bool = False
    saves_input: bool = False
    norm_sums: bool = False

    @staticmethod
    def of(
        activation: str | None = None,
        pool: int = 1,
        masked: bool = False,
        moments: bool = False,
        saves_input: bool = False,
        norm_sums: bool = False,
    ) -> Epilogue:
        """The epilogue with these flags, the same object each time."""
        return _epilogue(activation, pool, masked, moments, saves_input, norm_sums)

    @property
    def plain_store(self) -> bool:
        """Whether the output is all that is stored: no mask, statistics or second array."""
        return not (self.masked or self.moments or self.saves_input or self.norm_sums)


_epilogue = _cached(Epilogue)
PLAIN = Epilogue.of()  # the accumulators are stored unchanged


@dataclass(frozen=True, eq=False)  # compared and hashed by identity
class Conv2dProblem:
    """A convolution: x (n, h, w, c) with filters (k, r, s, c // groups) gives y (n, p, q, k).

    stride, dilation: (height, width). padding: ((top, bottom), (left, right)). Made by `of`.
    """

    n: int
    h: int
    w: int
    c: int
    k: int
    r: int
    s: int
    p: int
    q: int
    stride: Pair
    padding: PaddingPairs
    dilation: Pair
    groups: int
    fit: str

    @staticmethod
    def of(
        x_shape: Sequence[int],
        w_shape: Sequence[int],
        *,
        stride: Size = 1,
        padding: Padding = 0,
        dilation: Size = 1,
        groups: int = 1,
        fit: str = "floor",
    ) -> Conv2dProblem:
        """The problem of an input (N, H, W, C) and filters (K, R, S, C // groups); windows as in `gpuconv.ops`."""
        kernel_size = pair("kernel_size", tuple(w_shape[1:3]), 1)
        stride, dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
        padding = padding_pairs(padding, kernel_size, stride, dilation)
        groups, fit = integer("groups", groups, 1), lookup("fit", fit, FITS)
        return _conv2d(*x_shape, w_shape[0], *kernel_size, w_shape[3], stride, padding, dilation, groups, fit)

    @functools.cached_property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.h, self.w, self.c

    @functools.cached_property
    def w_shape(self) -> tuple[int, int, int, int]:
        return self.k, self.r, self.s, self.c // self.groups

    @functools.cached_property
    def y_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.p, self.q, self.k

    @property
    def kernel_size(self) -> Pair:
        return self.r, self.s

    @property
    def window(self) -> Options:
        """The keyword arguments of `gpuconv.ops.conv2d` that define the windows."""
        return dict(stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups, fit=self.fit)

    @property
    def depthwise(self) -> bool:
        """Whether there are several groups, of one input channel each."""
        return self.groups > 1 and self.c == self.groups

    @property
    def few_channels(self) -> bool:
        """Whether there is one group, of few channels, with filters larger than a pixel, as in a net's first layer. The
        algorithms for few channels also need enough shared memory (`gpuconv.few_channels`)."""
        return self.groups == 1 and 1 <= self.c <= MOST_FEW_CHANNELS and self.r * self.s > 1

    def pooled_shape(self, pool: int) -> tuple[int, int, int, int]:
        """The shape of y after a max pool of `pool` x `pool` windows; `pool` is 1 or 2."""
        return self.n, self.p // pool, self.q // pool, self.k

    def mask_shape(self, pool: int) -> tuple[int, int, int, int]:
        """The shape of the mask that `gpuconv.ops.conv2d_relu` returns."""
        n, p, q, k = self.pooled_shape(pool)
        return n, p, q, self.groups * ceil_div(k // self.groups * pool**2, 8)

    @property
    def tap_step(self) -> Pair:
        """The distance along height and width, in taps, between the taps that read one input pixel: those where tap *
        dilation and pixel + padding are equal modulo the stride."""
        step_h, step_w = (stride // math.gcd(stride, dilated) for stride, dilated in zip(self.stride, self.dilation))
        return step_h, step_w

    def implicit_gemm(self, direction: str, pool: int = 1) -> tuple[int, int, int, int]:
        """(m, n, k, batches) of a direction's matrix product: rows, columns, depth, and the number of products.

        pool: as in `Epilogue`; in fprop and wgrad only output pixels of complete pool windows count. dgrad is one
        product for each phase of the stride; the result describes the largest of them.
        """
        c, k, taps = self.c // self.groups, self.k // self.groups, self.r * self.s
        pixels = math.prod(self.pooled_shape(pool)[:3]) * pool**2
        if direction == "fprop":
            return pixels, k, taps * c, self.groups
        if direction == "wgrad":
            return k, taps * c, pixels, self.groups
        (stride_h, stride_w), (step_h, step_w) = self.stride, self.tap_step
        rows = self.n * ceil_div(self.h, stride_h) * ceil_div(self.w, stride_w)
        return rows, c, ceil_div(self.r, step_h) * ceil_div(self.s, step_w) * k, self.groups * stride_h * stride_w

    def __reduce__(self) -> tuple[object, ...]:
        """Copying or unpickling gives the cached object."""
        window = self.stride, self.padding, self.dilation, self.groups, self.fit
        return _conv2d, (*self.x_shape, *self.w_shape, *window)

    def __str__(self) -> str:
        """Such as "2x32x32x3-12x3x3-p1.1.1.1": the input, the filters, and options that are not the default."""
        ((top, bottom), (left, right)) = self.padding
        text = f"{self.n}x{self.h}x{self.w}x{self.c}-{self.k}x{self.r}x{self.s}"
        text += f"-s{self.stride[0]}.{self.stride[1]}" if self.stride != (1, 1) else ""
        text += f"-p{top}.{bottom}.{left}.{right}" if self.padding != NO_PADDING else ""
        text += f"-d{self.dilation[0]}.{self.dilation[1]}" if self.dilation != (1, 1) else ""
        text += f"-g{self.groups}" if self.groups > 1 else ""
        return text + (f"-{self.fit}" if self.fit != "floor" else "")


@dataclass(frozen=True, eq=False)  # compared and hashed by identity
class Pool2dProblem:
    """A pool: x (n, h, w, c) in windows of r x s gives y (n, p, q, c). Other fields as in `Conv2dProblem`."""

    n: int
    h: int
    w: int
    c: int
    r: int
    s: int
    p: int
    q: int
    stride: Pair
    padding: PaddingPairs
    fit: str

    @staticmethod
    def of(
        x_shape: Sequence[int],
        kernel_size: Size,
        *,
        stride: Size | None = None,
        padding: Padding = 0,
        fit: str = "floor",
    ) -> Pool2dProblem:
        """The problem of an input (N, H, W, C); stride defaults to kernel_size."""
        kernel_size = pair("kernel_size", kernel_size, 1)
        stride = kernel_size if stride is None else pair("stride", stride, 1)
        padding = padding_pairs(padding, kernel_size, stride)
        return _pool2d(*x_shape, *kernel_size, stride, padding, lookup("fit", fit, FITS))

    @functools.cached_property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.h, self.w, self.c

    @functools.cached_property
    def y_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.p, self.q, self.c

    @property
    def kernel_size(self) -> Pair:
        return self.r, self.s

    @property
    def dilation(self) -> Pair:
        return 1, 1

    def __reduce__(self) -> tuple[object, ...]:
        return _pool2d, (*self.x_shape, self.r, self.s, self.stride, self.padding, self.fit)

    @functools.cached_property
    def argmax_dtype(self) -> np.dtype:
        """The smallest unsigned dtype that holds every index inside a window."""
        return np.min_scalar_type(self.r * self.s - 1)


@dataclass(frozen=True, eq=False)  # compared and hashed by identity
class LinearProblem:
    """A fully connected layer: x (n, c) with weights (k, c) gives y (n, k)."""

    n: int
    c: int
    k: int

    @staticmethod
    def of(x_shape: Sequence[int], w_shape: Sequence[int]) -> LinearProblem:
        return _linear(*x_shape, w_shape[0])

    def __reduce__(self) -> tuple[object, ...]:
        return _linear, (self.n, self.c, self.k)

    @property
    def x_shape(self) -> tuple[int, int]:
        return self.n, self.c

    @property
    def w_shape(self) -> tuple[int, int]:
        return self.k, self.c

    @property
    def y_shape(self) -> tuple[int, int]:
        return self.n, self.k

    @functools.cached_property
    def convolution(self) -> Conv2dProblem:
        """The equivalent convolution of maps with one pixel."""
        return Conv2dProblem.of((self.n, 1, 1, self.c), (self.k, 1, 1, self.c))


_linear = _cached(LinearProblem)


def channels_first(*names: str) -> str:
    """A hint for arrays whose shapes would fit in PyTorch's layout."""
    moved = " and ".join(f"{name}.transpose(0, 2, 3, 1)" for name in names)
    return f"; that is PyTorch's layout, channels before rows and columns: {moved} moves C last"


def _layout_hint(h: int, c: int, r: int, filter_channels: int, groups: int) -> str:
    """The hint if c and filter_channels do not fit each other, and x, w or both seem to be in PyTorch's layout; else
    "". The arguments are sizes from the shapes of x and w."""
    if c == filter_channels * groups:
        return ""
    if h == filter_channels * groups:
        return channels_first("x")
    if c == r * groups:
        return channels_first("w")
    return channels_first("x", "w") if h == r * groups else ""


@_cached
def _conv2d(
    n: int,
    h: int,
    w: int,
    c: int,
    k: int,
    r: int,
    s: int,
    filter_channels: int,
    stride: Pair,
    padding: PaddingPairs,
    dilation: Pair,
    groups: int,
    fit: str,
) -> Conv2dProblem:
    if c % groups or k % groups:
        raise ValueError(
            f"groups must divide the channels and the filters, received {groups} groups, {c} channels, {k} filters"
            f"{_layout_hint(h, c, r, filter_channels, groups)}"
        )
    if filter_channels * groups != c:
        raise ValueError(
            f"the filters read {filter_channels} channels in each of {groups} group(s), so the input must have "
            f"{filter_channels * groups} channels, received {c}{_layout_hint(h, c, r, filter_channels, groups)}"
        )
    p, q = output_hw((h, w), (r, s), stride, padding, dilation, fit)
    expect_memory("the output", (n, p, q, k))
    return Conv2dProblem(n, h, w, c, k, r, s, p, q, stride, padding, dilation, groups, fit)


@_cached
def _pool2d(
    n: int, h: int, w: int, c: int, r: int, s: int, stride: Pair, padding: PaddingPairs, fit: str
) -> Pool2dProblem:
    if any(side >= size for sides, size in zip(padding, (r, s)) for side in sides):
        raise ValueError(
            f"a pool's padding must be smaller than its kernel_size {(r, s)}, or a window would contain "
            f"only padding; received {padding}"
        )
    if h * w == 0:
        raise ValueError(f"a pool needs maps of at least one pixel, received shape {(n, h, w, c)}")
    p, q = output_hw((h, w), (r, s), stride, padding, fit=fit)
    expect_memory("the output", (n, p, q, c))
    return Pool2dProblem(n, h, w, c, r, s, p, q, stride, padding, fit)
