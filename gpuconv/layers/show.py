"""Nets as text and as HTML."""

from __future__ import annotations

from collections.abc import Iterator

from gpuconv.layers.base import Layer
from gpuconv.layers.registry import LAYERS
from gpuconv.layers.shapes import volume_size


def text_of(net: Layer) -> str:
    """A line for each layer of a net; layers inside others are indented."""
    lines = [*_lines(net, "  ")]
    key, call, shape = (max((len(line[column]) for line in lines), default=0) for column in range(3))
    text = [f"{line[0]:{key}}  {line[1]:{call if shape else 0}}  {line[2]}".rstrip() for line in lines]
    return "\n".join([f"{type(net).__name__}([", *text, "])"])


def _lines(net: Layer, indent: str) -> Iterator[tuple[str, str, str]]:
    for key, layer in _inner_layers(net):
        shape = "" if layer.output_shape is None else f"-> {' x '.join(map(str, layer.output_shape))}"
        yield f"{indent}{key}:", type(layer).__name__ if layer.children() else repr(layer), shape
        yield from _lines(layer, indent + "  ")


def _inner_layers(layer: Layer) -> Iterator[tuple[str, Layer]]:
    """The children of a layer; a block's Sequentials, such as its shortcut, are replaced by the layers in them."""
    sequential = LAYERS["Sequential"]
    for key, child in layer.children():
        if isinstance(child, sequential) and not isinstance(layer, sequential):
            yield from ((f"{key}.{name}" if key else name, inner) for name, inner in child.children())
        else:
            yield key, child


def html_of(net: Layer) -> str:
    """A table of a net's layers."""
    from gpuconv.text.html import table

    rows = []
    for layer in net.walk():
        if layer is net or (layer.children() and not layer.variables):
            continue
        count = sum(volume_size(variable.shape) for variable in layer.variables.values() if not variable.buffer)
        frozen = "frozen" if count and not layer.trainable else ""
        shape = " x ".join(map(str, layer.output_shape or ()))
        rows.append([layer.path or str(layer.name), type(layer).__name__, shape, f"{count:,}" if count else "", frozen])
    total = f"{net.parameter_count:,} parameters"
    return table(["layer", "kind", "output", "parameters", ""], rows, f"{type(net).__name__}: {total}")
