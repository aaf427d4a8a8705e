"""Dropout."""

from __future__ import annotations

from dataclasses import dataclass

from gpuconv import arguments, ops
from gpuconv.initializers import zeros
from gpuconv.layers.base import Layer
from gpuconv.layers.batch_parts import part_in_elements
from gpuconv.layers.variables import Variable
from gpuconv.types import Array, Options, Shape


@dataclass(eq=False, repr=False)
class Dropout(Layer):
    """In training, zero each value with probability p and divide the others by 1 - p (Srivastava et al. 2014).

    The masks come from the net's seed and the layer's own sub-stream. `offset`, one int64 on the device, is the start
    of the next mask in that sub-stream, in blocks of four numbers. Each batch in training advances it in place (unless
    p is 0), so that a captured step draws new masks. The mask of a part of a batch (`gpuconv.layers.batch_parts`) is
    that part of the whole batch's mask.

    Args:
        p: The probability, in [0, 1).
    """

    stem = "dropout"
    elementwise = writes_slices = reads_slices = idle_in_inference = True

    p: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments.number("p", self.p, 0.0, 1.0, open_high=True)
        self.seed, self.substream = 0, 0

    def plan(self, input_shape: Shape) -> Shape:
        self.variables = {"offset": Variable((1,), zeros, buffer=True, dtype="int64")}
        return input_shape

    def seeded(self, seed: int, substream: int) -> None:
        self.seed, self.substream = seed, substream

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        if not training or self.p == 0:
            self.stash(None, 0)
            return x if out is None else ops.copy(x, out=out)
        part = part_in_elements(x)
        blocks = -(-part.batch // 4)  # blocks of four random words, for the whole batch
        offset = ops.advance_counter(self["offset"], by=blocks if part.last else 0)
        self.stash(offset, part.first)
        return ops.dropout(x, first=part.first, **self._drawn_at(offset), out=out)

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        offset, first = self.unstash()
        if offset is None or not input_grad:
            return dy if input_grad else None
        return ops.dropout_backward(dy, first=first, **self._drawn_at(offset))

    def _drawn_at(self, offset: Array) -> Options:
        return dict(p=self.p, seed=self.seed, substream=self.substream, offset=offset)
