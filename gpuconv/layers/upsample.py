"""Enlarge maps by repeating pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpuconv import arguments, ops
from gpuconv.initializers import ones
from gpuconv.layers.base import Layer
from gpuconv.layers.shapes import expect_axes
from gpuconv.layers.variables import Variable
from gpuconv.types import Array, Shape, Size


@dataclass(eq=False, repr=False)
class Upsample(Layer):
    """Repeat each pixel: (H, W, C) -> (H * scale, W * scale, C), PyTorch's Upsample with mode="nearest".

    It is a transposed depthwise convolution by ones, which are its buffer `ones`, (C, scale, scale, 1); backward sums
    each window.

    Args:
        scale: How often a pixel is repeated: a number or (height, width).
    """

    stem = "upsample"

    scale: Size

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments.pair("scale", self.scale, 1)

    def plan(self, input_shape: Shape) -> Shape:
        expect_axes(input_shape, "H W C")
        h, w, channels = input_shape
        down, across = arguments.pair("scale", self.scale, 1)
        self.variables = {"ones": Variable((channels, down, across, 1), ones, buffer=True)}
        return h * down, w * across, channels

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of both directions."""
        channels, *scale, _ = self.variables["ones"].shape
        return dict(stride=tuple(scale), groups=channels)

    def forward(self, x: Array, training: bool = False) -> Array:
        self.stash()
        n, h, w, channels = x.shape
        down, across = self.options["stride"]
        return ops.conv2d_dgrad(x, self["ones"], input_shape=(n, h * down, w * across, channels), **self.options)

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        self.unstash()
        return ops.conv2d(dy, self["ones"], **self.options) if input_grad else None
