"""The kernels' description of a convolution: `struct Convolution` of kernels/convolution.cuh."""

from __future__ import annotations

import functools

import numpy as np

from gpuconv.backends.cuda.runtime.structs import FAST_DIVMOD, fast_divmod, struct
from gpuconv.few_channels import patch_lines
from gpuconv.integers import ceil_div
from gpuconv.problems import Conv2dProblem

# Kernels count elements in 64 bits. They count pixels and taps in 32 bits, including those of a tile that reaches past
# the end. The sum of two coordinates must fit in 32 bits.
_MOST_PIXELS, _LONGEST_SIDE = 2**31 - 2**16, 2**29

# Limits of the tap table in kernels/tap_iterator.cuh: the number of taps; the rows plus the columns of a filter (a mask
# has a bit for each); the distance from the first tap to the last, in elements.
_MOST_TAPS, _MOST_TAP_BITS, _FURTHEST_TAP = 72, 31, 2**31 - 1

_SIZES = ("n", "h", "w", "c", "p", "q", "k", "r", "s", "all_channels", "all_filters", "top", "left")
_DIVISORS = ("pq", "q_width", "channels", "filters", "taps_across", "stride_h", "stride_w")
_PHASE_SIZES = ("phase_h", "phase_w", "tap_step_h", "tap_step_w", "window_step_h", "window_step_w")
_PHASE_DIVISORS = ("phases", "phase_hw", "phase_width", "fewer_across", "more_across")
_CONVOLUTION = np.dtype(
    [(name, np.int32) for name in (*_SIZES, "dilation_h", "dilation_w")]
    + [(name, FAST_DIVMOD) for name in _DIVISORS]
    + [(name, np.int32) for name in _PHASE_SIZES]
    + [(name, FAST_DIVMOD) for name in _PHASE_DIVISORS]
    + [("image_lines", FAST_DIVMOD)]
    + [(name, np.int32) for name in ("patch_lines", "y_pitch", "x_pitch", "unused")],
    align=True,
)


@functools.lru_cache(maxsize=4096)
def expect_within_limits(problem: Conv2dProblem) -> None:
    """Raises ValueError for a convolution whose pixels, filters, sides or strides the kernels' integers cannot hold."""
    n, h, w, p, q, r, s = problem.n, problem.h, problem.w, problem.p, problem.q, problem.r, problem.s
    (stride_h, stride_w), (dilation_h, dilation_w), padding = problem.stride, problem.dilation, problem.padding
    for what, size in (("input", n * h * w), ("output", n * p * q)):
        if size > _MOST_PIXELS:
            raise ValueError(
                f"a convolution has at most {_MOST_PIXELS} {what} pixels, received {size}: use a smaller batch"
            )
    depth = r * s * max(problem.c, problem.k) // problem.groups
    if depth > _MOST_PIXELS:
        raise ValueError(
            f"the taps of a filter, times the channels or filters of a group, are at most {_MOST_PIXELS}, "
            f"received {depth}"
        )
    side = max(h + sum(padding[0]), w + sum(padding[1]), dilation_h * r, dilation_w * s)
    if side > _LONGEST_SIDE:
        raise ValueError(f"a padded input and a dilated filter have sides of at most {_LONGEST_SIDE}, received {side}")
    if stride_h * stride_w > _MOST_PIXELS:
        raise ValueError(f"the product of both strides is at most {_MOST_PIXELS}, received strides {problem.stride}")


@functools.lru_cache(maxsize=4096)
def packed(problem: Conv2dProblem, pool: int, y_pitch: int = 0, x_pitch: int = 0) -> np.void:
    """The struct for a problem within the limits. With a pool, the kernels compute only pixels in complete windows.

    y_pitch, x_pitch: elements from one pixel to the next of y or dy, and of x or dx; by default K and C."""
    n, h, w, r, s = problem.n, problem.h, problem.w, problem.r, problem.s
    (stride_h, stride_w), (dilation_h, dilation_w), padding = problem.stride, problem.dilation, problem.padding
    _, y_h, y_w, _ = problem.pooled_shape(pool)
    p, q, c, k = y_h * pool, y_w * pool, problem.c // problem.groups, problem.k // problem.groups
    sizes = (n, h, w, c, p, q, k, r, s, problem.c, problem.k, padding[0][0], padding[1][0], dilation_h, dilation_w)
    phase_h, phase_w, (step_h, step_w) = ceil_div(h, stride_h), ceil_div(w, stride_w), problem.tap_step
    phase = (phase_h, phase_w, step_h, step_w, dilation_h * step_h // stride_h, dilation_w * step_w // stride_w)
    divisors = _divmods(y_h * y_w, y_w, c, k, s, stride_h, stride_w)
    phase_divisors = _divmods(stride_h * stride_w, phase_h * phase_w, phase_w, s // step_w, s // step_w + 1)
    (image_lines,) = _divmods((p - 1) * stride_h + (r - 1) * dilation_h + 1)
    last = patch_lines(problem, pool), y_pitch or problem.k, x_pitch or problem.c, 0
    return struct(_CONVOLUTION, *sizes, *divisors, *phase, *phase_divisors, image_lines, *last)


def _divmods(*divisors: int) -> list[tuple[int, int, int]]:
    """The members of a `struct FastDivmod` for each divisor, with 1 in place of 0, which it cannot hold."""
    return [fast_divmod(max(1, divisor)) for divisor in divisors]


def fits_tap_table(problem: Conv2dProblem, pool: int, pitch: int = 0) -> bool:
    """Whether the taps of the filters fit in the table of kernels/tap_iterator.cuh. pitch: `packed`'s
    x_pitch or y_pitch; 0 for that of contiguous arrays."""
    width = max(problem.w, problem.pooled_shape(pool)[2] * pool)
    reach = (problem.r - 1) * problem.dilation[0] * width + (problem.s - 1) * problem.dilation[1] + 1
    near = reach * max(problem.c, problem.k, pitch) <= _FURTHEST_TAP
    return problem.r * problem.s <= _MOST_TAPS and problem.r + problem.s <= _MOST_TAP_BITS and near
