"""The hashes, sums and norms of a step's tensors, for their digests (`tensor_digests.py`).

Tensors in the host's memory, which the emulated device uses too, are hashed by XXH3; most of their numbers are added in
float32. Floats on a GPU are read there, by `gpuconv.ops.digest`, which has a hash of its own; only the results are
copied to the host.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from gpuconv import backends, ops
from gpuconv.dtypes import is_float
from gpuconv.types import Array

# The kinds of hashes: of older versions, of host memory, and of `ops.digest`.
CRC32, XXH3, SPLITMIX = "crc32", "xxh3", "splitmix"
ROW = 256  # values that are added in float32; the sums of such rows are added in float64
_SQUARES = 2 * ROW  # squares that are added in float32, likewise
_BLOCK = 1024 * ROW  # values that are read at a time; they stay in the processor's cache until they are added
_SMALL = 2.0**-100  # with a mean square below this, float32 is too coarse: products under 2^-126 may be rounded to 0
_ONES = {np.dtype(dtype): np.ones(_BLOCK // ROW, dtype) for dtype in ("float32", "float64")}
_SHORT = 16 * ROW  # shorter blocks are added in float64
_TABLE = 64  # results of `ops.digest` that are copied to the host together


class Measures:
    """Hashes, sums and norms of tensors. `add` reads a tensor; `results` completes the sums of all of them together,
    because a call of NumPy takes longer than adding a few numbers, and a copy from a GPU longer still."""

    def __init__(self) -> None:
        from xxhash import xxh3_64

        self._hash: Any = xxh3_64  # it takes arrays, although its annotation does not say so
        self._hashes: list[Any] = []  # None for a tensor on a GPU
        self._scales: list[float] = []
        # For each part, the number of the sum to which it is added: 3 i is the sum of tensor i, 3 i + 1 its squared
        # norm, and 3 i + 2 the squared norm of its change.
        self._sum_of_part: list[int] = [0]
        self._parts: list[np.ndarray] = [np.zeros(1)]  # one part at least, even if all tensors are empty
        self._sum_of_root: list[int] = []  # likewise for `_roots`, whose values are squared before they are added
        self._roots: list[np.ndarray] = []
        self._on_gpu: list[int] = []  # the numbers of the tensors on a GPU
        self._tables: list[Any] = []

    def add(self, tensor: Array, before: Array | None = None, scale: float = 1.0) -> None:
        """Measure a tensor, which may be changed afterwards. Call it within np.errstate(all="ignore").

        before: the values before the update, on the same device. scale: the factor by which the values are too large;
        the results are divided by it."""
        self._scales.append(scale)
        if not isinstance(tensor, np.ndarray) and is_float(tensor.dtype):
            self._add_on_gpu(tensor, before)
        else:
            self._add_on_host(_on_host(tensor), None if before is None else _on_host(before))

    def _add_on_gpu(self, tensor: Array, before: Array | None) -> None:
        row = len(self._on_gpu) % _TABLE
        if not row:
            self._tables.append(backends.empty((_TABLE, 5), np.float64, backends.device_of(tensor)))
        ops.digest(tensor, before, out=self._tables[-1][row])
        self._on_gpu.append(len(self._hashes))
        self._hashes.append(None)

    def _add_on_host(self, host: np.ndarray, before: np.ndarray | None) -> None:
        flat, first = host.reshape(-1), 3 * len(self._hashes)
        flat_before = None if before is None else before.reshape(-1)
        hashed = self._hash(flat[:_BLOCK].view(np.uint8))  # as bytes, because bfloat16 arrays export no buffer
        self._hashes.append(hashed)
        for at in range(0, flat.size, _BLOCK):
            part = flat[at : at + _BLOCK]
            if at:
                hashed.update(part.view(np.uint8))
            part_before = None if flat_before is None else flat_before[at : at + _BLOCK]
            whole = 0 if len(part) < _SHORT else len(part) - len(part) % _SQUARES
            if whole:
                values, squares = _squares(part[:whole].astype(_wide(part.dtype), copy=False))
                # A row is too short for BLAS to use threads, so the bits do not depend on their number.
                self._parts += np.vecdot(values.reshape(-1, ROW), _ONES[values.dtype][:ROW]), squares
                self._sum_of_part += first, first + 1
                if part_before is not None:
                    change = values - part_before[:whole].astype(values.dtype, copy=False)
                    self._parts.append(_squares(change)[1])
                    self._sum_of_part.append(first + 2)
            if whole < len(part):
                rest = part[whole:].astype(np.float64)
                self._parts.append(rest)
                self._sum_of_part.append(first)
                self._roots.append(rest)
                self._sum_of_root.append(first + 1)
                if part_before is not None:
                    self._roots.append(rest - part_before[whole:])
                    self._sum_of_root.append(first + 2)

    @np.errstate(all="ignore")
    def results(self) -> tuple[list[str], np.ndarray]:
        """The hash of each tensor, with its kind, and an array with a row for each: its sum, its norm, and the norm of
        its change."""
        count = len(self._hashes)
        hashes = [hashed and f"{XXH3}:{hashed.hexdigest()}" for hashed in self._hashes]
        roots = np.concatenate([np.empty(0), *self._roots])
        parts = np.concatenate(
            [*self._parts, roots * roots], dtype=np.float64
        )  # faster than letting NumPy find the dtype
        lengths = [len(part) for part in (*self._parts, *self._roots)]
        begins = np.cumsum([0, *lengths[:-1]])
        sums = np.bincount(self._sum_of_part + self._sum_of_root, np.add.reduceat(parts, begins), 3 * count)
        sums = sums.reshape(-1, 3)
        if self._on_gpu:
            table = np.concatenate([backends.to_numpy(each) for each in self._tables])[: len(self._on_gpu)]
            sums[self._on_gpu] = table[:, 2:]
            for index, (upper, lower) in zip(self._on_gpu, table[:, :2].astype(np.int64).tolist()):
                hashes[index] = f"{SPLITMIX}:{upper:08x}{lower:08x}"
        sums[:, 1:] = np.sqrt(sums[:, 1:])
        return hashes, sums / np.array(self._scales)[:, None]


def _on_host(tensor: Array) -> np.ndarray:
    """The tensor as a NumPy array, copied only from a GPU."""
    if type(tensor) is np.ndarray:
        return tensor
    return tensor.view(np.ndarray) if isinstance(tensor, np.ndarray) else backends.to_numpy(tensor)


@cache
def _wide(dtype: np.dtype) -> type:
    """float32 for floats of at most 32 bits, else float64."""
    return np.float32 if is_float(dtype) and dtype.itemsize <= 4 else np.float64


def _squares(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values, in float64 if float32 cannot hold their squares, and the sums of their squares in rows of
    `_SQUARES`. The number of values must be a multiple of `_SQUARES`."""
    rows = values.reshape(-1, _SQUARES)
    found = np.vecdot(rows, rows)
    least, ones = len(values) * _SMALL, _ONES[values.dtype][: len(found)]
    if values.dtype == np.float32 and not least <= found.dot(ones) < math.inf:
        return _squares(values.astype(np.float64))
    return values, found
