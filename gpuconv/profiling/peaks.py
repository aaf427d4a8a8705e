"""Measures a device's peak rates: the bandwidth of a copy, and the rate of a matrix product in each dtype.

They are measured with the fastest available library, because a bound must not depend on gpuconv's own code.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Generator
from types import ModuleType

import numpy as np

from gpuconv import backends
from gpuconv.devices import Device
from gpuconv.profiling.timer import Samples, current_device, open_timer
from gpuconv.profiling.work import Ceilings
from gpuconv.types import Array, Record

Timed = tuple[str, str, float, Callable[[int], object]]  # name, library, bytes or FLOPs, the call


def measure(device: str, seconds: float = 0.3) -> tuple[Ceilings, list[Record]]:
    """The ceilings of "numpy" or of a CUDA device, and the measurements behind them, JSON-serializable.

    seconds: each call is repeated for about this long at most. On a GPU the matrix rate of float32 is that of full
    precision; "tf32" has a rate of its own, if PyTorch is there to measure it.
    """
    device = backends.resolve(device)
    timer = open_timer(device)
    rows: list[Record] = []
    timed = (_on_gpu if Device.named(device).on_gpu else _on_cpu)()
    with current_device(device), contextlib.closing(timed):
        for what, library, amount, call in timed:
            samples = timer.burst(call, seconds)
            rows.append({"what": what, "library": library, "rate": amount / _seconds(samples), "samples": samples})
    best: dict[str, float] = {}
    for row in rows:
        best[row["what"]] = max(best.get(row["what"], 0.0), row["rate"])
    return Ceilings(best.pop("copy"), best), rows


def _seconds(samples: Samples) -> float:
    return statistics.median(samples.get("cold", samples["wall"]))


def _product(matrix: Array) -> Callable[[int], object]:
    return lambda _: matrix @ matrix


def _torch() -> ModuleType | None:
    try:
        import torch
    except ImportError:
        return None
    return torch


def _on_cpu() -> Generator[Timed, None, None]:
    torch, size, count = _torch(), 2048, 1 << 25  # arrays of 128 MiB, larger than most caches
    source, target = np.ones(count, np.float32), np.zeros(count, np.float32)
    yield "copy", "numpy", 2.0 * source.nbytes, lambda _: np.copyto(target, source)
    if torch:
        a, b = torch.from_numpy(target), torch.from_numpy(source)
        yield "copy", "torch", 2.0 * source.nbytes, lambda _: a.copy_(b)
    for dtype in ("float32", "float64"):
        matrix = np.random.default_rng(0).standard_normal((size, size)).astype(dtype)
        yield dtype, "numpy", 2.0 * size**3, _product(matrix)
        if torch:
            yield dtype, "torch", 2.0 * size**3, _product(torch.from_numpy(matrix))


def _on_gpu() -> Generator[Timed, None, None]:
    import cupy

    torch, count = _torch(), 1 << 30  # bytes, many times the cache
    source, target = (cupy.ones(count, cupy.uint8) for _ in range(2))

    def copy(_: int) -> None:
        target.data.copy_from_device_async(source.data, count, cupy.cuda.get_current_stream())

    yield "copy", "cuda", 2.0 * count, copy
    if torch is None or not torch.cuda.is_available():  # PyTorch may be there without CUDA
        for dtype, size in (("float16", 8192), ("float32", 4096), ("float64", 4096)):
            m = cupy.random.standard_normal((size, size), dtype=cupy.float32).astype(dtype)
            yield dtype, "cupy", 2.0 * size**3, _product(m)
        return
    allowed = torch.backends.cuda.matmul.allow_tf32
    try:
        for rate, dtype, size in (
            ("bfloat16", "bfloat16", 8192),
            ("float16", "float16", 8192),
            ("tf32", "float32", 8192),
            ("float32", "float32", 4096),
            ("float64", "float64", 4096),
        ):
            m = torch.randn(size, size, device="cuda").to(getattr(torch, dtype))
            torch.backends.cuda.matmul.allow_tf32 = rate == "tf32"
            yield rate, "torch", 2.0 * size**3, _product(m)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
