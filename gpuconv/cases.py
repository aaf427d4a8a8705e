"""Named convolution problems, shared by the tests of every backend and by `gpuconv verify`.

TINY  a handful of values, to be followed by hand
ODD   what breaks index arithmetic: prime sizes, uneven padding, strides above the filter, dilation, groups, depthwise,
      one pixel, one channel, an empty batch, each kind of fit
REAL  the layers of the nets of the zoo, with few images
`random_conv_cases()` is a Hypothesis strategy over all of that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpuconv import shapes

Pair = tuple[int, int]


@dataclass(frozen=True)
class ConvCase:
    """One convolution: input (n, h, w, c), k filters, and the window arguments in the form the backends take."""

    n: int
    h: int
    w: int
    c: int
    k: int
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1
    fit: str = "floor"

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.h, self.w, self.c

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        return self.k, *self.kernel_size, self.c // self.groups

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        """Raises ValueError where the filter does not fit."""
        p, q = shapes.output_hw(
            (self.h, self.w), self.kernel_size, self.stride, self.padding, self.dilation, self.fit
        )
        return self.n, p, q, self.k

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that all three directions take."""
        return dict(
            stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups, fit=self.fit
        )

    @property
    def reduction(self) -> dict[str, int]:
        """How many products each direction adds to a value, at most: what its tolerance is derived from."""
        _, p, q, _ = self.y_shape
        r, s = self.kernel_size
        return dict(
            fprop=r * s * self.c // self.groups, dgrad=r * s * self.k // self.groups, wgrad=self.n * p * q
        )

    def arrays(self, dtype: Any = np.float64, seed: int = 0) -> tuple[np.ndarray, ...]:
        """Signed random x, w, bias and dy."""
        rng = np.random.default_rng(seed)
        sizes = (self.x_shape, self.w_shape, (self.k,), self.y_shape)
        x, w, bias, dy = (rng.standard_normal(size).astype(dtype) for size in sizes)
        return x, w, bias, dy

    def __str__(self) -> str:
        (r, s), (sh, sw), (dh, dw), ((top, bottom), (left, right)) = (
            self.kernel_size, self.stride, self.dilation, self.padding
        )
        text = f"{self.n}x{self.h}x{self.w}x{self.c}-{self.k}x{r}x{s}"
        text += f"-s{sh}.{sw}" if self.stride != (1, 1) else ""
        text += f"-p{top}.{bottom}.{left}.{right}" if self.padding != ((0, 0), (0, 0)) else ""
        text += f"-d{dh}.{dw}" if self.dilation != (1, 1) else ""
        text += f"-g{self.groups}" if self.groups > 1 else ""
        return text + (f"-{self.fit}" if self.fit != "floor" else "")


def _square(n: int, size: int, c: int, k: int, kernel: int, stride: int, padding: int) -> ConvCase:
    """A row of the usual tables."""
    sides = (padding, padding)
    return ConvCase(n, size, size, c, k, (kernel, kernel), (stride, stride), (sides, sides))


TINY = [
    ConvCase(1, 1, 1, 1, 1, (1, 1)),
    ConvCase(1, 3, 3, 1, 1, (2, 2)),
    ConvCase(2, 2, 3, 8, 8, (1, 1)),  # 16 bytes at a time in every dtype, and in TF32
    ConvCase(2, 4, 4, 2, 3, (3, 3), padding=((1, 1), (1, 1))),
    ConvCase(1, 4, 4, 3, 2, (2, 2), stride=(2, 2)),
]

ODD = [
    ConvCase(2, 5, 7, 3, 5, (3, 3), padding=((1, 1), (1, 1))),
    ConvCase(3, 7, 5, 2, 3, (2, 3), padding=((0, 1), (2, 1))),  # even filter, uneven padding
    ConvCase(1, 11, 7, 3, 2, (3, 5), stride=(2, 3), padding=((2, 0), (1, 3))),
    ConvCase(2, 7, 11, 2, 3, (2, 1), stride=(3, 4)),  # strides above the filter: cells that no window reads
    ConvCase(1, 11, 13, 2, 3, (3, 3), padding=((2, 1), (0, 2)), dilation=(2, 3)),
    ConvCase(2, 9, 10, 2, 3, (3, 2), stride=(2, 2), padding=((1, 1), (1, 1)), dilation=(2, 3)),
    ConvCase(1, 13, 11, 1, 2, (3, 3), stride=(4, 6), padding=((3, 2), (2, 3)), dilation=(2, 4)),  # common divisors
    ConvCase(2, 5, 7, 6, 4, (3, 3), stride=(1, 2), padding=((1, 1), (1, 1)), groups=2),
    ConvCase(2, 7, 5, 5, 5, (3, 3), padding=((1, 1), (1, 1)), groups=5),  # depthwise
    ConvCase(2, 7, 9, 16, 16, (3, 2), stride=(2, 3), padding=((1, 0), (2, 1)), dilation=(1, 2), groups=16),
    ConvCase(1, 7, 5, 3, 6, (3, 2), stride=(2, 1), padding=((1, 0), (0, 1)), groups=3),  # two filters a channel
    ConvCase(1, 5, 5, 6, 3, (2, 2), groups=3),  # two channels a filter
    ConvCase(3, 1, 1, 5, 7, (1, 1)),  # one pixel
    ConvCase(2, 1, 1, 3, 2, (3, 3), padding=((1, 1), (1, 1))),  # one pixel amid padding
    ConvCase(2, 5, 3, 1, 1, (5, 3)),  # one channel, one window
    ConvCase(1, 1, 13, 1, 3, (1, 5), stride=(1, 2), padding=((0, 0), (4, 0))),
    ConvCase(1, 3, 4, 2, 2, (2, 2), padding=((3, 4), (5, 3))),  # more padding than filter
    ConvCase(2, 6, 7, 2, 3, (3, 3), stride=(2, 3), fit="cover"),
    ConvCase(1, 8, 8, 2, 2, (2, 2), stride=(3, 3), padding=((0, 0), (1, 0)), fit="cover"),
    ConvCase(1, 9, 7, 2, 2, (3, 3), stride=(2, 2), fit="exact"),
    ConvCase(0, 5, 7, 3, 2, (3, 3), padding=((1, 1), (1, 1))),  # empty batch
    ConvCase(2, 7, 12, 3, 10, (3, 3), padding=((1, 1), (1, 1))),
    ConvCase(1, 17, 19, 17, 37, (3, 3), padding=((1, 1), (1, 1))),  # beyond a tile in every direction
]

REAL = [
    _square(2, 32, 3, 12, 3, 1, 1),  # the seed net
    _square(2, 32, 3, 10, 3, 1, 1),  # tiny VGG
    _square(2, 32, 10, 10, 3, 1, 1),
    _square(2, 8, 10, 10, 3, 1, 1),
    _square(2, 32, 1, 6, 5, 1, 0),  # LeNet
    _square(2, 14, 6, 16, 5, 1, 0),
    _square(1, 32, 3, 64, 3, 1, 1),  # VGG
    _square(1, 32, 64, 64, 3, 1, 1),
    _square(1, 16, 64, 128, 3, 1, 1),
    _square(2, 8, 256, 256, 3, 1, 1),
    _square(4, 4, 256, 512, 3, 1, 1),
    _square(2, 32, 16, 16, 3, 1, 1),  # ResNet-20
    _square(2, 32, 16, 32, 3, 2, 1),
    _square(2, 16, 32, 64, 3, 2, 1),
    _square(1, 32, 64, 128, 1, 2, 0),  # ResNet-18's shortcut
    _square(2, 32, 3, 24, 2, 1, 0),  # airbench94
    _square(1, 31, 24, 64, 3, 1, 1),
    _square(1, 15, 64, 256, 3, 1, 1),
    _square(2, 3, 256, 256, 3, 1, 1),
    _square(1, 56, 3, 64, 7, 2, 3),  # ImageNet's first layer, on a quarter of its image
    replace(_square(1, 14, 96, 96, 3, 1, 1), groups=96),  # depthwise, then pointwise
    _square(1, 14, 96, 192, 1, 1, 0),
]


def random_conv_cases(largest: int = 13):
    """A Hypothesis strategy of convolutions that fit, with sides, channels and filters up to `largest`."""
    from hypothesis import assume
    from hypothesis import strategies as st

    @st.composite
    def cases(draw):
        def integers(low, high):
            return draw(st.integers(low, high))

        def pair(low, high):
            return integers(low, high), integers(low, high)

        groups = integers(1, 4)
        wide = max(1, largest // groups)
        case = ConvCase(
            n=integers(0, 3), h=integers(1, largest), w=integers(1, largest),
            c=groups * integers(1, wide), k=groups * integers(1, wide),
            kernel_size=pair(1, 4), stride=pair(1, 4), padding=(pair(0, 3), pair(0, 3)), dilation=pair(1, 3),
            groups=groups, fit=draw(st.sampled_from(["floor", "cover"])),
        )
        room = [
            size + sum(padding) - dilation * (kernel - 1)
            for size, padding, dilation, kernel in zip((case.h, case.w), case.padding, case.dilation, case.kernel_size)
        ]
        assume(min(room) >= 1)
        return case

    return cases()
