"""What tools need to know about an op, declared once at its definition."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_args, get_type_hints

from gpuconv.types import Array, ArrayT, Scalar

Function = TypeVar("Function", bound=Callable[..., object])


@dataclass(frozen=True)
class Op:
    """kernel: the .cu file that runs the op; for a matrix product, the file of its SIMT family. changes: the names of
    the arrays that it changes in place, in the order of its arguments."""

    function: Callable[..., Any]
    kernel: str
    changes: tuple[str, ...]

    @functools.cached_property
    def arrays(self) -> tuple[str, ...]:
        """The names of the arguments that are arrays or lists of arrays."""
        return arrays_of(self.function)

    @property
    def family(self) -> str:
        """The name of the file or folder in `gpuconv.ops` that defines the op, and of its file in every backend."""
        return self.function.__module__.split(".")[2]

    @property
    def takes_algorithm(self) -> bool:
        return "algo" in inspect.signature(self.function).parameters


def arrays_of(function: Callable[..., object]) -> tuple[str, ...]:
    """The names of a function's arguments that are arrays or lists of arrays."""
    hints = get_type_hints(function)
    return tuple(name for name in inspect.signature(function).parameters if _holds_arrays(hints.get(name)))


def _holds_arrays(hint: object) -> bool:
    """Whether a type is an array or a list of arrays. `Scalar` does not count, although it may be an array."""
    return hint != Scalar and (hint in (Array, ArrayT) or any(map(_holds_arrays, get_args(hint))))


OPS: dict[str, Op] = {}


def op(kernel: str, *, changes: str = "") -> Callable[[Function], Function]:
    """A decorator that adds a function to `OPS` and returns it unchanged. Arguments as in `Op`; changes: the names,
    separated by spaces."""

    def register(function: Function) -> Function:
        OPS[function.__name__] = Op(function, kernel, tuple(changes.split()))
        return function

    return register
