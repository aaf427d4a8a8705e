"""What an operation must at least do: floating-point operations and bytes of memory, and the time these take.

The floor is the larger of the two times: every input read once and every output written once at the rate of the
device's own copy, every multiply and add at the rate of its matrix product (`gpuconv.profiling.peaks`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpuconv.shapes import output_hw


@dataclass(frozen=True)
class Ceilings:
    """A device's rates. copy: bytes a second, read plus written. matrix: FLOP a second of a matrix product by dtype."""

    copy: float
    matrix: Mapping[str, float]


@dataclass(frozen=True)
class Work:
    """flops: multiplies and adds. bytes: the least that must pass through memory."""

    flops: float
    bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def floor(self, ceilings: Ceilings, dtype: str) -> float:
        """Seconds. A dtype without a measured rate is bound by its bytes alone."""
        rate = ceilings.matrix.get(dtype, math.inf)
        return max(self.flops / rate, self.bytes / ceilings.copy)


def convolution(
    x_shape: Sequence[int], w_shape: Sequence[int], *, stride: tuple[int, int] = (1, 1),
    padding: tuple = ((0, 0), (0, 0)), dilation: tuple[int, int] = (1, 1), itemsize: int, fit: str = "floor",
    direction: str = "fprop",
) -> Work:
    """One direction ("fprop", "dgrad" or "wgrad") of a convolution: two of x, w and y are read, the third is written.

    x_shape: (N, H, W, C). w_shape: (K, R, S, C // groups). The other arguments are in normalised form, as backends take
    them. Taps that fall on padding are counted, as is usual.
    """
    if direction not in ("fprop", "dgrad", "wgrad"):
        raise ValueError(f"a direction is fprop, dgrad or wgrad, received {direction!r}")
    p, q = output_hw((x_shape[1], x_shape[2]), (w_shape[1], w_shape[2]), stride, padding, dilation, fit)
    y_size = x_shape[0] * p * q * w_shape[0]
    volumes = math.prod(x_shape) + math.prod(w_shape) + y_size
    return Work(2.0 * y_size * math.prod(w_shape[1:]), float(volumes * itemsize))
