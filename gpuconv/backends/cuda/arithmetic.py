"""Sums, multiples and running metrics: launchers of kernels/arithmetic.cu and metrics.cu."""

from __future__ import annotations

from typing import Any

from gpuconv.backends.cuda.launch import THREADS, ceil_div, contiguous, flat_grid, pack_width, write_to
from gpuconv.backends.cuda.module import load

__all__ = ["add", "add_metrics", "scale"]


def _map(kernel: str, out: Any, inputs: tuple[Any, ...], *scalars: float) -> Any:
    first = inputs[0]

    def write(y: Any) -> None:
        width = pack_width(first.dtype, y, *inputs)
        run = load("arithmetic.cu", {"DTYPE": first.dtype.name, "WIDTH": width}).kernel(kernel)
        run(flat_grid(ceil_div(first.size, width)), THREADS, y, *inputs, first.size, *scalars)

    return write_to(out, first.shape, first.dtype, first, write)


def add(a: Any, b: Any, *, out: Any = None) -> Any:
    return _map("add_forward", out, contiguous(a, b))


def scale(x: Any, *, factor: float, out: Any = None) -> Any:
    return _map("scale_forward", out, contiguous(x), factor)


def add_metrics(totals: Any, loss: Any, scores: Any, labels: Any) -> None:
    n, classes = scores.shape
    scores, labels = contiguous(scores, labels)
    load("metrics.cu", {"DTYPE": scores.dtype.name}).kernel("metrics_add")(
        1, THREADS, totals, loss, scores, labels, n, classes
    )
