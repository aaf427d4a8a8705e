"""Linear layers: convolutions of 1 x 1 maps, by the same kernels."""

from __future__ import annotations

from typing import Any

from gpuconv.backends.cuda import conv
from gpuconv.shapes import PIXEL

__all__ = ["linear", "linear_dgrad", "linear_wgrad"]

def _maps(matrix: Any) -> Any:
    """(rows, columns) as (rows, 1, 1, columns)."""
    return None if matrix is None else matrix.reshape(matrix.shape[0], 1, 1, matrix.shape[1])


def linear(
    x: Any, w: Any, bias: Any = None, *, activation: str | None = None, algo: str = "auto", tf32: bool = False,
    out: Any = None,
) -> Any:  # fmt: skip
    options = dict(activation=activation, algo=algo, tf32=tf32, out=_view(out))
    y = conv.conv2d(_maps(x), _maps(w), bias, **options, **PIXEL)
    return y.reshape(x.shape[0], w.shape[0]) if out is None else out


def linear_dgrad(dy: Any, w: Any, *, algo: str = "auto", tf32: bool = False, out: Any = None) -> Any:
    shape = (dy.shape[0], w.shape[1])
    options = dict(input_shape=(shape[0], 1, 1, shape[1]), algo=algo, tf32=tf32, out=_view(out))
    dx = conv.conv2d_dgrad(_maps(dy), _maps(w), **options, **PIXEL)
    return dx.reshape(shape) if out is None else out


def linear_wgrad(
    dy: Any, x: Any, *, algo: str = "auto", tf32: bool = False, out: Any = None, db: Any = None,
    accumulate: bool = False,
) -> Any:
    options = dict(kernel_size=(1, 1), algo=algo, tf32=tf32, out=_view(out), db=db, accumulate=accumulate)
    dw = conv.conv2d_wgrad(_maps(dy), _maps(x), **options, **PIXEL)
    return dw.reshape(dy.shape[1], x.shape[1]) if out is None else out


def _view(out: Any) -> Any:
    """`out` with two axes more, of the same memory whatever its strides."""
    return None if out is None else out[:, None, None, :]
