"""Optimizer steps, one launch for all parameters of a dtype: launchers of kernels/optimizer.cu."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuconv import backends
from gpuconv.backends.cuda.device_array import address, asarray
from gpuconv.backends.cuda.launch import THREADS, contiguous, device_scalar, updated
from gpuconv.backends.cuda.module import load

__all__ = ["adagrad_step", "adam_step", "rmsprop_step", "sgd_step"]

_NUMBERS = 8192  # of one parameter, a thread block; a multiple of 8, so that chunks keep their parameter's alignment

_CHUNK = np.dtype(  # the kernels' `struct Chunk`
    [("param", np.uint64), ("grad", np.uint64), ("state", np.uint64, 2), ("count", np.int64), ("decay", np.float64)],
    align=True,
)


def sgd_step(
    params: Sequence[Any], grads: Sequence[Any], velocities: Sequence[Any] | None = None, *, lr: Any,
    momentum: float = 0.0, nesterov: bool = False, weight_decay: float | Sequence[float] = 0.0,
) -> None:
    states = [] if velocities is None else [velocities]
    _step("sgd_step", params, grads, states, weight_decay, *_rate(lr), momentum, nesterov)


def adagrad_step(
    params: Sequence[Any], grads: Sequence[Any], square_sums: Sequence[Any], *, lr: Any, eps: float = 1e-10,
    weight_decay: float | Sequence[float] = 0.0,
) -> None:
    _step("adagrad_step", params, grads, [square_sums], weight_decay, *_rate(lr), eps)


def rmsprop_step(
    params: Sequence[Any], grads: Sequence[Any], square_averages: Sequence[Any], *, lr: Any, alpha: float = 0.99,
    eps: float = 1e-8, weight_decay: float | Sequence[float] = 0.0,
) -> None:
    _step("rmsprop_step", params, grads, [square_averages], weight_decay, *_rate(lr), alpha, eps)


def adam_step(
    params: Sequence[Any], grads: Sequence[Any], exp_avgs: Sequence[Any], exp_avg_sqs: Sequence[Any], *, lr: Any,
    step: Any, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8,
    weight_decay: float | Sequence[float] = 0.0, decoupled: bool = False,
) -> None:
    scalars = (*_rate(lr), *device_scalar(step, np.int64), beta1, beta2, eps, decoupled)
    _step("adam_step", params, grads, [exp_avgs, exp_avg_sqs], weight_decay, *scalars)


def _rate(lr: Any) -> tuple[Any, Any, Any]:
    """The learning rate as the kernels take it: a float32 array or None, a float64 array or None, a number."""
    if getattr(lr, "dtype", None) == np.float32 and not isinstance(lr, np.generic):
        return lr, None, 0.0
    return None, *device_scalar(lr, np.float64)


def _step(kernel: str, params: Any, grads: Any, states: Any, decays: Any, *scalars: Any) -> None:
    """Launch a kernel over the parameters, once for each dtype among them."""
    for dtype in dict.fromkeys(param.dtype for param in params):
        chosen = [i for i, param in enumerate(params) if param.dtype == dtype and param.size]
        lists = [[arrays[i] for i in chosen] for arrays in (params, *states)]
        changed = [array for arrays in lists for array in arrays]
        read = contiguous(*[grads[i] for i in chosen])
        if not chosen:
            continue
        with updated(*changed) as there:
            count = len(chosen)
            columns = [there[:count], read, *(there[i : i + count] for i in range(count, len(there), count))]
            chunks = _table(columns, [decays[i] for i in chosen])
            module = load("optimizer.cu", {"DTYPE": dtype.name})
            module.kernel(kernel)(chunks.size * 8 // _CHUNK.itemsize, THREADS, chunks, *scalars)


# The table of a list of parameters, by everything it says; it lives as long as the first of them.
_tables: dict[tuple[Any, ...], Any] = {}


def _table(columns: Sequence[Sequence[Any]], decays: Sequence[float]) -> Any:
    """The device's table of chunks, from the arrays of each of its columns (parameters, gradients, states). It is
    copied there once: a step that finds its arrays where they were moves nothing from the host."""
    first = columns[0][0]
    key = (
        backends.device_of(first), first.dtype, *decays, *(array.size for array in columns[0]),
        *(address(array) for arrays in columns for array in arrays),
    )
    if key not in _tables:
        _tables[key] = asarray(_chunks(columns, decays).view(np.uint64), like=first)
        weakref.finalize(first, _tables.pop, key, None).atexit = False
    return _tables[key]


def _chunks(columns: Sequence[Sequence[Any]], decays: Sequence[float]) -> np.ndarray:
    itemsize = columns[0][0].dtype.itemsize
    parts = []
    for *arrays, decay in zip(*columns, decays):
        begin = np.arange(0, arrays[0].size, _NUMBERS)
        part = np.zeros(begin.size, _CHUNK)
        at = [np.uint64(address(array)) + begin.astype(np.uint64) * np.uint64(itemsize) for array in arrays]
        part["param"], part["grad"] = at[:2]
        for slot, addresses in enumerate(at[2:]):
            part["state"][:, slot] = addresses
        part["count"], part["decay"] = np.minimum(_NUMBERS, arrays[0].size - begin), decay
        parts.append(part)
    return np.concatenate(parts)
