"""Layers that `Sequential.fuse` puts in place of several layers, to run them as one op.

A fused layer holds the layers that it replaces. They keep their names, paths and arrays, so the net's state dict,
params and grads have the same keys before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from gpuconv import ops
from gpuconv.layers.activation import Activation, ReLU
from gpuconv.layers.addend import Addend
from gpuconv.layers.base import Layer
from gpuconv.layers.conv import Conv2D
from gpuconv.layers.input_gradient import Onto
from gpuconv.layers.layer_list import name_layers
from gpuconv.layers.norm import BatchNorm
from gpuconv.layers.pool import MaxPool2D
from gpuconv.layers.rewrite import FUSED
from gpuconv.problems import Epilogue
from gpuconv.types import Array, Shape
from gpuconv.window_sizes import NO_PADDING


@dataclass(eq=False, repr=False)
class Fused(Layer, base=True):
    """Several consecutive layers that run as one. `fits` of a subclass says which layers it can replace.

    Args:
        layers: The layers that it runs as one.
    """

    stem = "fused"
    writes_slices = reads_slices = True

    layers: Sequence[Layer]

    @property
    def takes_slices(self) -> bool:  # type: ignore[override]
        return self.layers[0].takes_slices

    def __post_init__(self) -> None:
        super().__post_init__()
        name_layers(self.layers)
        if self.name is None:
            self.name = "+".join(str(layer.name) for layer in self.layers)

    @staticmethod
    def fits(layers: Sequence[Layer]) -> bool:
        """Whether `layers`, in this order, can be fused into one of this class."""
        raise NotImplementedError

    def children(self) -> Sequence[tuple[str, Layer]]:
        return [(str(layer.name), layer) for layer in self.layers]

    def plan(self, input_shape: Shape) -> Shape:
        parent = self.path.rpartition(".")[0]
        for name, layer in self.children():
            input_shape = layer.place(f"{parent}.{name}" if parent else name, input_shape)
        if not self.layers or not self.fits(self.layers):
            raise ValueError(f"{type(self).__name__} cannot replace {list(self.layers)}")
        return input_shape

    @property
    def mult_adds(self) -> int:
        return sum(layer.mult_adds for layer in self.layers)


class FusedConv(Fused, base=True):
    """A fused layer that begins with a CONV."""

    adds_input_grad = True

    @property
    def conv(self) -> Conv2D:
        return cast(Conv2D, self.layers[0])

    def algorithms(self, batch_size: int, device: str | None = None) -> dict[str, str]:
        return self.conv.algorithms(batch_size, device)


class ConvReLU(FusedConv):
    """CONV and RELU, with or without a 2 x 2 max POOL before or after the RELU: `gpuconv.ops.conv2d_relu`.

    Keeps for backward the input and one bit for each output of the convolution, except outputs outside of the POOL's
    windows.
    """

    activation: ClassVar[str | None] = "relu"

    @staticmethod
    def fits(layers: Sequence[Layer]) -> bool:
        conv, *others = layers
        kinds = [type(layer) for layer in others]
        pools = [layer for layer in others if type(layer) is MaxPool2D]
        return (
            type(conv) is Conv2D
            and not conv.depthwise
            and kinds in ([ReLU], [ReLU, MaxPool2D], [MaxPool2D, ReLU])
            and all(map(_halves, pools))
        )

    @property
    def pool(self) -> int:
        return 2 if any(type(layer) is MaxPool2D for layer in self.layers) else 1

    def algorithms(self, batch_size: int, device: str | None = None) -> dict[str, str]:
        return self.conv.algorithms(batch_size, device, Epilogue.of(self.activation, pool=self.pool, masked=True))

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        y, mask = ops.conv2d_relu(
            x, *self.conv.filters, activation=self.activation, pool=self.pool, **self.conv.options, out=out
        )
        self.stash(x, mask)
        return y

    def backward(self, dy: Array, *, input_grad: bool = True, onto: Onto | None = None) -> Array | None:
        x, mask = self.unstash()
        return self.conv.gradients_of(dy, x, input_grad, onto, mask=mask, pool=self.pool)


class ConvPool(ConvReLU):
    """CONV and a 2 x 2 max POOL: `gpuconv.ops.conv2d_relu` with activation=None."""

    activation = None

    @staticmethod
    def fits(layers: Sequence[Layer]) -> bool:
        conv, *others = layers
        pools = [type(layer) for layer in others] == [MaxPool2D] and _halves(others[0])
        return pools and type(conv) is Conv2D and not conv.depthwise


class ConvActivation(FusedConv):
    """CONV and an activation: one `gpuconv.ops.conv2d`, or `gpuconv.ops.conv2d_relu` if the activation's backward reads
    the activation's input. (A depthwise CONV and such an activation run as two ops.) If backward needs only the bias's
    gradient, `gpuconv.ops.bias_grad` computes it through the activation.
    """

    @staticmethod
    def fits(layers: Sequence[Layer]) -> bool:
        conv, *others = layers
        return type(conv) is Conv2D and len(others) == 1 and is_plain(others[0])

    @property
    def activation(self) -> Activation:
        return cast(Activation, self.layers[1])

    def algorithms(self, batch_size: int, device: str | None = None) -> dict[str, str]:
        saves_input = not (self.activation.keeps_output or self.conv.depthwise)
        return self.conv.algorithms(batch_size, device, Epilogue.of(self.activation.op, saves_input=saves_input))

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        conv, activation = self.conv, self.activation
        if activation.keeps_output:
            y = saved = ops.conv2d(x, *conv.filters, activation=activation.op, **conv.options, out=out)
        elif not conv.depthwise:
            y, saved = ops.conv2d_relu(x, *conv.filters, activation=activation.op, **conv.options, out=out)
        else:
            saved = ops.conv2d(x, *conv.filters, **conv.options)
            y = getattr(ops, activation.op)(saved, **activation.options, out=out)
        self.stash(x, saved)
        return y

    def backward(self, dy: Array, *, input_grad: bool = True, onto: Onto | None = None) -> Array | None:
        x, saved = self.unstash()
        conv, activation = self.conv, self.activation
        if input_grad or conv.trains("weight"):
            dy = getattr(ops, f"{activation.op}_backward")(dy, saved, **activation.options)
            return conv.gradients_of(dy, x, input_grad, onto)
        if conv.trains("bias"):
            (_, db), accumulate = conv.gradients_into(None, "bias")
            ops.bias_grad(dy, saved, activation=activation.op, out=db, accumulate=accumulate)
        return None


class NormActivation(Fused):
    """Batch normalization and an activation: `gpuconv.ops.batch_norm` and `batch_norm_backward` with activation=."""

    @staticmethod
    def fits(layers: Sequence[Layer]) -> bool:
        return len(layers) == 2 and type(layers[0]) is BatchNorm and is_plain(layers[1])

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        norm, activation = cast(BatchNorm, self.layers[0]), cast(Activation, self.layers[1])
        y, mean, inv_std = ops.batch_norm(
            x, *norm.vectors, training=training, activation=activation.op, **norm.options, out=out
        )
        self.stash(x, mean, inv_std, training)
        return y

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        return self.gradients_of(dy, input_grad)

    def gradients_of(self, dy: Array, input_grad: bool, **next_conv: Any) -> Array | None:
        """`backward`, also through a convolution that reads this layer's output.

        Args:
            dy: The gradient of the output, or of that convolution's output.
            input_grad: As in `Layer.backward`.
            next_conv: As in `NormChain`.
        """
        norm = cast(BatchNorm, self.layers[0])
        return norm.gradients_of(
            dy, self.unstash(), input_grad, beta=norm["bias"], activation=self.activation, **next_conv
        )

    @property
    def activation(self) -> str:
        return cast(Activation, self.layers[1]).op


class ConvNorm(FusedConv):
    """CONV, optionally a 2 x 2 max POOL, batch normalization and optionally an activation: in training
    `gpuconv.ops.conv2d_batch_norm`."""

    @staticmethod
    def fits(layers: Sequence[Layer]) -> bool:
        conv, *others = layers
        if others and type(others[0]) is MaxPool2D and _halves(others[0]):
            others = others[1:]
        return (
            type(conv) is Conv2D
            and not conv.depthwise
            and len(others) in (1, 2)
            and type(others[0]) is BatchNorm
            and all(map(is_plain, others[1:]))
        )

    @property
    def pool(self) -> int:
        return 2 if type(self.layers[1]) is MaxPool2D else 1

    @property
    def norm(self) -> BatchNorm:
        return next(layer for layer in self.layers if type(layer) is BatchNorm)

    @property
    def activation(self) -> str | None:
        last = self.layers[-1]
        return last.op if isinstance(last, Activation) else None

    @property
    def takes_addend(self) -> bool:  # type: ignore[override]
        return self.activation is None

    def forward(
        self, x: Array, training: bool = False, *, out: Array | None = None, addend: Addend | None = None
    ) -> Array:
        (weight, bias), conv, norm = self.conv.filters, self.conv, self.norm
        after_norm = addend.forward_arguments if addend else {"activation": self.activation}
        options = norm.options | after_norm | {"out": out}
        gamma, beta, running_mean, running_var = norm.vectors
        mask: list[Array] = []
        if training:
            y, between, mean, inv_std, *mask = ops.conv2d_batch_norm(
                x, weight, bias, gamma, beta, running_mean, running_var, pool=self.pool, **options, **conv.options
            )
        else:
            if self.pool == 1:
                between = ops.conv2d(x, weight, bias, **conv.options)
            else:
                between, *mask = ops.conv2d_relu(x, weight, bias, activation=None, pool=self.pool, **conv.options)
            y, mean, inv_std = ops.batch_norm(
                between, gamma, beta, running_mean, running_var, training=False, **options
            )
        if addend:
            addend.was_added(y)
        self.stash(x, mask, addend, between, mean, inv_std, training)
        return y

    def backward(self, dy: Array, *, input_grad: bool = True, onto: Onto | None = None) -> Array | None:
        dz, x = self.gradient_at_conv(dy)
        return self.conv.gradients_of(dz, x, input_grad, onto)

    def gradient_at_conv(self, dy: Array, **next_conv: object) -> tuple[Array, Array]:
        """The gradient of the convolution's output, and the convolution's input.

        Args:
            dy: The gradient of the output, or of the output of a convolution that reads it.
            next_conv: As in `NormChain`.
        """
        norm, conv = self.norm, self.conv
        x, mask, addend, *saved = self.unstash()
        fused = dict(beta=norm["bias"], activation=self.activation) if self.activation else {}
        if mask:  # input_shape is that of the pool's input, the convolution's output
            fused |= dict(mask=mask[0], input_shape=(len(x), *conv.problem.y_shape[1:]), groups=conv.groups)
        return cast(Array, norm.gradients_of(dy, tuple(saved), True, addend, **fused, **next_conv)), x


FUSED += [ConvReLU, ConvPool, ConvNorm, ConvActivation, NormActivation]


def is_plain(layer: Layer) -> bool:
    """Whether a layer is one of our activations, with its op's defaults."""
    return isinstance(layer, Activation) and not layer.is_foreign and layer.options == type(layer)().options


def _halves(layer: Layer) -> bool:
    """Whether a max pool has 2 x 2 windows at stride 2, without padding or partial windows."""
    problem = cast(MaxPool2D, layer).problem
    even = problem.h % 2 == problem.w % 2 == 0
    halves = problem.kernel_size == problem.stride == (2, 2) and problem.padding == NO_PADDING
    return halves and (even or problem.fit == "floor")
