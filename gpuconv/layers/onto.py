"""The gradient of an input from elsewhere, to which a layer's backward adds its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpuconv.types import Array


@dataclass(eq=False)
class Onto:
    """An array to which a backward adds the gradient of its input.

    array: a function that returns the array, called when that gradient is computed. apart: whether backward hooks need
    the layer's own gradient, too. own: that gradient, then set by the backward.
    """

    array: Callable[[], Array]
    apart: bool = False
    own: Array | None = None
