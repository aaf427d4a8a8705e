"""Multiply by a constant."""

from __future__ import annotations

from dataclasses import dataclass

from gpuconv import arguments, ops
from gpuconv.layers.base import Layer
from gpuconv.types import Array


@dataclass(eq=False, repr=False)
class Scale(Layer):
    """factor * x, for example to scale the scores, as in airbench's last layer.

    Args:
        factor: Any finite number.
    """

    stem = "scale"
    elementwise = writes_slices = reads_slices = takes_slices = True

    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments.number("factor", self.factor, float("-inf"))

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        self.stash()
        return ops.scale(x, factor=self.factor, out=out)

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        self.unstash()
        return ops.scale(dy, factor=self.factor) if input_grad else None
