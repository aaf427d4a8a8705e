"""Our side of an entry: gpuconv on a device, with rotating input sets."""

from __future__ import annotations

import math

import numpy as np

from bench.entry_calls import Arrays, Call
from bench.sides import COPY, OURS, Prepared, Side
from gpuconv import backends
from gpuconv.devices import Device
from gpuconv.types import Array

ROTATED_BYTES = 128 << 20  # bytes of the inputs in all sets of a side: larger than any GPU cache
MOST_SETS = 40  # the largest number of input sets; only small inputs need so many


def set_count(arrays: Arrays, device: str) -> int:
    """The number of input sets that a side rotates through: one on the CPU, on a GPU enough to exceed its cache, but at
    least two and at most MOST_SETS."""
    if not Device.named(device).on_gpu:
        return 1
    return max(2, min(MOST_SETS, math.ceil(ROTATED_BYTES / sum(a.nbytes for a in arrays))))


def sides(call: Call, arrays: Arrays, device: str) -> list[Side]:
    """gpuconv's side, and for a memory-bound operation the device's own copy of the largest array."""

    def prepare() -> Prepared:
        if call.run is None:
            raise NotImplementedError(f"gpuconv has no {call.entry.op}")
        run = call.run
        sets = [[_copy(a, device) for a in arrays] for _ in range(set_count(arrays, device))]

        def results() -> list[np.ndarray]:
            _poison(run(*[_copy(a, device) for a in arrays]))
            return [backends.to_numpy(a) for a in run(*[_copy(a, device) for a in arrays])]

        return Prepared(lambda number: run(*sets[number % len(sets)]), results)

    def prepare_copy() -> Prepared:
        largest = max(arrays, key=lambda a: a.nbytes)
        source, target = _copy(largest, device), _copy(largest, device)

        def copy(_: int) -> None:
            target[...] = source

        return Prepared(copy, lambda: [])

    found = [Side(OURS, "gpuconv", prepare)]
    return found + ([Side(COPY, "copy", prepare_copy)] if call.entry.kind == "memory" else [])


def _copy(array: np.ndarray, device: str):
    return backends.asarray(array.copy(), device)


def _poison(results: tuple[Array, ...]) -> None:
    """Set all bits of the memory that the next call will probably get. In every float dtype this is NaN."""
    for result in results:
        result.reshape(-1).view(np.uint8).fill(255)
