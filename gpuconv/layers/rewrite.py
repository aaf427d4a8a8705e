"""Transformations of a sequence of layers: fusion (`Sequential.fuse`), and conversion to layers that slide over larger
images (`Sequential.as_convolutional`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gpuconv.layers.base import Layer
from gpuconv.types import Shape

FUSED: list[type[Any]] = []  # the layers of `fused.py` and `fused_residual.py`; each class has fits(layers)
Chain = Callable[[Sequence[Layer], bool | None], Sequence[Layer]]
CHAINED: list[Chain] = []  # functions of `norm_chain.py` that replace runs of a fused row
LONGEST = 4  # the most layers that one fused layer replaces: CONV, POOL, batch norm and an activation


def fused_row(layers: Sequence[Layer]) -> list[Layer]:
    """The layers, with every run that can be fused replaced by a fused layer; longer runs take precedence."""
    found: list[Layer] = []
    first = 0
    while first < len(layers):
        layer, count = _replace_first(layers[first : first + LONGEST])
        found.append(layer)
        first += count
    return found


def chained_row(layers: Sequence[Layer], norm_sums: bool | None) -> Sequence[Layer]:
    """The fused row with chains in place of some sequences of its layers. norm_sums: which ones, see
    `Sequential.fuse`."""
    for chained in CHAINED:
        layers = chained(layers, norm_sums)
    return layers


def _replace_first(layers: Sequence[Layer]) -> tuple[Layer, int]:
    """The layer that replaces the first layers, and how many it replaces."""
    for length in range(len(layers), 0, -1):
        for kind in FUSED:
            if kind.fits(layers[:length]) and not any(layer.has_hooks for layer in layers[:length]):
                return kind([layer.fused() for layer in layers[:length]]), length
    return layers[0].fused(), 1


def sliding_row(layers: Sequence[Layer], flattened: Shape | None = None) -> tuple[list[Layer], Shape | None]:
    """The layers, each converted to one that slides; see `Layer.as_sliding`. Raises ValueError for a user's layer that
    would be replaced by another layer without its forward."""
    found: list[Layer] = []
    for layer in layers:
        one, flattened = layer.as_sliding(flattened)
        inherited = type(layer).as_sliding.__module__.startswith("gpuconv.")
        if inherited and type(one) is not type(layer) and layer.has_own_passes:
            raise ValueError(f"{layer.path} is a {type(layer).__name__}, which must define as_sliding itself to slide")
        found += [] if one is None else [one]
    return found, flattened


def take_values(layer: Layer, source: Layer) -> None:
    """Copy every array of `source` into the array of `layer` with the same key. Their shapes may differ, but not their
    sizes."""
    shapes: dict[str, Shape] = {key: value.shape for key, value in layer.state_dict().items()}
    layer.load_state_dict({key: value.reshape(shapes[key]) for key, value in source.state_dict().items()})
