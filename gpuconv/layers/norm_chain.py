"""Runs of fused layers in which a convolution's dgrad computes the backward sums of the norm below it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, starmap
from typing import Any, cast

from gpuconv.layers.addend import Addend
from gpuconv.layers.base import Layer
from gpuconv.layers.conv import Conv2D
from gpuconv.layers.fused import ConvNorm, Fused, FusedConv, NormActivation
from gpuconv.layers.input_gradient import Onto
from gpuconv.layers.rewrite import CHAINED
from gpuconv.types import Array, Options


class NormChain(Fused):
    """Consecutive layers of a fused row. Each but the last ends in a batch norm, with or without an activation. Each
    but the first is a CONV, or begins with one. dgrad of that CONV also computes the sums of the backward pass of the
    norm before it: `gpuconv.ops.batch_norm_backward` with w.

    Forward runs the layers one after another. In backward, `next_conv` holds the op's arguments that describe the
    convolution which reads the norm's output.
    """

    @staticmethod
    def fits(layers: Sequence[Layer]) -> bool:
        return len(layers) > 1 and all(starmap(NormChain.can_link, pairwise(layers)))

    @staticmethod
    def can_link(below: Layer, layer: Layer) -> bool:
        """Whether `below` ends in a batch norm, with or without an activation, and `layer` begins with a convolution
        whose dgrad can compute the norm's sums."""
        norm = type(below) is NormActivation or (type(below) is ConvNorm and below.pool == 1)
        return norm and type(layer) in (Conv2D, ConvNorm) and not _conv_of(layer).depthwise

    links = can_link  # its former name

    @property
    def takes_slices(self) -> bool:  # type: ignore[override]
        """False if a norm comes first, because dgrad of the convolution after it reads the norm's x, which then must
        not be a slice."""
        return isinstance(self.layers[0], FusedConv) and super().takes_slices

    @property
    def adds_input_grad(self) -> bool:  # type: ignore[override]
        return self.layers[0].adds_input_grad

    @property
    def kept(self) -> tuple[Any, ...]:
        return tuple(value for layer in self.layers for value in layer.kept)

    @property
    def takes_addend(self) -> bool:  # type: ignore[override]
        return self.layers[-1].takes_addend

    def forward(
        self, x: Array, training: bool = False, *, out: Array | None = None, addend: Addend | None = None
    ) -> Array:
        *layers, last = self.layers
        for layer in layers:
            x = layer.forward(x, training)
        into = {name: value for name, value in (("out", out), ("addend", addend)) if value is not None}
        return last.forward(x, training, **into)

    def backward(self, dy: Array, *, input_grad: bool = True, onto: Onto | None = None) -> Array | None:
        next_conv: Options = {}
        first, *others = self.layers
        for layer in reversed(others):
            conv = _conv_of(layer)
            dy, x = layer.gradient_at_conv(dy, **next_conv) if isinstance(layer, ConvNorm) else (dy, *layer.unstash())
            conv.gradients_of(dy, x, False)
            next_conv = {"w": conv["weight"], **conv.options}
        if isinstance(first, NormActivation):
            return first.gradients_of(dy, input_grad, **next_conv)
        dz, x = cast(ConvNorm, first).gradient_at_conv(dy, **next_conv)
        return _conv_of(first).gradients_of(dz, x, input_grad, onto)

    def algorithms(self, batch_size: int, device: str | None = None) -> dict[str, str]:
        return self.layers[-1].algorithms(batch_size, device)


# For each activation after a norm, the instructions per element that the norm's backward sums take in a separate pass
# and in dgrad's epilogue. The model compares issue slots (docs/kernels/column_reduce.md). In the separate pass an
# instruction takes one slot, and an element takes at least 31 slots, because an H200 has 31 while it moves the
# element's bytes. In dgrad's epilogue an instruction takes 1.67 slots.
_INSTRUCTIONS = {None: (7.1, 10.9), "relu": (18.0, 22.0), "gelu": (49.4, 53.1)}
_LEAST_SLOTS_IN_A_PASS, _SLOTS_IN_DGRAD = 31, 1.67


def sums_pay(activation: str | None) -> bool:
    """Whether, by the model, a norm's backward sums are faster in dgrad's epilogue than in a separate pass."""
    in_a_pass, in_dgrad = _INSTRUCTIONS.get(activation, _INSTRUCTIONS["gelu"])
    return in_dgrad * _SLOTS_IN_DGRAD <= max(in_a_pass, _LEAST_SLOTS_IN_A_PASS)


def form_chains(layers: Sequence[Layer], norm_sums: bool | None) -> list[Layer]:
    """The fused row with a `NormChain` in place of some sequences of its layers. norm_sums: which ones, see
    `Sequential.fuse`."""
    found: list[list[Layer]] = []
    for layer in layers:
        below = found[-1][-1] if found else None
        hooked = layer.has_hooks or (below is not None and below.has_hooks)
        if below is not None and NormChain.can_link(below, layer) and not hooked:
            activation = cast(ConvNorm | NormActivation, below).activation
            if sums_pay(activation) if norm_sums is None else norm_sums:
                found[-1].append(layer)
                continue
        found.append([layer])
    return [run[0] if len(run) == 1 else NormChain(run) for run in found]


CHAINED.append(form_chains)


def _conv_of(layer: Layer) -> Conv2D:
    return layer.conv if isinstance(layer, FusedConv) else cast(Conv2D, layer)
