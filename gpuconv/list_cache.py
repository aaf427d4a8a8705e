"""Caches values derived from lists of arrays, as long as all of the arrays exist."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from gpuconv.types import Array

Value = TypeVar("Value")

RECENT = 32  # different lists; a training step has a few for each group of parameters


class ListCache(Generic[Value]):
    """Values for lists of arrays, by the identity of the arrays.

    An entry is dropped as soon as one of its arrays is deleted, so a reused id finds nothing. `keep` stores a value
    only if it received the same list before, as one of the last `RECENT` different lists. So lists that are new in each
    call are not stored.
    Nothing is cached for NumPy arrays, whose dtype, strides and flags may change.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[object, ...], tuple[Value, list[weakref.ref[Array]]]] = {}
        self._recent: deque[tuple[object, ...]] = deque(maxlen=RECENT)

    def get(self, arrays: Sequence[Array], *context: object) -> Value | None:
        """The value for these arrays and the context (hashable, without arrays), or None."""
        if not arrays or isinstance(arrays[0], np.ndarray):
            return None
        kept = self._kept.get((context, *map(id, arrays)))
        return None if kept is None else kept[0]

    def keep(self, arrays: Sequence[Array], value: Value, *context: object) -> None:
        """Store a value for these arrays and the context, as described above. The value must not refer to the arrays,
        because that would keep them alive."""
        if not arrays or isinstance(arrays[0], np.ndarray):
            return
        key = (context, *map(id, arrays))
        if key not in self._recent:
            self._recent.append(key)
            return

        def drop(_: object) -> None:
            self._kept.pop(key, None)

        self._kept[key] = value, [weakref.ref(array, drop) for array in arrays]
