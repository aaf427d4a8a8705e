"""What tools need to know of an op, stated once beside it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Op:
    """kernel: the .cu file that serves the op; of a product, that of its SIMT family. changes: the names of the arrays
    that it changes in place, in the order of its arguments."""

    function: Callable[..., Any]
    kernel: str
    changes: tuple[str, ...]

    @property
    def arrays(self) -> tuple[str, ...]:
        """The names of the arguments that are arrays or lists of arrays."""
        parameters = inspect.signature(self.function).parameters.values()
        return tuple(each.name for each in parameters if "Array" in each.annotation)

    @property
    def takes_algorithm(self) -> bool:
        return "algo" in inspect.signature(self.function).parameters


OPS: dict[str, Op] = {}


def op(kernel: str, *, changes: str = "") -> Callable[[Function], Function]:
    """Lists a function among the ops, and leaves it as it is. The arguments are those of `Op`; changes: the names,
    with spaces between them."""

    def listed(function: Function) -> Function:
        OPS[function.__name__] = Op(function, kernel, tuple(changes.split()))
        return function

    return listed
