"""Lets a layer's backward add its gradient of the input to the gradient that another layer has computed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpuconv.types import Array


@dataclass(eq=False)
class Onto:
    """An array to which a backward adds the gradient of its input.

    array: a function that returns the array, called when that gradient is computed. needs_own: whether backward hooks
    also need the layer's own gradient. own: that gradient, set by the backward if `needs_own`.
    """

    array: Callable[[], Array]
    needs_own: bool = False
    own: Array | None = None
