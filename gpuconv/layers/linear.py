"""FC, where every output reads every input, and Flatten, which reshapes a volume to a vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from gpuconv import algorithms, arguments, backends, ops
from gpuconv.layers.base import Layer
from gpuconv.layers.conv import Conv2D
from gpuconv.layers.shapes import expect_axes, volume_size
from gpuconv.layers.variables import set_initializers, weight_and_bias
from gpuconv.problems import LinearProblem
from gpuconv.types import Array, Options, Shape


@dataclass(eq=False, repr=False)
class Linear(Layer):
    """x @ weight.T + bias: (in_features,) -> (out_features,).

    Its variables are weight, (out_features, in_features), and bias, (out_features,).

    Args:
        out_features: The number of outputs.
        bias: Whether to add a bias.
        algo: An algorithm of `gpuconv.algorithms`. Directions for which it has no kernel keep "auto": the device
            chooses. `algorithms` returns the algorithm of each direction.
        weight_init: The weight's initializer, see `gpuconv.initializers.get`.
        bias_init: The bias's initializer.
    """

    stem = "fc"
    slides = False
    writes_slices = reads_slices = True

    out_features: int
    _: KW_ONLY
    bias: bool = True
    algo: str = "auto"
    weight_init: str | Mapping[str, object] = "he_normal"
    bias_init: str | Mapping[str, object] = "zeros"

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments.integer("out_features", self.out_features, 1)
        set_initializers(self)
        self.algo = algorithms.full_name(self.algo)

    def plan(self, input_shape: Shape) -> Shape:
        expect_axes(input_shape, "features")
        self.variables = weight_and_bias(self, (self.out_features, *input_shape))
        return (self.out_features,)

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        y = ops.linear(x, self["weight"], self["bias"] if self.bias else None, **self._algo_and_tf32, out=out)
        self.stash(x)
        return y

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        (x,) = self.unstash()
        trained = [name if self.trains(name) else None for name in ("weight", "bias")]
        (dw, db), accumulate = self.gradients_into(*trained)
        if dw is not None:
            ops.linear_wgrad(dy, x, out=dw, db=db, accumulate=accumulate, **self._algo_and_tf32)
        elif db is not None:
            ops.bias_grad(dy, out=db, accumulate=accumulate)
        del x
        return ops.linear_dgrad(dy, self["weight"], **self._algo_and_tf32) if input_grad else None

    @property
    def _algo_and_tf32(self) -> Options:
        return dict(algo=self.algo, tf32=self.tf32)

    def algorithms(self, batch_size: int, device: str | None = None) -> dict[str, str]:
        batch_size = arguments.integer("batch_size", batch_size, 1)
        outputs, inputs = self.variables["weight"].shape
        problem = LinearProblem.of((batch_size, inputs), (outputs, inputs)).convolution
        return backends.algorithms(device or self.device, problem, self.dtype, **self._algo_and_tf32)

    @property
    def mult_adds(self) -> int:
        return volume_size(self.variables["weight"].shape)

    def as_sliding(self, flattened: Shape | None) -> tuple[Layer, Shape | None]:
        return self.as_conv(flattened or (1, 1)), None

    def as_conv(self, volume: Shape) -> Conv2D:
        """An unbuilt CONV layer whose filters are as large as `volume`, (H, W, ...)."""
        return Conv2D(
            self.out_features,
            (volume[0], volume[1]),
            bias=self.bias,
            algo=self.algo,
            name=self.name,
            frozen=self.frozen,
            weight_init=self.weight_init,
            bias_init=self.bias_init,
        )


@dataclass(eq=False, repr=False)
class Flatten(Layer):
    """(H, W, C) -> (H * W * C,), row-major: the channel varies fastest."""

    stem = "flatten"
    slides = False
    elementwise = True

    def plan(self, input_shape: Shape) -> Shape:
        return (volume_size(input_shape),)

    def forward(self, x: Array, training: bool = False) -> Array:
        self.stash(x.shape)
        return x.reshape(x.shape[0], volume_size(x.shape[1:]))

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        (shape,) = self.unstash()
        return dy.reshape(shape) if input_grad else None

    def as_sliding(self, flattened: Shape | None) -> tuple[None, Shape | None]:
        return None, self.input_shape if len(self.input_shape or ()) == 3 else flattened  # features stay as they are
