"""Normalization within each image: over groups of channels, or over all channels of each position."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from gpuconv import arguments, ops
from gpuconv.initializers import ones, zeros
from gpuconv.layers.base import Layer
from gpuconv.layers.shapes import per_channel
from gpuconv.layers.variables import Variable
from gpuconv.types import Array, Shape


@dataclass(eq=False, repr=False)
class ImageNorm(Layer, base=True):
    """The base of GroupNorm and LayerNorm: `gpuconv.ops.group_norm`, applied to each image or to each position."""

    stem = "norm"
    elementwise = writes_slices = reads_slices = True

    _: KW_ONLY
    eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments.number("eps", self.eps, 0.0)

    def plan(self, input_shape: Shape) -> Shape:
        channels = per_channel(input_shape)
        self.variables = {
            "weight": Variable(channels, ones, dtype="accumulation"),
            "bias": Variable(channels, zeros, dtype="accumulation"),
        }
        return input_shape

    def _images(self, x: Array) -> tuple[Array, int]:
        """(x in the shape (N, ..., C) that the op takes, the number of groups). N counts the images or the
        positions."""
        raise NotImplementedError

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        images, groups = self._images(x)
        into = None if out is None else self._images(out)[0]
        y, mean, inv_std = ops.group_norm(images, self["weight"], self["bias"], groups=groups, eps=self.eps, out=into)
        self.stash(x, mean, inv_std)
        return y.reshape(x.shape) if out is None else out

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        x, mean, inv_std = self.unstash()
        (dgamma, dbeta), accumulate = self.gradients_into("weight", "bias")
        (images, _), (dy, _) = self._images(x), self._images(dy)
        dx, _, _ = ops.group_norm_backward(  # computes a frozen variable's gradient too, which is dropped
            dy, images, self["weight"], mean, inv_std, dgamma=dgamma, dbeta=dbeta, accumulate=accumulate
        )
        return dx.reshape(x.shape) if input_grad else None


@dataclass(eq=False, repr=False)
class GroupNorm(ImageNorm):
    """Normalize each image's groups of channels, over all positions, then multiply by `weight` and add `bias` (Wu and
    He 2018).

    weight and bias are (C,), in the net's accumulation dtype.

    Args:
        groups: The number of groups of neighboring channels; it divides C.
        eps: Added to the variance, at least 0.
    """

    slides = False

    groups: int

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments.integer("groups", self.groups, 1)

    def plan(self, input_shape: Shape) -> Shape:
        (channels,) = per_channel(input_shape)
        if channels % self.groups:
            raise ValueError(f"groups must divide the {channels} channels, received {self.groups}")
        return super().plan(input_shape)

    def _images(self, x: Array) -> tuple[Array, int]:
        return x, self.groups


@dataclass(eq=False, repr=False)
class LayerNorm(ImageNorm):
    """Normalize the channels of each position, then multiply by `weight` and add `bias` (Ba, Kiros and Hinton 2016).
    This is PyTorch's LayerNorm(C) of channels-last volumes, or of features.

    weight and bias are (C,), in the net's accumulation dtype.

    Args:
        eps: Added to the variance, at least 0.
    """

    def _images(self, x: Array) -> tuple[Array, int]:
        return x.reshape(-1, x.shape[-1]), 1

    def as_sliding(self, flattened: Shape | None) -> tuple[Layer | None, Shape | None]:
        if flattened:
            raise ValueError(f"{self.path} normalizes the flattened volume, which cannot slide")
        return super().as_sliding(flattened)
