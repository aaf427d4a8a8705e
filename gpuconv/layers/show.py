"""Nets as text and as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gpuconv.layers.base import Layer
from gpuconv.layers.shapes import volume_size


def text_of(name: str, layers: Iterable[Layer]) -> str:
    """A line for each layer of a net; layers inside others are indented. name: the name of the net's class."""
    lines = [*_lines(layers, "  ")]
    key, call, shape = (max((len(line[column]) for line in lines), default=0) for column in range(3))
    text = [f"{line[0]:{key}}  {line[1]:{call if shape else 0}}  {line[2]}".rstrip() for line in lines]
    return "\n".join([f"{name}([", *text, "])"])


def _lines(layers: Iterable[Layer], indent: str, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for layer in layers:
        shape = "" if layer.output_shape is None else f"-> {' x '.join(map(str, layer.output_shape))}"
        rows = [(key, inner.layers) for key, inner in layer.children() if hasattr(inner, "layers")]
        if hasattr(layer, "layers"):
            rows = [("", layer.layers)]
        yield f"{indent}{prefix}{layer.name}:", type(layer).__name__ if rows else repr(layer), shape
        for key, inner in rows:
            yield from _lines(inner, indent + "  ", f"{key}." if key else "")


def html_of(net: Layer) -> str:
    """A table of a net's layers."""
    from gpuconv.text.html import table

    rows = []
    for layer in net.walk():
        if layer is net or (layer.children() and not layer.mult_adds):
            continue
        count = sum(volume_size(variable.shape) for variable in layer.variables.values() if not variable.buffer)
        frozen = "frozen" if count and not layer.trainable else ""
        shape = " x ".join(map(str, layer.output_shape or ()))
        rows.append([layer.path or str(layer.name), type(layer).__name__, shape, f"{count:,}" if count else "", frozen])
    total = f"{net.parameter_count:,} parameters"
    return table(["layer", "kind", "output", "parameters", ""], rows, f"{type(net).__name__}: {total}")
