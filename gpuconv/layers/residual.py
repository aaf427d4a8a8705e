"""The residual block: two sequences of layers, whose outputs are added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuconv.layers.base import Layer
from gpuconv.layers.branches import Merging, Row
from gpuconv.layers.sequential import Sequential
from gpuconv.types import Shape


@dataclass(eq=False, repr=False)
class Residual(Merging):
    """body(x) + shortcut(x); without a shortcut body(x) + x (He et al. 2015).

    Keys in the state dict are, for example, "residual1.conv1.weight" for the body and
    "residual1.shortcut.conv1.weight" for the shortcut.

    Args:
        body: A list of layers, or a `Sequential`.
        shortcut: A list of layers, or a `Sequential`; by default the input itself.
    """

    stem = "residual"

    body: Row
    shortcut: Row | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.body is None:
            raise TypeError("the body of a residual block is a list of layers, received None")
        self._set_rows({"": self.body, "shortcut": self.shortcut})
        body, shortcut = self.rows
        if shortcut and body and any(name == "shortcut" for name, _ in body.children()):
            raise ValueError(
                "the body has a layer named 'shortcut', which in the state dict is the name of the block's shortcut; "
                "give the layer another name"
            )

    def _describe_unequal(self, shapes: Sequence[Shape]) -> str:
        return (
            f"the body gives {shapes[0]} but the shortcut {shapes[1]}, which cannot be added; "
            "a shortcut such as [Conv2D(channels, 1, stride=...)] can match them"
        )

    def _with_rows(self, rows: Sequence[Sequential | None]) -> Layer:
        body, shortcut = rows
        return Residual(body or [], shortcut, name=self.name, frozen=self.frozen)
