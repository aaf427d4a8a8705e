"""Enlarge maps by repeating pixels, or by interpolating between them."""

from __future__ import annotations

from dataclasses import dataclass

from gpuconv import arguments, ops
from gpuconv.initializers import ones
from gpuconv.layers.base import Layer
from gpuconv.layers.shapes import expect_axes
from gpuconv.layers.variables import Variable
from gpuconv.names import canonical
from gpuconv.types import Array, Options, Shape, Size

MODES = ("nearest", "bilinear")


@dataclass(eq=False, repr=False)
class Upsample(Layer):
    """Enlarge each map: (H, W, C) -> (H * scale, W * scale, C), PyTorch's Upsample with align_corners=False.

    "nearest" repeats each pixel. It is a transposed depthwise convolution by ones, which are its buffer `ones`,
    (C, scale, scale, 1); backward sums each window.

    "bilinear" interpolates between the centers of pixels; outside the outermost centers it repeats the pixels at the
    edge. It first repeats each pixel. Then each output is the mean over a window of size `scale` around it, in which
    only pixels inside the map count. A window of even size is not centered on a pixel, so along that axis the output is
    the mean of the two adjacent windows.

    Args:
        scale: How much larger the map becomes: a whole number or (height, width).
        mode: "nearest" or "bilinear".
    """

    stem = "upsample"
    writes_slices = reads_slices = takes_slices = True

    scale: Size
    mode: str = "nearest"

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments.pair("scale", self.scale, 1)
        self.mode = canonical("mode", self.mode, MODES)

    def plan(self, input_shape: Shape) -> Shape:
        expect_axes(input_shape, "H W C")
        h, w, channels = input_shape
        down, across = arguments.pair("scale", self.scale, 1)
        self.variables = {"ones": Variable((channels, down, across, 1), ones, buffer=True)}
        return h * down, w * across, channels

    @property
    def options(self) -> Options:
        """The keyword arguments of both directions of the convolution."""
        if "ones" not in self.variables:
            raise RuntimeError("build the Upsample first: its input shape is unknown")
        channels, *scale, _ = self.variables["ones"].shape
        return dict(stride=tuple(scale), groups=channels)

    @property
    def pool_options(self) -> list[Options]:
        """The keyword arguments of the average pools that follow the convolution."""
        scale = self.options["stride"]
        if self.mode == "nearest" or scale == (1, 1):
            return []
        windows = dict(kernel_size=scale, stride=1, padding=tuple(size // 2 for size in scale), count_include_pad=False)
        pairs = dict(kernel_size=tuple(2 - size % 2 for size in scale), stride=1)
        return [windows, pairs] if any(size % 2 == 0 for size in scale) else [windows]

    means = pool_options  # its former name

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        n, h, w, channels = x.shape
        down, across = self.options["stride"]
        ends = [*[None] * len(self.pool_options), out]  # only the last op writes the output
        input_shape = n, h * down, w * across, channels
        y = ops.conv2d_dgrad(x, self["ones"], input_shape=input_shape, **self.options, out=ends[0])
        shapes = []
        for mean, end in zip(self.pool_options, ends[1:]):
            shapes.append(y.shape)
            y = ops.avg_pool2d(y, **mean, out=end)
        self.stash(*shapes)
        return y

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        shapes = self.unstash()
        if not input_grad:
            return None
        for mean, shape in zip(reversed(self.pool_options), reversed(shapes)):
            dy = ops.avg_pool2d_backward(dy, input_shape=shape, **mean)
        return ops.conv2d(dy, self["ones"], **self.options)
