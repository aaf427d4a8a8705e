"""Transposed convolution: the gradient of a convolution, used to enlarge maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass

from gpuconv import algorithms, arguments, backends, ops
from gpuconv.layers.base import Layer
from gpuconv.layers.shapes import expect_axes, volume_size
from gpuconv.layers.variables import set_initializers, weight_and_bias
from gpuconv.problems import Conv2dProblem
from gpuconv.types import Array, Options, Padding, PaddingPairs, Pair, Shape, Size
from gpuconv.window_sizes import canonical_padding, padding_pairs


@dataclass(eq=False, repr=False)
class ConvTranspose2D(Layer):
    """Transposed convolution, the input gradient of `Conv2D`: (P, Q, C) -> (H, W, out_channels).

    H is (P - 1) * stride - padding at both ends + dilation * (kernel_size - 1) + output_padding + 1. Forward is
    `gpuconv.ops.conv2d_dgrad`. Its variables are weight, (C, R, S, out_channels // groups), and bias, (out_channels,).

    Args:
        out_channels: The channels of the output.
        kernel_size: Height and width of a filter: a number or (height, width).
        stride: Pixels of the output from one window to the next: a number or (height, width).
        padding: Pixels cut from the output: a number, (height, width), ((top, bottom), (left, right)), "same" (only at
            stride 1) or "valid".
        output_padding: Pixels added below and to the right: a number or (height, width), less than stride.
        dilation: Pixels from one tap to the next: a number or (height, width).
        groups: The number of groups of channels and filters.
        bias: Whether to add a bias.
        algo: An algorithm of `gpuconv.algorithms`. Directions for which it has no kernel keep "auto": the device
            chooses. `algorithms` returns the algorithm of each direction.
        weight_init: The weight's initializer, see `gpuconv.initializers.get`.
        bias_init: The bias's initializer.
    """

    stem = "convt"
    writes_slices = reads_slices = takes_slices = True

    out_channels: int
    kernel_size: Size
    _: KW_ONLY
    stride: Size = 1
    padding: Padding = 0
    output_padding: Size = 0
    dilation: Size = 1
    groups: int = 1
    bias: bool = True
    algo: str = "auto"
    weight_init: str | Mapping[str, object] = "he_normal"
    bias_init: str | Mapping[str, object] = "zeros"

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments.integer("out_channels", self.out_channels, 1)
        arguments.integer("groups", self.groups, 1)
        if self.out_channels % self.groups:
            raise ValueError(f"groups must divide out_channels, received {self.groups} and {self.out_channels}")
        self.padding = canonical_padding(self.padding)
        _, stride, _, _, added = self._window_sizes()
        if any(extra >= step for extra, step in zip(added, stride)):
            raise ValueError(f"output_padding must be less than the stride {stride}, received {self.output_padding}")
        set_initializers(self)
        self.algo = algorithms.full_name(self.algo)

    def _window_sizes(self) -> tuple[Pair, Pair, Pair, PaddingPairs, Pair]:
        """kernel_size, stride, dilation, padding and output_padding, one number per axis and side."""
        kernel_size, stride, dilation = (
            arguments.pair(name, getattr(self, name), 1) for name in ("kernel_size", "stride", "dilation")
        )
        padding = padding_pairs(self.padding, kernel_size, stride, dilation)
        return kernel_size, stride, dilation, padding, arguments.pair("output_padding", self.output_padding, 0)

    def _output_shape(self, input_shape: Shape) -> Shape:
        """(H, W, out_channels) for maps of any size."""
        kernel_size, stride, dilation, padding, added = self._window_sizes()
        h, w = (
            (input_shape[axis] - 1) * stride[axis]
            - sum(padding[axis])
            + dilation[axis] * (kernel_size[axis] - 1)
            + added[axis]
            + 1
            for axis in (0, 1)
        )
        return h, w, self.out_channels

    def plan(self, input_shape: Shape) -> Shape:
        expect_axes(input_shape, "H W C")
        kernel_size, stride, dilation, padding, _ = self._window_sizes()
        h, w, _ = self._output_shape(input_shape)
        if min(h, w) < 1:
            raise ValueError(f"the padding {self.padding} leaves no output: maps of {h} x {w}")
        self.problem = Conv2dProblem.of(
            (1, h, w, self.out_channels),
            (input_shape[2], *kernel_size, self.out_channels // self.groups),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=self.groups,
        )
        self.variables = weight_and_bias(self, self.problem.w_shape, self.groups, outputs=self.out_channels)
        return self.problem.x_shape[1:]

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        planned = x.shape[1:] == self.input_shape
        volume = self.problem.x_shape[1:] if planned else self._output_shape(x.shape[1:])  # larger maps are taken too
        y = ops.conv2d_dgrad(x, self["weight"], input_shape=(len(x), *volume), **self.options, out=out)
        self.stash(x)
        return ops.add(y, self["bias"], out=y) if self.bias else y

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        (x,) = self.unstash()
        trained = [name if self.trains(name) else None for name in ("weight", "bias")]
        (dw, db), accumulate = self.gradients_into(*trained)
        if dw is not None:
            kernel_size = self.problem.kernel_size
            ops.conv2d_wgrad(x, dy, kernel_size=kernel_size, out=dw, accumulate=accumulate, **self.options)
        if db is not None:
            ops.bias_grad(dy, out=db, accumulate=accumulate)
        del x
        return ops.conv2d(dy, self["weight"], **self.options) if input_grad else None

    @property
    def options(self) -> Options:
        """The keyword arguments of all three directions."""
        return self.problem.window | dict(algo=self.algo, tf32=self.tf32)

    def algorithms(self, batch_size: int, device: str | None = None) -> dict[str, str]:
        x_shape = arguments.integer("batch_size", batch_size, 1), *self.problem.x_shape[1:]
        problem = Conv2dProblem.of(x_shape, self.problem.w_shape, **self.problem.window)
        found = backends.algorithms(device or self.device, problem, self.dtype, algo=self.algo, tf32=self.tf32)
        swapped = {"fprop": "dgrad", "dgrad": "fprop", "wgrad": "wgrad"}
        return {direction: found[other] for direction, other in swapped.items() if other in found}

    @property
    def mult_adds(self) -> int:
        return volume_size(self.input_shape) * volume_size(self.variables["weight"].shape[1:])
