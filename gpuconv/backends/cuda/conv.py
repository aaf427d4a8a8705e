"""Convolution: launchers of kernels/conv2d_fprop.cu, conv2d_dgrad.cu and conv2d_wgrad.cu, and where it is depthwise."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from gpuconv.algorithms import DEPTHWISE, arithmetic_of, checked, first_bytes, patch_lines
from gpuconv.backends.cuda import depthwise, gemm
from gpuconv.backends.cuda.bias import bias_grad
from gpuconv.backends.cuda.device_array import empty
from gpuconv.backends.cuda.launch import ceil_div, contiguous, updated, write_to
from gpuconv.dtypes import accumulation_dtype
from gpuconv.shapes import mask_shape, output_hw

__all__ = ["conv2d", "conv2d_backward", "conv2d_dgrad", "conv2d_relu", "conv2d_wgrad"]

DIRECTIONS = ("fprop", "dgrad", "wgrad")

# Kernels count pixels and taps in 32 bits, a tile past the end included, and add two coordinates; elements: 64 bits.
_MOST_LINES, _LONGEST_SIDE = 2**31 - 2**16, 2**29

# Of the table of kernels/tile_iterator.cuh: taps, for 8 of its 80 places lie past the end; rows and columns of a filter
# together, a bit each; elements from the first tap to the last.
_MOST_TAPS, _MOST_TAP_BITS, _FURTHEST_TAP = 72, 31, 2**31 - 1

_SIZES = ("n", "h", "w", "c", "p", "q", "k", "r", "s", "all_channels", "all_filters", "top", "left")
_DIVISORS = ("pq", "q_width", "channels", "filters", "taps_across", "stride_h", "stride_w")
_PHASE_SIZES = ("phase_h", "phase_w", "tap_step_h", "tap_step_w", "window_step_h", "window_step_w")
_PHASE_DIVISORS = ("phases", "phase_hw", "phase_width", "fewer_across", "more_across")
_CONVOLUTION = np.dtype(
    [(name, np.int32) for name in (*_SIZES, "dilation_h", "dilation_w")] + [(name, gemm.DIVISOR) for name in _DIVISORS]
    + [(name, np.int32) for name in _PHASE_SIZES] + [(name, gemm.DIVISOR) for name in _PHASE_DIVISORS]
    + [("image_lines", gemm.DIVISOR), ("patch_lines", np.int32)],
    align=True,
)  # fmt: skip


@functools.lru_cache(maxsize=1024)
def _geometry(
    input_shape: Any, filters: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any, groups: int, fit: str,
    pool: int = 1,
) -> tuple[Any, tuple[int, int]]:  # fmt: skip
    """The kernels' `struct Convolution`, and (P, Q) of y. With a pool the convolution has whole windows alone."""
    n, h, w, channels = input_shape
    (r, s), (y_h, y_w) = kernel_size, _pooled((h, w), kernel_size, stride, padding, dilation, fit, pool)
    p, q = y_h * pool, y_w * pool
    c, k = channels // groups, filters // groups
    for what, size in (("input pixels", n * h * w), ("output pixels", n * p * q), ("filter taps", r * s * max(c, k))):
        if size > _MOST_LINES:
            raise ValueError(f"a convolution has at most {_MOST_LINES} {what}, received {size}: use a smaller batch")
    side = max(h + sum(padding[0]), w + sum(padding[1]), dilation[0] * r, dilation[1] * s)
    if side > _LONGEST_SIDE:
        raise ValueError(f"a padded input and a dilated filter have sides of at most {_LONGEST_SIDE}, received {side}")
    if stride[0] * stride[1] > _MOST_LINES:
        raise ValueError(f"the product of both strides is at most {_MOST_LINES}, received strides {stride}")
    sizes = (n, h, w, c, p, q, k, r, s, channels, filters, padding[0][0], padding[1][0], *dilation)
    phase_h, phase_w, (step_h, step_w) = ceil_div(h, stride[0]), ceil_div(w, stride[1]), _tap_steps(stride, dilation)
    phase = (phase_h, phase_w, step_h, step_w, dilation[0] * step_h // stride[0], dilation[1] * step_w // stride[1])
    divisors, phase_divisors = (
        [gemm.divisor(max(1, d)) for d in ds]
        for ds in (
            (y_h * y_w, y_w, c, k, s, *stride),
            (stride[0] * stride[1], phase_h * phase_w, phase_w, s // step_w, s // step_w + 1),
        )
    )
    image_lines = gemm.divisor(max(1, (p - 1) * stride[0] + (r - 1) * dilation[0] + 1))
    lines = patch_lines(n, (y_h, y_w), r, stride[0], dilation[0], pool)
    struct = np.array((*sizes, *divisors, *phase, *phase_divisors, image_lines, lines), _CONVOLUTION)[()]
    return struct, (y_h, y_w)


def _pooled(
    hw: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any, fit: str, pool: int
) -> tuple[int, int]:  # fmt: skip
    """(P, Q) of a convolution behind a max pool of pool x pool windows at that stride."""
    p, q = output_hw(hw, kernel_size, stride, padding, dilation, fit)
    return p // pool, q // pool


def _tap_steps(stride: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """How far apart the taps are that meet an input pixel: stride divides pixel + padding - tap * dilation."""
    return stride[0] // math.gcd(stride[0], dilation[0]), stride[1] // math.gcd(stride[1], dilation[1])


def _first(geometry: Any, dtype: Any, tf32: bool) -> int:
    """What a first layer's algorithms take of shared memory, 0 where it is none. geometry: `_geometry`'s arguments."""
    x_shape, _, kernel_size, *window, groups, _, pool = geometry if len(geometry) == 9 else (*geometry, 1)
    y_hw = _geometry(*geometry)[1]
    return first_bytes(x_shape, kernel_size, *window, groups, y_hw, pool, arithmetic_of(dtype, tf32))


@functools.lru_cache(maxsize=1024)
def implicit_gemm(
    kernel: str, input_shape: Any, filters: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
    groups: int, fit: str, pool: int = 1,
) -> tuple[int, int, int, int]:
    """A direction's product: rows, columns, depth, and how many there are of it."""
    n, h, w, channels = input_shape
    (r, s), (p, q) = kernel_size, _pooled((h, w), kernel_size, stride, padding, dilation, fit, pool)
    c, k, pixels = channels // groups, filters // groups, n * p * q * pool**2
    if kernel == "conv2d_fprop":
        return pixels, k, r * s * c, groups
    if kernel == "conv2d_wgrad":
        return k, r * s * c, pixels, groups
    # A product for each phase of the stride (conv2d_dgrad.cu), planned by the one with most pixels and taps.
    steps = _tap_steps(stride, dilation)
    rows, taps = n * ceil_div(h, stride[0]) * ceil_div(w, stride[1]), ceil_div(r, steps[0]) * ceil_div(s, steps[1])
    return rows, c, taps * k, groups * stride[0] * stride[1]


def plans(
    device: str, input_shape: Any, filters: int, kernel_size: Any, *, stride: Any, padding: Any, dilation: Any,
    groups: int, fit: str, dtype: Any, algo: str = "auto", tf32: bool = False, pool: int | None = None,
) -> dict[str, gemm.Plan] | None:  # fmt: skip
    """The plan that each direction of a convolution of aligned arrays takes on a device; None: it is depthwise.

    Arguments in normalised form; pool: that of conv2d_relu and of gradients under its mask, None for conv2d. On a GPU
    "auto" is what was measured, or, where nothing was yet, the cost model's.
    """
    geometry = (tuple(input_shape), filters, kernel_size, stride, padding, dilation, groups, fit, pool or 1)
    first, alone = _first(geometry, dtype, tf32), groups > 1 and input_shape[3] == groups
    serves = functools.partial(checked, algo, arithmetic_of(dtype, tf32), depthwise=alone, first=first > 0)
    if serves() == DEPTHWISE:
        return None
    macros = {
        "VECTOR_C": gemm.width(input_shape[3] // groups, dtype), "VECTOR_K": gemm.width(filters // groups, dtype)
    } | _masked(pool, geometry) | _tap_table(geometry)  # fmt: skip
    found, (struct, _) = {}, _geometry(*geometry)
    for direction in DIRECTIONS:
        forward = direction == "fprop"
        kernel, whole, asked = f"conv2d_{direction}", forward and pool is not None, serves(forward=forward)
        product = implicit_gemm(kernel, *geometry)
        found[direction] = gemm.chosen(
            device, kernel, product, dtype, asked, tf32, struct, macros, whole, first * forward
        )
    return found


def chosen(device: str, input_shape: Any, filters: int, kernel_size: Any, **options: Any) -> dict[str, str]:
    """The name of the algorithm that each direction takes: `plans`, which has the arguments."""
    found = plans(device, input_shape, filters, kernel_size, **options)
    return {direction: found[direction].algorithm.name if found else DEPTHWISE for direction in DIRECTIONS}


def conv2d(
    x: Any, w: Any, bias: Any = None, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    activation: str | None = None, fit: str = "floor", algo: str = "auto", tf32: bool = False, out: Any = None,
) -> Any:  # fmt: skip
    geometry = (tuple(x.shape), w.shape[0], w.shape[1:3], stride, padding, dilation, groups, fit)
    return _fprop(x, w, bias, out, None, activation, geometry, algo, tf32)


def conv2d_relu(
    x: Any, w: Any, bias: Any = None, *, pool: int = 1, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, fit: str = "floor", algo: str = "auto", tf32: bool = False, out: Any = None,
) -> tuple[Any, Any]:  # fmt: skip
    geometry = (tuple(x.shape), w.shape[0], w.shape[1:3], stride, padding, dilation, groups, fit, pool)
    y_hw = _geometry(*geometry)[1]
    mask = empty(mask_shape((x.shape[0], *y_hw, w.shape[0]), groups, pool), np.uint8, like=x)
    return _fprop(x, w, bias, out, mask, "relu", geometry, algo, tf32), mask


def conv2d_moments(x: Any, w: Any, bias: Any, window: dict[str, Any], algo: str, tf32: bool) -> tuple[Any, Any]:
    """y, and each filter's `struct Moments` over the pixels of each of some parts of it, (parts, K, 3)."""
    names = ("stride", "padding", "dilation", "groups", "fit")
    geometry = (tuple(x.shape), w.shape[0], w.shape[1:3], *(window[name] for name in names))
    moments: list[Any] = []
    return _fprop(x, w, bias, None, None, None, geometry, algo, tf32, moments), moments[-1]


def _fprop(
    x: Any, w: Any, bias: Any, out: Any, mask: Any, activation: str | None, geometry: Any, algo: str, tf32: bool,
    moments: list[Any] | None = None,
) -> Any:  # fmt: skip
    """moments: a list that receives them, of the last of the plans that are run."""
    (k, _, _, c), dtype, groups = w.shape, x.dtype, geometry[6]
    struct, y_hw = _geometry(*geometry)
    x, w, bias = contiguous(x, w, bias)

    def write(y: Any) -> None:
        if algo == DEPTHWISE:
            return depthwise.fprop(y, x, w, bias, struct, activation, tf32)
        macros = {"VECTOR_C": gemm.vector(c, x, w), "VECTOR_K": gemm.vector(k // groups, y)} | _masked(mask, geometry)
        macros |= _tap_table(geometry)
        macros |= {} if moments is None else {"MOMENTS": 1}

        def run(plan: gemm.Plan, y: Any) -> None:
            inputs = (x, w, bias if plan.splits == 1 else None)
            found = None if moments is None else empty((plan.down, k, 3), accumulation_dtype(dtype), like=y)
            if moments is not None:
                moments.append(found)
            outs = (y, mask, found)
            gemm.launch("conv2d_fprop", plan, outs, inputs, struct, macros, bias=bias, activation=activation)

        product, whole = implicit_gemm("conv2d_fprop", *geometry), mask is not None or moments is not None
        first = _first(geometry, dtype, tf32)
        gemm.compute("conv2d_fprop", product, algo, tf32, struct, macros, y, run, whole=whole, first=first)

    return write_to(out, (x.shape[0], *y_hw, k), dtype, x, write)


def _masked(mask: Any, geometry: Any) -> dict[str, int]:
    """The macro that tells the kernels of a mask."""
    return {} if mask is None else {"MASK": geometry[-1] ** 2}


def _tap_table(geometry: Any) -> dict[str, int]:
    """The macro that tells the kernels of a filter whose taps do not fit in the table of kernels/tile_iterator.cuh."""
    (_, _, w, channels), filters, (r, s), _, _, dilation, *_ = geometry
    q = _geometry(*geometry)[1][1] * (geometry[8] if len(geometry) > 8 else 1)
    reach = ((r - 1) * dilation[0] * max(w, q) + (s - 1) * dilation[1] + 1) * max(channels, filters)
    return {} if r * s <= _MOST_TAPS and r + s <= _MOST_TAP_BITS and reach <= _FURTHEST_TAP else {"TAP_TABLE": 0}


def _vector_of_dy(filters: int, dy: Any, mask: Any) -> int:
    """How many filters of dy move at once, and of its mask beside them."""
    return gemm.vector(filters, *([dy] if mask is None else [dy, mask]))


def conv2d_dgrad(
    dy: Any, w: Any, *, input_shape: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    fit: str = "floor", algo: str = "auto", tf32: bool = False, mask: Any = None, pool: int = 1, out: Any = None,
) -> Any:  # fmt: skip
    (k, r, s, c), dtype = w.shape, dy.dtype
    geometry = (tuple(input_shape), k, (r, s), stride, padding, dilation, groups, fit, pool)
    struct, _ = _geometry(*geometry)
    dy, w, mask = contiguous(dy, w, mask)

    def write(dx: Any) -> None:
        if algo == DEPTHWISE:
            return depthwise.dgrad(dx, dy, w, struct, stride[1], tf32)
        macros = {"VECTOR_C": gemm.vector(c, w, dx), "VECTOR_K": _vector_of_dy(k // groups, dy, mask)}
        macros |= _masked(mask, geometry) | _tap_table(geometry)

        def run(plan: gemm.Plan, dx: Any) -> None:
            gemm.launch("conv2d_dgrad", plan, (dx,), (dy, mask, w), struct, macros)

        product = implicit_gemm("conv2d_dgrad", *geometry)
        gemm.compute("conv2d_dgrad", product, algo, tf32, struct, macros, dx, run)

    return write_to(out, input_shape, dtype, dy, write)


def conv2d_wgrad(
    dy: Any, x: Any, *, kernel_size: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    fit: str = "floor", algo: str = "auto", tf32: bool = False, mask: Any = None, pool: int = 1, out: Any = None,
    db: Any = None, accumulate: bool = False,
) -> Any:  # fmt: skip
    k, (r, s), c, dtype = dy.shape[3], kernel_size, x.shape[3] // groups, x.dtype
    geometry = (tuple(x.shape), k, kernel_size, stride, padding, dilation, groups, fit, pool)
    struct, _ = _geometry(*geometry)
    dy, x, mask = contiguous(dy, x, mask)

    def write(dw: Any) -> None:
        if algo == DEPTHWISE:
            if db is not None:
                bias_grad(dy, out=db, accumulate=accumulate)
            return depthwise.wgrad(dw, dy, x, struct, tf32, accumulate)
        macros = {"VECTOR_C": gemm.vector(c, x, dw), "VECTOR_K": _vector_of_dy(k // groups, dy, mask)}
        macros |= _masked(mask, geometry) | _tap_table(geometry)

        def run(plan: gemm.Plan, to: Any) -> None:
            adds, inputs = accumulate and plan.splits == 1, (dy, mask, x)
            beside = db_there if to is dw or db is None else empty(db.shape, dtype, like=db)  # a scratch's own
            gemm.launch("conv2d_wgrad", plan, (to, beside), inputs, struct, macros, adds, accumulate=accumulate)

        product = implicit_gemm("conv2d_wgrad", *geometry)
        with updated(*([] if db is None else [db])) as there:
            db_there = there[0] if there else None
            gemm.compute("conv2d_wgrad", product, algo, tf32, struct, macros, dw, run, accumulate=accumulate)

    return write_to(out, (k, r, s, c), dtype, x, write, keep=accumulate)


def conv2d_backward(
    dy: Any, x: Any, w: Any, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1,
    fit: str = "floor", algo: str = "auto", tf32: bool = False, mask: Any = None, pool: int = 1, out: Any = None,
    dw: Any = None, db: Any = None, accumulate: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    options = dict(
        stride=stride, padding=padding, dilation=dilation, groups=groups, fit=fit, algo=algo, tf32=tf32, pool=pool
    )
    dy, w, mask = contiguous(dy, w, mask)
    dw = conv2d_wgrad(dy, x, kernel_size=w.shape[1:3], out=dw, db=db, accumulate=accumulate, mask=mask, **options)
    return conv2d_dgrad(dy, w, input_shape=x.shape, out=out, mask=mask, **options), dw
