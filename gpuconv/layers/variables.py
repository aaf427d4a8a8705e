"""Declarations of a layer's arrays, made by `plan` before the arrays exist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from gpuconv import initializers
from gpuconv.dtypes import accumulation_dtype
from gpuconv.initializers import Initializer
from gpuconv.types import Shape


@dataclass(frozen=True)
class Variable:
    """An array that a layer owns.

    Args:
        shape: The shape of the array.
        initializer: Makes its first value.
        buffer: Whether it is part of the state but not a parameter.
        frozen: Whether it is a parameter that is not trained.
        dtype: "net" for the net's dtype, "accumulation" for its accumulation dtype (the arrays of norms), or the name
            of an integer dtype.
    """

    shape: Shape
    initializer: Initializer
    buffer: bool = False
    frozen: bool = False
    dtype: str = "net"

    @property
    def trained(self) -> bool:
        return not self.buffer and not self.frozen

    def resolve_dtype(self, net_dtype: np.dtype) -> np.dtype:
        """The dtype of the values in a net of `net_dtype`."""
        if self.dtype == "net":
            return net_dtype
        return accumulation_dtype(net_dtype) if self.dtype == "accumulation" else np.dtype(self.dtype)

    def stand_in(self, net_dtype: np.dtype) -> np.ndarray:
        """An array of this shape, and of the dtype in a net of `net_dtype`, that uses no memory."""
        return np.broadcast_to(np.zeros((), self.resolve_dtype(net_dtype)), self.shape)


class Weighted(Protocol):
    """A layer with a weight and, if `bias`, a bias."""

    weight_init: str | Mapping[str, object]
    bias: bool
    bias_init: str | Mapping[str, object]


def set_initializers(layer: Weighted) -> None:
    """Set `weight_init` and, if the layer has a bias, `bias_init` to their documented spelling. Raise ValueError or
    TypeError if one of them names no initializer."""
    layer.weight_init = initializers.canonical_choice(layer.weight_init)
    if layer.bias:
        layer.bias_init = initializers.canonical_choice(layer.bias_init)


def weight_and_bias(
    layer: Weighted, weight_shape: Shape, groups: int = 1, *, outputs: int | None = None
) -> dict[str, Variable]:
    """The variables of a layer with `weight_init`, `bias` and `bias_init`. groups: the number of groups of a
    convolution, for the weight's initializer. outputs: the length of the bias, by default the weight's first axis."""
    initializer = initializers.get(layer.weight_init)
    variables = {"weight": Variable(weight_shape, partial(initializer, groups=groups) if groups > 1 else initializer)}
    if layer.bias:
        variables["bias"] = Variable(
            weight_shape[:1] if outputs is None else (outputs,), initializers.get(layer.bias_init)
        )
    return variables
