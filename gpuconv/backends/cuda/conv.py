"""Convolution: launchers of kernels/conv2d_fprop.cu, conv2d_dgrad.cu and conv2d_wgrad.cu."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from gpuconv.backends.cuda import gemm
from gpuconv.backends.cuda.launch import contiguous, write_to
from gpuconv.shapes import output_hw

__all__ = ["conv2d", "conv2d_dgrad", "conv2d_wgrad"]

_SIZES = ("n", "h", "w", "c", "p", "q", "k", "r", "s", "all_channels", "all_filters", "top", "left")
_DIVISORS = ("hw", "width", "pq", "q_width", "channels", "filters", "taps_across", "stride_h", "stride_w")
_CONVOLUTION = np.dtype(
    [(name, np.int32) for name in (*_SIZES, "dilation_h", "dilation_w")] + [(name, gemm.DIVISOR) for name in _DIVISORS],
    align=True,
)


@functools.lru_cache(maxsize=1024)
def _geometry(
    input_shape: Any, filters: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any, groups: int, fit: str
) -> tuple[Any, tuple[int, int]]:
    """The kernels' `struct Convolution`, and (P, Q)."""
    n, h, w, channels = input_shape
    (r, s), (p, q) = kernel_size, output_hw((h, w), kernel_size, stride, padding, dilation, fit)
    c, k = channels // groups, filters // groups
    gemm.check_extent("input pixels", n * h * w)
    gemm.check_extent("output pixels", n * p * q)
    gemm.check_extent("filter taps", r * s * max(c, k))
    sizes = (n, h, w, c, p, q, k, r, s, channels, filters, padding[0][0], padding[1][0], *dilation)
    divisors = [gemm.divisor(max(1, d)) for d in (h * w, w, p * q, q, c, k, s, *stride)]
    return np.array((*sizes, *divisors), _CONVOLUTION)[()], (p, q)


def conv2d(
    x: Any,
    w: Any,
    bias: Any = None,
    *,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    activation: str | None = None,
    fit: str = "floor",
    out: Any = None,
) -> Any:
    n, (k, r, s, c) = x.shape[0], w.shape
    x, w, bias = contiguous(x, w, bias)
    struct, (p, q) = _geometry(tuple(x.shape), k, (r, s), stride, padding, dilation, groups, fit)

    def write(y: Any) -> None:
        macros = {"VECTOR_C": gemm.vector(c, x.dtype, x, w), "VECTOR_K": gemm.vector(k // groups, x.dtype, y)}
        chosen = gemm.plan(n * p * q, k // groups, r * s * c, groups, x.dtype)
        gemm.launch(
            "conv2d_fprop.cu",
            "conv2d_fprop_simt",
            chosen,
            groups,
            y,
            (x, w, bias),
            struct,
            macros,
            bias=bias,
            activation=activation,
            columns=k,
        )

    return write_to(out, (n, p, q, k), x.dtype, x, write)


def conv2d_dgrad(
    dy: Any,
    w: Any,
    *,
    input_shape: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    fit: str = "floor",
    out: Any = None,
) -> Any:
    (n, height, width, _), (k, r, s, c) = input_shape, w.shape
    dy, w = contiguous(dy, w)
    struct, _ = _geometry(tuple(input_shape), k, (r, s), stride, padding, dilation, groups, fit)

    def write(dx: Any) -> None:
        macros = {"VECTOR_C": gemm.vector(c, w.dtype, w, dx), "VECTOR_K": gemm.vector(k // groups, dy.dtype, dy)}
        chosen = gemm.plan(n * height * width, c, r * s * (k // groups), groups, dy.dtype)
        gemm.launch("conv2d_dgrad.cu", "conv2d_dgrad_simt", chosen, groups, dx, (dy, w), struct, macros)

    return write_to(out, input_shape, dy.dtype, dy, write)


def conv2d_wgrad(
    dy: Any,
    x: Any,
    *,
    kernel_size: Any,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    fit: str = "floor",
    out: Any = None,
    accumulate: bool = False,
) -> Any:
    (n, p, q, k), c = dy.shape, x.shape[3] // groups
    dy, x = contiguous(dy, x)
    struct, _ = _geometry(tuple(x.shape), k, kernel_size, stride, padding, dilation, groups, fit)
    r, s = kernel_size

    def write(dw: Any) -> None:
        macros = {"VECTOR_C": gemm.vector(c, x.dtype, x, dw), "VECTOR_K": gemm.vector(k // groups, dy.dtype, dy)}
        chosen = gemm.plan(k // groups, r * s * c, n * p * q, groups, x.dtype)
        gemm.launch(
            "conv2d_wgrad.cu", "conv2d_wgrad_simt", chosen, groups, dw, (dy, x), struct, macros, accumulate=accumulate
        )

    return write_to(out, (k, r, s, c), x.dtype, x, write, keep=accumulate)
