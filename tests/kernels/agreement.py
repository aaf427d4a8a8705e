"""Runs an op on a device, and on the oracle with the same inputs in float64."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from gpuconv import asarray, ops, oracle, to_numpy
from gpuconv.backends.cuda import emulator
from gpuconv.dtypes import accumulation_dtype, as_dtype
from gpuconv.problems import Conv2dProblem
from gpuconv.verify.conv_problems import conv
from gpuconv.verify.rules.base import as_float64

ORACLE = "numpy"  # in these tests ops on NumPy arrays run the oracle (conftest.py)


def accumulation(dtype: str) -> str:
    """The name of a dtype's accumulation dtype."""
    return accumulation_dtype(as_dtype(dtype)).name


def random(rng: np.random.Generator, shape, dtype: str) -> np.ndarray:
    """Signed random numbers of a dtype, all finite."""
    return rng.standard_normal(shape).astype(as_dtype(dtype))


def varied(problem: Conv2dProblem, **changes) -> Conv2dProblem:
    """The same convolution with some arguments changed. changes: arguments of `gpuconv.verify.conv_problems.conv`."""
    sizes = dict(n=problem.n, h=problem.h, w=problem.w, c=problem.c, k=problem.k, kernel_size=problem.kernel_size)
    return conv(**sizes | problem.window | changes)


def on_device(name: str, device: str, *arrays, **options):
    """An op's results on a device, as NumPy arrays."""
    moved = [None if a is None else asarray(a, device) for a in arrays]
    result = getattr(ops, name)(*moved, **options)
    return tuple(map(to_numpy, result)) if isinstance(result, tuple) else to_numpy(result)


def expected(name: str, *arrays, **options):
    """The oracle's results in float64."""
    with oracle():
        return getattr(ops, name)(*[as_float64(a) for a in arrays], **options)


def thread_orders(device: str) -> list[contextlib.AbstractContextManager[Any]]:
    """Ways to run a kernel, all of which must give the same bits: on the emulated device, with the threads in order and
    in two shuffled orders; on a GPU, twice without a change."""
    if device != "emulated":
        return [contextlib.nullcontext(), contextlib.nullcontext()]
    return [contextlib.nullcontext(), *(_shuffled(seed) for seed in (1, 2))]


@contextlib.contextmanager
def _shuffled(seed: int):
    with emulator.configure(seed=seed):
        yield


def assert_same_bits(name: str, device: str, *arrays, **options) -> None:
    """Every one of `thread_orders` gives the same bits."""
    results = []
    for order in thread_orders(device):
        with order:
            result = on_device(name, device, *arrays, **options)
        results.append([array.tobytes() for array in (result if isinstance(result, tuple) else (result,))])
    assert all(result == results[0] for result in results[1:])
