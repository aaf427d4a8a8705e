"""Caches the argument checks of ops, by shapes, dtypes and options."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from gpuconv.types import Array

Check = TypeVar("Check", bound=Callable[..., object])

_MAX_RESULTS = 4096  # of one check; if as many are cached, the next result drops them all
_EXACT = frozenset({int, str, bool, type(None)})  # types whose equal values are interchangeable
_MISSING = object()  # stands for "no cached result"; None may be one


def remembered(check: Check) -> Check:
    """check(*arrays, **options), run once for the same shapes, dtypes and options; later calls return its first result.

    The check may read the shape and dtype of an array, and whether it is writable, but neither its address nor its
    elements, and must not return an array. Any array but the first may be None. Options are distinguished by type too,
    because 1, 1.0 and True are equal. Nothing is cached if an option is not an int, str, bool, None or a tuple of
    these, or if the check raises.
    """
    results: dict[object, object] = {}

    @functools.wraps(check)
    def checked(*arrays: Array | None, **options: object) -> object:
        values = tuple(options.values())
        plain: tuple[object, ...] = tuple(map(type, values))
        types = plain if _EXACT.issuperset(plain) else _types(values)
        if types is None:
            return check(*arrays, **options)
        parts: list[object] = [*options, values, types]
        for array in arrays:
            if array is None:
                parts.append(None)
            else:
                parts += array.shape, array.dtype
        if isinstance(arrays[0] if arrays else None, np.ndarray):  # all arrays are on the host, like the first
            parts += [isinstance(array, np.ndarray) and array.flags.writeable for array in arrays]
        key = tuple(parts)
        result = results.get(key, _MISSING)
        if result is _MISSING:
            result = check(*arrays, **options)
            if len(results) >= _MAX_RESULTS:
                results.clear()
            results[key] = result
        return result

    return checked  # type: ignore[return-value]


def _types(values: tuple[object, ...]) -> tuple[object, ...] | None:
    """The types of the values, in nested tuples too; None if one of them is not in `_EXACT`."""
    types: tuple[object, ...] = tuple(map(type, values))
    if _EXACT.issuperset(types):
        return types
    types = tuple([_types(value) if type(value) is tuple else type(value) for value in values])
    return types if all(type(each) is tuple or each in _EXACT for each in types) else None
