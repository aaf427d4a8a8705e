"""Checks, copies and names the layers of a list."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from gpuconv.layers.base import Layer


def as_row(layers: object) -> tuple[Layer, ...]:
    """The layers as a tuple. Raises TypeError for anything but an iterable of at least one layer, and ValueError if a
    layer occurs twice."""
    if isinstance(layers, Layer) and not isinstance(layers, Iterable):
        raise TypeError(f"layers are given as a list, [{layers!r}, ...], received the layer itself")
    row = tuple(layers) if isinstance(layers, Iterable) else ()
    for layer in row:
        if isinstance(layer, type) and issubclass(layer, Layer):
            raise TypeError(
                f"a net is a list of layers, received the class {layer.__name__}; call it: {layer.__name__}()"
            )
    others = [(index, type(layer)) for index, layer in enumerate(row) if not isinstance(layer, Layer)]
    if not row or others:
        wrong = f"; item {others[0][0]} is a {others[0][1].__module__}.{others[0][1].__qualname__}" if others else ""
        raise TypeError(f"a net is a list of at least one layer, received {layers!r}{wrong}")
    if len({id(layer) for layer in row}) < len(row):
        raise ValueError("a layer occurs twice in one list; create a second one, as each holds its own arrays")
    return row


def copy_built(layers: Sequence[Layer]) -> Sequence[Layer]:
    """The layers; built ones are copied. A copy gets a new name if its default name is taken."""
    given = [layer.name for layer in layers if not layer.built]
    found = []
    for layer in layers:
        if layer.built:
            layer = layer.twin()
            if layer.name in given and re.fullmatch(rf"{layer.stem}\d*", str(layer.name)):
                layer.name = None
            given.append(layer.name)
        found.append(layer)
    return tuple(found)


def name_layers(layers: Sequence[Layer]) -> None:
    """Give a name to every layer without one: its class's stem and a number, such as "conv2". A class that is not
    `numbered` gets the stem alone, if that is free. Raises ValueError if two layers were given the same name."""
    given = [layer.name for layer in layers if layer.name is not None]
    for name in given:
        if given.count(name) > 1:
            raise ValueError(f"two layers of one list are named {name!r}")
    taken = {*given}
    counts: Counter[str] = Counter()
    for layer in layers:
        counts[layer.stem] += 1
        if layer.name is None:
            layer.name = layer.stem
            if layer.numbered or layer.stem in taken:
                while f"{layer.stem}{counts[layer.stem]}" in taken:
                    counts[layer.stem] += 1
                layer.name = f"{layer.stem}{counts[layer.stem]}"
            taken.add(layer.name)
