"""The residual block: two sequences of layers, added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gpuconv import ops
from gpuconv.layers.base import Layer
from gpuconv.layers.row import as_row
from gpuconv.layers.running import call
from gpuconv.layers.sequential import Sequential
from gpuconv.types import Array, Shape


@dataclass(eq=False, repr=False)
class Residual(Layer):
    """body(x) + shortcut(x); without a shortcut body(x) + x (He et al. 2015).

    Keys read "residual1.conv1.weight" for the body and "residual1.shortcut.conv1.weight" for the shortcut.

    Args:
        body: A list of layers or a `Sequential`.
        shortcut: The same; by default the input itself.
    """

    stem = "residual"

    body: Sequence[Layer] | Sequential
    shortcut: Sequence[Layer] | Sequential | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._body = _row(self.body)
        self._shortcut = None if self.shortcut is None else _row(self.shortcut)

    @property
    def rows(self) -> tuple[Sequential, Sequential | None]:
        """The body and the shortcut."""
        return self._body, self._shortcut

    def children(self) -> Sequence[tuple[str, Layer]]:
        return [("", self._body)] + ([("shortcut", self._shortcut)] if self._shortcut else [])

    def plan(self, input_shape: Shape) -> Shape:
        body = self._body.place(self.path, input_shape)
        around = input_shape
        if self._shortcut:
            around = self._shortcut.place(f"{self.path}.shortcut" if self.path else "shortcut", input_shape)
        if body != around:
            raise ValueError(
                f"the body gives {body} but the shortcut {around}, which cannot be added; "
                "a shortcut such as [Conv2D(channels, 1, stride=...)] can match them"
            )
        return body

    def forward(self, x: Array, training: bool = False) -> Array:
        y = call(self._body, "forward", x, training)
        return ops.add(y, call(self._shortcut, "forward", x, training) if self._shortcut else x)

    def infer(self, x: Array) -> Array:
        y = call(self._body, "infer", x)
        return ops.add(y, call(self._shortcut, "infer", x) if self._shortcut else x)

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        dx: Any = call(self._body, "backward", dy, input_grad=input_grad)
        around = call(self._shortcut, "backward", dy, input_grad=input_grad) if self._shortcut else dy
        return ops.add(dx, around) if input_grad else None

    def fused(self) -> Residual:
        if self.has_hooks or any(row and row.has_hooks for row in self.rows):
            return self
        return Residual(
            self._body.fused(), self._shortcut and self._shortcut.fused(), name=self.name, frozen=self.frozen
        )


def _row(layers: Sequence[Layer] | Sequential) -> Sequential:
    if not isinstance(layers, Sequential):
        return Sequential(as_row(layers))
    return layers.twin() if layers.built else layers
