"""Lists of convolutions, shared by the tests of every backend and by `gpuconv verify`.

TINY  a few values, small enough to check by hand
ODD   shapes that stress index arithmetic: prime sizes, uneven padding, strides larger than the filter, dilation,
      groups, depthwise, one pixel, one channel, an empty batch, each kind of fit
REAL  layers like those of the built-in nets, with few images
`random_convolutions()` is a Hypothesis strategy of further small problems.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from gpuconv.arguments import pair
from gpuconv.problems import Conv2dProblem
from gpuconv.types import Size

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def conv(n: int, h: int, w: int, c: int, k: int, kernel_size: Size, *, groups: int = 1, **window: Any) -> Conv2dProblem:
    """The convolution of n images of h x w x c by k filters. window: stride, padding, dilation and fit of
    `gpuconv.ops.conv2d`."""
    w_shape = k, *pair("kernel_size", kernel_size, 1), c // groups
    return Conv2dProblem.of((n, h, w, c), w_shape, groups=groups, **window)


def random_arrays(problem: Conv2dProblem, dtype: DTypeLike = np.float64) -> tuple[np.ndarray, ...]:
    """(x, w, bias, dy) of normally distributed numbers."""
    rng = np.random.default_rng(0)
    shapes = problem.x_shape, problem.w_shape, (problem.k,), problem.y_shape
    return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)


def reduction(problem: Conv2dProblem, direction: str) -> int:
    """The largest number of products that a direction ("fprop", "dgrad" or "wgrad") sums up for one value. The error
    bound follows from it."""
    return problem.implicit_gemm(direction)[2]


TINY = [
    conv(1, 1, 1, 1, 1, 1),
    conv(1, 3, 3, 1, 1, 2),
    conv(2, 2, 3, 8, 8, 1),  # 16-byte copies in every dtype, and in TF32
    conv(2, 4, 4, 2, 3, 3, padding=1),
    conv(1, 4, 4, 3, 2, 2, stride=2),
]

ODD = [
    conv(2, 5, 7, 3, 5, 3, padding=1),
    conv(3, 7, 5, 2, 3, (2, 3), padding=((0, 1), (2, 1))),  # even filter, uneven padding
    conv(1, 11, 7, 3, 2, (3, 5), stride=(2, 3), padding=((2, 0), (1, 3))),
    conv(2, 7, 11, 2, 3, (2, 1), stride=(3, 4)),  # strides larger than the filter: some pixels are in no window
    conv(1, 11, 13, 2, 3, 3, padding=((2, 1), (0, 2)), dilation=(2, 3)),
    conv(2, 9, 10, 2, 3, (3, 2), stride=2, padding=1, dilation=(2, 3)),
    conv(1, 13, 11, 1, 2, 3, stride=(4, 6), padding=((3, 2), (2, 3)), dilation=(2, 4)),  # gcd(stride, dilation) is 2
    conv(2, 5, 7, 6, 4, 3, stride=(1, 2), padding=1, groups=2),
    conv(2, 7, 5, 5, 5, 3, padding=1, groups=5),  # depthwise
    conv(2, 7, 9, 16, 16, (3, 2), stride=(2, 3), padding=((1, 0), (2, 1)), dilation=(1, 2), groups=16),
    conv(1, 7, 5, 3, 6, (3, 2), stride=(2, 1), padding=((1, 0), (0, 1)), groups=3),  # two filters for each channel
    conv(1, 5, 5, 6, 3, 2, groups=3),  # two channels for each filter
    conv(3, 1, 1, 5, 7, 1),  # one pixel
    conv(2, 1, 1, 3, 2, 3, padding=1),  # one pixel amid padding
    conv(2, 5, 3, 1, 1, (5, 3)),  # one channel, one window
    conv(1, 1, 13, 1, 3, (1, 5), stride=(1, 2), padding=((0, 0), (4, 0))),
    conv(1, 3, 4, 2, 2, 2, padding=((3, 4), (5, 3))),  # more padding than filter
    conv(2, 6, 7, 2, 3, 3, stride=(2, 3), fit="cover"),
    conv(1, 8, 8, 2, 2, 2, stride=3, padding=((0, 0), (1, 0)), fit="cover"),
    conv(1, 9, 7, 2, 2, 3, stride=2, fit="exact"),
    conv(0, 5, 7, 3, 2, 3, padding=1),  # empty batch
    conv(2, 7, 12, 3, 10, 3, padding=1),
    conv(1, 17, 19, 17, 37, 3, padding=1),  # larger than a tile in every direction
]

REAL = [
    conv(2, 32, 32, 3, 12, 3, padding=1),  # the first net of the CS231n notes
    conv(2, 32, 32, 3, 10, 3, padding=1),  # tiny VGG
    conv(2, 32, 32, 10, 10, 3, padding=1),
    conv(2, 8, 8, 10, 10, 3, padding=1),
    conv(2, 32, 32, 1, 6, 5),  # LeNet
    conv(2, 14, 14, 6, 16, 5),
    conv(1, 32, 32, 3, 64, 3, padding=1),  # VGG
    conv(1, 32, 32, 64, 64, 3, padding=1),
    conv(1, 16, 16, 64, 128, 3, padding=1),
    conv(2, 8, 8, 256, 256, 3, padding=1),
    conv(4, 4, 4, 256, 512, 3, padding=1),
    conv(2, 32, 32, 16, 16, 3, padding=1),  # ResNet-20
    conv(2, 32, 32, 16, 32, 3, stride=2, padding=1),
    conv(2, 16, 16, 32, 64, 3, stride=2, padding=1),
    conv(1, 32, 32, 64, 128, 1, stride=2),  # ResNet-18's shortcut
    conv(2, 32, 32, 3, 24, 2),  # airbench94
    conv(1, 31, 31, 24, 64, 3, padding=1),
    conv(1, 15, 15, 64, 256, 3, padding=1),
    conv(2, 3, 3, 256, 256, 3, padding=1),
    conv(1, 56, 56, 3, 64, 7, stride=2, padding=3),  # ResNet's first layer for ImageNet, on 1/16 of the image
    conv(1, 14, 14, 96, 96, 3, padding=1, groups=96),  # depthwise, then pointwise
    conv(1, 14, 14, 96, 192, 1),
]


def random_convolutions(largest: int = 13) -> SearchStrategy[Conv2dProblem]:
    """A Hypothesis strategy of convolutions that fit, with sides, channels and filters up to `largest`."""
    from hypothesis import assume
    from hypothesis import strategies as st

    @st.composite
    def problems(draw: Callable[..., Any]) -> Conv2dProblem:
        def integers(low: int, high: int) -> int:
            return draw(st.integers(low, high))

        def pairs(low: int, high: int) -> tuple[int, int]:
            return integers(low, high), integers(low, high)

        groups = integers(1, min(4, largest))
        widest = largest // groups
        n, h, w = integers(0, 3), integers(1, largest), integers(1, largest)
        c, k = groups * integers(1, widest), groups * integers(1, widest)
        kernel_size, stride, padding, dilation = pairs(1, 4), pairs(1, 4), (pairs(0, 3), pairs(0, 3)), pairs(1, 3)
        spans = [dilated * (kernel - 1) + 1 for dilated, kernel in zip(dilation, kernel_size)]
        assume(all(size + sum(sides) >= span for size, sides, span in zip((h, w), padding, spans)))
        fit = draw(st.sampled_from(["floor", "cover"]))
        window = dict(stride=stride, padding=padding, dilation=dilation, groups=groups, fit=fit)
        return conv(n, h, w, c, k, kernel_size, **window)

    return problems()
