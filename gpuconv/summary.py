"""What a net is made of: shapes, parameters, multiply-adds and memory of each layer, for one image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gpuconv.layers import Layer, Residual


@dataclass(frozen=True)
class Row:
    """One layer.

    parameters: how many numbers, biases included, of which `weights` without the biases. activations: the values of
    its output volume; 0 where an elementwise layer's output takes its input's place, as the notes count.
    mult_adds: of a forward pass of one image.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    weights: int
    mult_adds: int
    activations: int


def rows(net: Layer) -> list[Row]:
    """A row for each layer of a built net, in forward order; a residual's own row stands before its layers' and holds
    the sum that it makes. Raises RuntimeError for a net that was not built."""
    if net.output_shape is None:
        raise RuntimeError("the net has no shapes yet: begin it with Input(...) or call build(input_shape)")
    return [_row(layer) for layer in net.walk() if isinstance(layer, Residual) or not layer.children()]


def _row(layer: Layer) -> Row:
    output_shape = layer.output_shape or ()
    own = {name: math.prod(v.shape) for name, v in layer.variables.items() if not v.buffer}
    return Row(
        layer.path or type(layer).__name__, type(layer).__name__, layer.input_shape or (), output_shape,
        sum(own.values()), sum(own.values()) - own.get("bias", 0), layer.mult_adds,
        0 if layer.elementwise else math.prod(output_shape),
    )


def total(table: list[Row]) -> Row:
    """The sums over all rows, from the first volume to the last."""
    counts = ("parameters", "weights", "mult_adds", "activations")
    sums = {count: sum(getattr(row, count) for row in table) for count in counts}
    return Row("total", "", table[0].input_shape, table[-1].output_shape, **sums)


def summary(net: Layer) -> str:
    """The rows as a text table, with their sums and the memory they take in the net's dtype."""
    table = rows(net)
    end = total(table)
    size = net.dtype.itemsize
    lines = [("layer", "kind", "output", "parameters", "mult-adds", "activations")]
    lines += [(row.name, row.kind, _volume(row.output_shape), *_counts(row)) for row in table]
    lines.append(("total", "", "", *_counts(end)))
    widths = [max(map(len, column)) for column in zip(*lines)]
    sides = "<<<>>>"
    text = ["  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths)) for line in lines]
    rule = "-" * max(map(len, text))
    foot = [
        f"weights without biases {end.weights:,}",
        f"memory in {net.dtype.name}: parameters {_bytes(end.parameters * size)}, "
        f"activations {_bytes(end.activations * size)} an image, forward",
    ]
    return "\n".join([text[0], rule, *text[1:-1], rule, text[-1], *foot])


def _counts(row: Row) -> tuple[str, str, str]:
    return f"{row.parameters:,}", f"{row.mult_adds:,}", f"{row.activations:,}"


def _volume(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _bytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
