"""A table of a net's layers: shapes, parameters, multiply-adds, memory and algorithms."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuconv.arguments import integer
from gpuconv.layers import Layer
from gpuconv.layers.base import expect_built
from gpuconv.layers.branches import Merging
from gpuconv.layers.fused import Fused
from gpuconv.layers.sequential import runs_of
from gpuconv.text import html
from gpuconv.text.plain_text import display_width, size_text
from gpuconv.text.text_table import align_columns


@dataclass(frozen=True)
class Row:
    """One layer, for one image.

    parameters: their number, including biases; weights: the same without biases. activations: the size of the output
    volume; 0 for a layer whose output can overwrite its input, as the CS231n notes count. mult_adds: the multiply-adds
    of a forward pass. algorithms: those of its matrix products by direction, for the given batch size; {} on a device
    without a choice of algorithms. proofs: how the GPU proved the algorithms that it had to prove first, by direction.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int
    weights: int
    mult_adds: int
    activations: int
    algorithms: Mapping[str, str] = field(default_factory=dict)
    proofs: Mapping[str, str] = field(default_factory=dict)


def rows(net: Layer, batch_size: int = 128, device: str | None = None) -> list[Row]:
    """A row for each layer of a built net, in forward order. A residual block, and branches, have a row for the op that
    joins their outputs, before the rows of their layers. batch_size: at least 1. device: by default the net's. Raises
    RuntimeError for a net that is not built."""
    expect_built(net)
    batch_size = integer("batch_size", batch_size, 1)
    shown = (layer for layer in net.walk() if isinstance(layer, Merging) or not layer.children())
    # The row of a fused layer's first layer shows the algorithms of the fused layer.
    runs_as = {id(layer.layers[0]): layer for layer in net.walk() if isinstance(layer, Fused)}
    return [_row(layer, runs_as.get(id(layer), layer).algorithms(batch_size, device)) for layer in shown]


def _row(layer: Layer, algorithms: Mapping[str, str]) -> Row:
    output_shape = layer.output_shape or ()
    own = {name: math.prod(v.shape) for name, v in layer.variables.items() if not v.buffer}
    return Row(
        layer.path or type(layer).__name__,
        type(layer).__name__,
        layer.input_shape or (),
        output_shape,
        sum(own.values()),
        sum(own.values()) - own.get("bias", 0),
        layer.mult_adds,
        0 if layer.elementwise else math.prod(output_shape),
        algorithms,
        {direction: proof for direction, name in algorithms.items() if (proof := getattr(name, "proof", ""))},
    )


def total(table: list[Row]) -> Row:
    """A row with the sums over all rows, the first row's input shape and the last row's output shape."""
    counts = ("parameters", "weights", "mult_adds", "activations")
    sums = {count: sum(getattr(row, count) for row in table) for count in counts}
    return Row("total", "", table[0].input_shape, table[-1].output_shape, **sums)


class Summary(str):
    """The text of a summary, which a notebook shows as a table."""

    table: tuple[list[str], list[list[str]], str]

    def _repr_html_(self) -> str:
        return html.table(*self.table)


def summary(net: Layer, *, batch_size: int = 128, device: str | None = None) -> Summary:
    """The rows as a text table, with their sums and the memory in the net's dtype. For a device with kernels, the table
    also shows the algorithms of fprop, dgrad and wgrad at this batch size. Lines below it show the proofs of the
    algorithms that needed one. Arguments and errors as in `rows`."""
    table = rows(net, batch_size, device)
    end = total(table)
    lines: list[tuple[str, ...]] = [("layer", "kind", "output", "parameters", "mult-adds", "activations")]
    lines += [(row.name, row.kind, size_text(row.output_shape), *_counts(row)) for row in table]
    lines.append(("total", "", "", *_counts(end)))
    if any(row.algorithms for row in table):
        named = [
            " ".join(name + "*" * (direction in row.proofs) for direction, name in row.algorithms.items())
            for row in table
        ]
        lines = [(*line, cell) for line, cell in zip(lines, ["fprop, dgrad, wgrad", *named, ""], strict=True)]
    text = align_columns(lines, "<<<>>><").split("\n")
    rule = "-" * max(map(display_width, text))
    trained = sum(map(_trained, net.walk()))
    foot = [
        f"weights without biases {end.weights:,}",
        *([] if trained == end.parameters else [f"trained {trained:,}, frozen {end.parameters - trained:,}"]),
        f"memory in {net.precision}: parameters {_bytes(net.parameter_bytes)}, "
        f"activations {_bytes(end.activations * net.dtype.itemsize)} an image, forward",
    ]
    if any(row.algorithms for row in table):
        foot.append(f"algorithms on {device or net.device} for batches of {batch_size}")
    foot += _concatenations(net)
    foot += [
        f"* {row.name} {direction} {row.algorithms[direction]}: {proof}"
        for row in table
        for direction, proof in row.proofs.items()
    ]
    found = Summary("\n".join([text[0], rule, *text[1:-1], rule, text[-1], *foot]))
    found.table = [*lines[0]], [[*line] for line in lines[1:]], "; ".join(foot)
    return found


def _concatenations(net: Layer) -> list[str]:
    """Lines that say which branches of the net's concatenations are written in place and which are copied.
    Concatenations with the same text share a line, which names the first and counts the others."""
    found: dict[str, list[str]] = {}
    holding = {id(layer) for run in runs_of(net) for layer in run[1:]}
    for layer in net.walk():
        if isinstance(layer, Merging) and layer.merge == "concat":
            copies = {
                f"copied {direction}": layer.copied_branches(direction, holds_input=id(layer) in holding)
                for direction in ("forward", "backward")
            }
            others = [name for name in layer.names if not any(name in each for each in copies.values())]
            ways = {"in place": others} | copies
            text = "; ".join(f"{way} {', '.join(names)}" for way, names in ways.items() if names)
            found.setdefault(text, []).append(layer.path or type(layer).__name__)
    return [
        f"concatenated in {names[0]}{f' and {more} more' if (more := len(names) - 1) else ''}: {text}"
        for text, names in found.items()
    ]


def _trained(layer: Layer) -> int:
    return sum(math.prod(variable.shape) for name, variable in layer.variables.items() if layer.trains(name))


def _counts(row: Row) -> tuple[str, str, str]:
    return f"{row.parameters:,}", f"{row.mult_adds:,}", f"{row.activations:,}"


def _bytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.1f} KiB"
