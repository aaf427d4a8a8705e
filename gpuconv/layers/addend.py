"""The shortcut of a residual block, as an array that the batch norm at the end of the body adds to its output."""

from __future__ import annotations

from dataclasses import dataclass

from gpuconv import ops
from gpuconv.activations import ACTIVATIONS
from gpuconv.types import Array, Options


@dataclass(eq=False)
class Addend:
    """An array that a norm adds to its output, and the activation after the sum.

    value: the array, until the norm has read it. activation: None, or the name of an op whose backward reads only its
    output. output: the activation's result; None without an activation. gradient: the gradient of `value`, set by the
    norm's backward.
    """

    value: Array | None
    activation: str | None
    output: Array | None = None
    gradient: Array | None = None

    @property
    def forward_arguments(self) -> Options:
        """Arguments of the op that computes the norm's output."""
        return {"addend": self.value, "activation": self.activation}

    @property
    def backward_arguments(self) -> Options:
        """Arguments of `gpuconv.ops.batch_norm_backward`."""
        return {"saved": self.output, "activation": self.activation} if self.activation else {}

    def was_added(self, y: Array) -> None:
        """Keep the result if backward reads it, and release the array."""
        self.value = None
        self.output = y if self.activation else None

    def gradient_of(self, dy: Array) -> Array:
        """The array's gradient, even if the norm's backward did not run. dy: the gradient of the result."""
        if self.gradient is not None:
            return self.gradient
        if self.activation is None:
            return dy
        assert self.output is not None
        return ACTIVATIONS[self.activation].gradient(ops, dy, self.output)
