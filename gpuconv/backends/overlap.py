"""Outputs of an op that share memory with its inputs, which it is then given copies of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from gpuconv.backends import Slot, address, device_of, empty


def separate(
    slots: Mapping[str, Slot], written: Sequence[str], arrays: tuple[Any, ...], options: dict[str, Any], in_place: bool
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of an op, with a copy of every input that shares memory with an output.

    slots: the op's array arguments, the positional ones first. written: those of them that it writes. in_place: whether
    `out` may be an input itself. Raises ValueError for an output that is read-only, and for two that share memory; of
    lists, for an array that stands in them twice, other than a parameter that is its own master.
    """
    given = {**dict(zip(slots, arrays)), **options}
    outputs = {}
    listed: dict[int, str] = {}
    for name in written:
        value = given.get(name)
        if slots[name].many:
            for index, array in enumerate(value or ()):
                place = f"{name}[{index}]"
                _expect_writable(array, place)
                other = listed.setdefault(id(array), place)
                if other != place and (name, other) != ("masters", f"params[{index}]"):
                    raise _shared(other, place)
        elif value is not None:
            _expect_writable(value, name)
            outputs[name] = value
    if len(outputs) > 1:
        _expect_distinct(outputs)
    copies = {}
    for result, output in outputs.items():
        for name, slot in slots.items():
            x = given.get(name)
            if x is None or slot.many or name in written or not overlap(x, output):
                continue
            if not (in_place and result == "out" and same_memory(x, output)):
                copies[name] = copy_of(x)
    if not copies:
        return arrays, options
    options |= {name: copy for name, copy in copies.items() if name in options}
    return tuple(copies.get(name, array) for name, array in zip(slots, arrays)), options


def _expect_writable(array: Any, name: str) -> None:
    if isinstance(array, np.ndarray) and not array.flags.writeable:
        raise ValueError(f"{name} is written to, and must not be read-only; array.copy() can be written")


def _expect_distinct(outputs: Mapping[str, Any]) -> None:
    for (a_name, a), (b_name, b) in combinations(outputs.items(), 2):
        if overlap(a, b):
            raise _shared(a_name, b_name)


def _shared(a: str, b: str) -> ValueError:
    return ValueError(f"{a} and {b} share memory, and both are written to; give each its own")


def overlap(a: Any, b: Any) -> bool:
    """Whether two arrays of one device may share memory: whether the ranges of their addresses meet."""
    if type(a) is type(b) is np.ndarray:
        return np.may_share_memory(a, b)
    (a_begin, a_end), (b_begin, b_end) = _range(a), _range(b)
    return a_begin < b_end and b_begin < a_end


def _range(array: Any) -> tuple[int, int]:
    """The first address of an array's elements, and the first past them."""
    if array.size == 0:
        return 0, 0
    reach = [stride * (size - 1) for stride, size in zip(array.strides, array.shape)]
    begin = address(array)
    return begin + sum(min(0, r) for r in reach), begin + sum(max(0, r) for r in reach) + array.dtype.itemsize


def same_memory(a: Any, b: Any) -> bool:
    """Whether two arrays are the same elements in the same places."""
    return a is b or (
        a.dtype == b.dtype and a.shape == b.shape and a.strides == b.strides and address(a) == address(b)
    )


def copy_of(array: Any) -> Any:
    """A contiguous copy on the same device."""
    copy = empty(array.shape, array.dtype, device_of(array))
    copy[...] = array
    return copy
