"""Sums and multiples: launchers of kernels/arithmetic.cu."""

from __future__ import annotations

from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.outputs import THREADS, buffer, ceil_div, contiguous, flat_grid, pack_width, store
from gpuconv.types import ArrayT


def _map(kernel: str, out: ArrayT | None, inputs: tuple[ArrayT, ...], *scalars: float, count: int = 0) -> ArrayT:
    first = inputs[0]
    y = buffer(out, first.shape, first.dtype, like=first)
    width = pack_width(first, y, *inputs[1:], count=count)
    run = load("arithmetic.cu", {"DTYPE": first.dtype, "WIDTH": width}).kernel(kernel)
    run(flat_grid(ceil_div(first.size, width)), THREADS, y, *inputs, first.size, *scalars)
    return store(y, out)


def add(a: ArrayT, b: ArrayT, *, out: ArrayT | None) -> ArrayT:
    inputs, channels = contiguous(a, b), a.shape[-1:]
    if a.shape == b.shape:
        return _map("add_forward", out, inputs)
    return _map("add_vector_forward", out, inputs, *channels, count=channels[0])


def scale(x: ArrayT, *, factor: float, out: ArrayT | None) -> ArrayT:
    return _map("scale_forward", out, contiguous(x), factor)
