"""CONV: filters that slide over the volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from gpuconv import algorithms, arguments, backends, ops
from gpuconv.layers.base import Layer
from gpuconv.layers.input_gradient import Onto
from gpuconv.layers.shapes import expect_axes, volume_size
from gpuconv.layers.variables import set_initializers, weight_and_bias
from gpuconv.names import canonical
from gpuconv.problems import FITS, PLAIN, Conv2dProblem, Epilogue
from gpuconv.types import Array, Options, Padding, Shape, Size
from gpuconv.window_sizes import canonical_padding, padding_pairs


@dataclass(eq=False, repr=False)
class Conv2D(Layer):
    """Cross-correlate the volume with `out_channels` filters: (H, W, C) -> (P, Q, out_channels).

    Its variables are weight, (K, R, S, C // groups), and bias, (K,). See `gpuconv.ops.conv2d` for the formula.

    Args:
        out_channels: K, the number of filters.
        kernel_size: Height and width of a filter: a number or (height, width).
        stride: Pixels from one window to the next: a number or (height, width).
        padding: A number, (height, width), ((top, bottom), (left, right)), "same" (only at stride 1) or "valid".
        dilation: Pixels from one tap to the next: a number or (height, width).
        groups: The number of groups of channels and filters.
        bias: Whether to add a bias.
        fit: "floor", "exact" or "cover", as in `gpuconv.ops`.
        algo: An algorithm of `gpuconv.algorithms`. Directions for which it has no kernel keep "auto": the device
            chooses. `algorithms` returns the algorithm of each direction.
        weight_init: The weight's initializer, see `gpuconv.initializers.get`.
        bias_init: The bias's initializer.
    """

    stem = "conv"
    writes_slices = reads_slices = adds_input_grad = True

    out_channels: int
    kernel_size: Size
    _: KW_ONLY
    stride: Size = 1
    padding: Padding = 0
    dilation: Size = 1
    groups: int = 1
    bias: bool = True
    fit: str = "floor"
    algo: str = "auto"
    weight_init: str | Mapping[str, object] = "he_normal"
    bias_init: str | Mapping[str, object] = "zeros"

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments.integer("out_channels", self.out_channels, 1)
        arguments.integer("groups", self.groups, 1)
        kernel_size, stride, dilation = (
            arguments.pair(name, getattr(self, name), 1) for name in ("kernel_size", "stride", "dilation")
        )
        self.padding = canonical_padding(self.padding)
        padding_pairs(self.padding, kernel_size, stride, dilation)
        self.fit = canonical("fit", self.fit, FITS)
        set_initializers(self)
        self.algo = algorithms.full_name(self.algo)

    def plan(self, input_shape: Shape) -> Shape:
        expect_axes(input_shape, "H W C")
        kernel_size = arguments.pair("kernel_size", self.kernel_size, 1)
        self.problem = Conv2dProblem.of(
            (1, *input_shape),
            (self.out_channels, *kernel_size, input_shape[2] // self.groups),
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            fit=self.fit,
        )
        self.variables = weight_and_bias(self, self.problem.w_shape, self.groups)
        return self.problem.y_shape[1:]

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        y = ops.conv2d(x, *self.filters, **self.options, out=out)
        self.stash(x)
        return y

    def backward(self, dy: Array, *, input_grad: bool = True, onto: Onto | None = None) -> Array | None:
        (x,) = self.unstash()
        return self.gradients_of(dy, x, input_grad, onto)

    def gradients_of(
        self, dy: Array, x: Array, input_grad: bool, onto: Onto | None = None, **masked: object
    ) -> Array | None:
        """`backward` for a given input.

        Args:
            dy: The output's gradient.
            x: The input of forward.
            input_grad, onto: As in `Layer.backward`.
            masked: mask and pool, if dy is the gradient of the output of `gpuconv.ops.conv2d_relu`.
        """
        weight, options = self["weight"], self.options | masked
        bias = "bias" if self.trains("bias") else None
        # With a mask, wgrad computes the bias gradient, so a frozen weight's gradient is computed too, and dropped.
        weight_name = "weight" if self.trains("weight") or (masked and bias) else None
        (dw, db), accumulate = self.gradients_into(weight_name, bias)
        if onto and onto.needs_own:
            onto.own = ops.conv2d_dgrad(dy, weight, input_shape=x.shape, **options)
        total = onto.array() if onto else None
        if dw is not None and input_grad:
            added: Options = dict(out=total, accumulate_dx=onto is not None)
            return ops.conv2d_backward(dy, x, weight, dw=dw, db=db, accumulate=accumulate, **added, **options)[0]
        if dw is not None:
            ops.conv2d_wgrad(dy, x, kernel_size=weight.shape[1:3], out=dw, db=db, accumulate=accumulate, **options)
        elif db is not None:
            ops.bias_grad(dy, out=db, accumulate=accumulate)
        if not input_grad:
            return None
        return ops.conv2d_dgrad(dy, weight, input_shape=x.shape, out=total, accumulate=onto is not None, **options)

    @property
    def takes_slices(self) -> bool:  # type: ignore[override]
        """True where the kernels read x pixel by pixel; those for few channels read whole lines."""
        return not self.problem.few_channels

    @property
    def filters(self) -> tuple[Array, Array | None]:
        """The weight and the bias."""
        return self["weight"], self["bias"] if self.bias else None

    @property
    def depthwise(self) -> bool:
        """Whether there are several groups of one channel each."""
        return self.problem.depthwise

    @property
    def options(self) -> Options:
        """The keyword arguments of all three directions."""
        return self.problem.window | dict(algo=self.algo, tf32=self.tf32)

    def algorithms(self, batch_size: int, device: str | None = None, epilogue: Epilogue = PLAIN) -> dict[str, str]:
        """As in `Layer.algorithms`. epilogue: the epilogue of the op that runs the convolution."""
        x_shape = arguments.integer("batch_size", batch_size, 1), *self.problem.x_shape[1:]
        problem = Conv2dProblem.of(x_shape, self.problem.w_shape, **self.problem.window)
        return backends.algorithms(
            device or self.device, problem, self.dtype, algo=self.algo, tf32=self.tf32, epilogue=epilogue
        )

    @property
    def mult_adds(self) -> int:
        return volume_size(self.output_shape) * volume_size(self.variables["weight"].shape[1:])
