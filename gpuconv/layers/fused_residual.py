"""A residual block whose body ends in batch norm: the norm's op also adds the shortcut and applies the activation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from gpuconv.layers.activation import Activation
from gpuconv.layers.addend import Addend
from gpuconv.layers.base import Layer
from gpuconv.layers.fused import ConvNorm, Fused, is_plain
from gpuconv.layers.input_gradient import Onto
from gpuconv.layers.layer_call import adds_input_grad, call, reads_slices, shows_gradients, takes_addend
from gpuconv.layers.pool import MaxPool2D
from gpuconv.layers.residual import Residual
from gpuconv.layers.rewrite import FUSED
from gpuconv.layers.sequential import Sequential
from gpuconv.types import Array


@dataclass(eq=False, repr=False)
class ResidualNorm(Fused):
    """A residual block whose body ends in batch norm, and optionally the activation after the block. The activation's
    backward must read only the activation's output, and no max pool may be fused with the norm. The last op of the body
    is `gpuconv.ops.batch_norm` or `gpuconv.ops.conv2d_batch_norm` with addend=."""

    @staticmethod
    def fits(layers: Sequence[Layer]) -> bool:
        block, *others = layers
        return (
            type(block) is Residual
            and takes_addend(_body_of(block)[-1])
            and not any(layer.has_hooks for layer in block.walk())
            and len(others) <= 1
            and all(is_plain(layer) and cast(Activation, layer).keeps_output for layer in others)
            and not (others and _ends_in_pooled_norm(_body_of(block)))
        )

    @property
    def activation(self) -> str | None:
        return cast(Activation, self.layers[1]).op if len(self.layers) == 2 else None

    @property
    def reads_slices(self) -> bool:  # type: ignore[override]
        """Whether backward reads a dy that is a slice without copying it. Without an activation, backward passes dy
        itself to the shortcut."""
        shortcut = self._rows[1]
        return self.activation is not None or shortcut is None or reads_slices(shortcut)

    @property
    def joining_layer(self) -> Layer:
        """The last layer of the body. It adds the shortcut and applies the activation, so its forward hooks receive the
        output of the whole block."""
        body, _ = self._rows
        return body.layers[-1]

    @property
    def adds_any_to_sum(self) -> bool:
        """Whether the body or the shortcut adds its gradient of the input to the gradient from the other."""
        return self._adds_onto_gradient or any(cast(Residual, self.layers[0]).adds_to_sum)

    joined, adding, adds_to_sum = joining_layer, adds_any_to_sum, adds_any_to_sum  # their former names

    @property
    def _adds_onto_gradient(self) -> bool:
        """Whether the body adds the gradient of its input to the gradient of the sum, which is also the gradient of a
        shortcut without layers. Without an activation the gradient of the sum is dy itself, which must not be
        changed."""
        body, shortcut = self._rows
        return shortcut is None and self.activation is not None and adds_input_grad(body)

    @property
    def _rows(self) -> tuple[Sequential, Sequential | None]:
        """The body, and the shortcut or None."""
        block = cast(Residual, self.layers[0])
        return _body_of(block), block.rows[1]

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        y, addend = self._joined("forward", x, training, **({} if out is None else {"out": out}))
        self.stash(addend)
        return y

    def infer(self, x: Array, **into: object) -> Array:
        y, _ = self._joined("infer", x, **into)
        self.release()
        return y

    def _joined(self, method: str, x: Array, *options: object, **into: object) -> tuple[Array, Addend]:
        body, shortcut = self._rows
        addend = Addend(call(shortcut, method, x, *options) if shortcut else x, self.activation)
        return call(body, method, x, *options, addend=addend, **into), addend

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        (addend,) = self.unstash()
        block = cast(Residual, self.layers[0])
        body, _ = self._rows

        def gradients() -> Iterator[Array]:
            yield dy
            yield addend.gradient_of(dy)  # the body's backward has computed it

        if input_grad and self._adds_onto_gradient:
            # The norm's backward sets the addend's gradient before the body's first layer adds to it.
            onto = Onto(lambda: addend.gradient_of(dy), needs_own=shows_gradients(body))
            return cast(Array, call(body, "backward", dy, onto=onto))
        if input_grad:
            return block.sum_gradients(gradients())
        for row, gradient in zip(block.rows, gradients()):
            if row:
                call(row, "backward", gradient, input_grad=False)
        return None


FUSED.append(ResidualNorm)


def _ends_in_pooled_norm(body: Sequential) -> bool:
    """Whether a max pool is, or will be, fused with the norm at the end of the body. `gpuconv.ops.batch_norm_backward`
    does not combine the pool's mask with the activation after the sum."""
    ending = _unfused(body.layers)[-3:]
    return any(type(layer) is MaxPool2D for layer in ending) and ConvNorm.fits(ending)


def _unfused(layers: Sequence[Layer]) -> list[Layer]:
    """The layers, with those that fused ones replace in place of them."""
    return [each for layer in layers for each in (_unfused(layer.layers) if isinstance(layer, Fused) else [layer])]


def _body_of(block: Residual) -> Sequential:
    return cast(Sequential, block.rows[0])
