"""Branches: sequences of layers that read the same input; their outputs are concatenated or added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import accumulate, pairwise
from typing import Any

from gpuconv import backends, ops
from gpuconv.layers.base import Layer
from gpuconv.layers.batch_parts import MaybePerPart, PerPart, in_parts
from gpuconv.layers.input_gradient import Onto
from gpuconv.layers.layer_call import adds_input_grad, call, reads_slices, shows_gradients, takes_slices, writes_slices
from gpuconv.layers.layer_list import as_row
from gpuconv.layers.sequential import Sequential
from gpuconv.names import lookup
from gpuconv.ops.overlap import same_memory
from gpuconv.types import Array, Shape

Row = Sequence[Layer] | Sequential
MERGES = {"concat": "concat", "add": "add"}


@dataclass(eq=False, repr=False)
class Merging(Layer, base=True):
    """The base of layers that hold parallel sequences; `_rows` has them by name, with None for the input itself."""

    takes_parts = True
    merge = "add"  # not annotated: an annotation would make it a field of every subclass, not only of Branches

    def _set_rows(self, rows: dict[str, Row | None]) -> None:
        self._rows = {name: None if row is None else _sequence(row) for name, row in rows.items()}
        inside = [id(layer) for _, row in self.children() for layer in row.walk()]
        if len(set(inside)) < len(inside):
            raise ValueError("a layer occurs in two branches; create a second one, as each holds its own arrays")

    @property
    def rows(self) -> tuple[Sequential | None, ...]:
        """The sequences, in order; None stands for the input itself."""
        return tuple(self._rows.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the sequences, in order."""
        return tuple(self._rows)

    def children(self) -> Sequence[tuple[str, Layer]]:
        return [(name, row) for name, row in self._rows.items() if row]

    def plan(self, input_shape: Shape) -> Shape:
        shapes = [
            row.place(".".join(filter(None, (self.path, name))), input_shape) if row else input_shape
            for name, row in self._rows.items()
        ]
        self._expect_alike(shapes)
        if self.merge == "add":
            return shapes[0]
        self._ends = [0, *accumulate(shape[-1] for shape in shapes)]
        return *shapes[0][:-1], self._ends[-1]

    def _expect_alike(self, shapes: Sequence[Shape]) -> None:
        """Raise ValueError if volumes of these shapes, without N, cannot be merged."""
        if self.merge == "add":
            if len(set(shapes)) > 1:
                raise ValueError(self._describe_unequal(shapes))
        elif len({shape[:-1] for shape in shapes}) > 1:
            raise ValueError(f"the branches give {_listed(shapes)}, which differ in more than channels")

    def _describe_unequal(self, shapes: Sequence[Shape]) -> str:
        return f"the branches give {_listed(shapes)}, which cannot be added"

    writes_slices = True

    @property
    def reads_slices(self) -> bool:  # type: ignore[override]
        """Whether backward reads a dy that is a slice without copying it. A concatenation passes slices of dy to its
        branches in any case; a sum passes dy itself, so all of its branches must read slices."""
        return self.merge == "concat" or all(row is None or reads_slices(row) for row in self.rows)

    def copied_branches(self, direction: str, *, holds_input: bool) -> list[str]:
        """The names of the branches for which a concatenation copies an array. In "forward", it copies the outputs of
        branches that cannot write into their slice of the output; in "backward", the gradients of branches that cannot
        read their slice of dy.

        holds_input: whether the layer below writes the input straight into its slice."""
        if self.merge == "add":
            return []
        inputs = [name for name, row in self._rows.items() if row is None]  # the branches that are the input itself
        if direction == "backward":
            copied: list[str] = []  # the gradient of an input is its slice of dy
            able = reads_slices
        else:
            copied = inputs[1:] if holds_input else inputs
            able = writes_slices
        copied += [name for name, row in self._rows.items() if row is not None and not able(row)]
        return [name for name in self._rows if name in copied]

    @property
    def takes_slices(self) -> bool:  # type: ignore[override]
        return all(takes_slices(row) for row in self.rows if row)

    @property
    def holds_input(self) -> bool:  # type: ignore[override]
        """Whether the layer below may write the input straight into its slice of the output, from which the branches
        then read it. The slice must begin and end at multiples of 16 bytes, and a pixel of the output must be a
        multiple of 16 bytes long; the branches would copy any other slice."""
        if self.merge != "concat" or None not in self.rows or not self.takes_slices:
            return False
        number = self.rows.index(None)
        edges = *self._ends[number : number + 2], self._ends[-1]
        return all(edge * self.dtype.itemsize % 16 == 0 for edge in edges)

    def place_of_input(self, y: Array) -> Array:
        """The slice of the output y that holds the input."""
        return self._parts(y)[self.rows.index(None)]

    def new_output(self, x: Array) -> Array:
        """An unwritten array for the output, with x's dtype and batch size, on its device."""
        return _volume(x, len(x), *self.output_shape or ())

    def forward(self, x: Array, training: bool = False, *, out: Array | None = None) -> Array:
        return self._merge_outputs(x, lambda row, **option: call(row, "forward", x, training, **option), out)

    def infer(self, x: Array, **into: Any) -> Array:
        return self._merge_outputs(x, lambda row, **option: call(row, "infer", x, **option), **into)

    def _merge_outputs(self, x: Array, output_of: Callable[..., Array], out: Array | None = None) -> Array:
        """The sum or the concatenation of the outputs. Branches that can write into their slice of a concatenation do
        so; the outputs of the others are copied there. output_of(row, out=slice): runs a branch."""
        if self.merge == "add" or isinstance(x, PerPart) or x.shape[1:] != self.input_shape:
            return in_parts(partial(self._joined, out=out), *(output_of(row) if row else x for row in self.rows))
        y = self.new_output(x) if out is None else out
        for row, part in zip(self.rows, self._parts(y)):
            into = {"out": part} if row and writes_slices(row) else {}
            found = output_of(row, **into) if row else x
            if not same_memory(found, part):
                ops.copy(found, out=part)
        return y

    def _joined(self, *outputs: Array, out: Array | None) -> Array:
        """The merged outputs, of any size. out: receives a sum; a concatenation does not use it."""
        self._expect_alike([output.shape[1:] for output in outputs])
        if self.merge == "add":
            return _sum(*outputs, out=out)
        y = _volume(outputs[0], *outputs[0].shape[:-1], self._ends[-1])
        for part, output in zip(self._parts(y), outputs):
            ops.copy(output, out=part)
        return y

    def _parts(self, y: Array) -> list[Array]:
        """The views of a concatenated volume, or of its gradient, one per branch."""
        return [y[..., begin:end] for begin, end in pairwise(self._ends)]

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        if input_grad:
            return self.sum_gradients(self._gradients(dy))
        self.input_gradients(dy, input_grad=False)
        return None

    def input_gradients(self, dy: Array, *, input_grad: bool = True) -> list[Array | None]:
        """The gradient of the input from each branch, in order; `backward` returns their sum."""
        return [
            call(row, "backward", part, input_grad=input_grad) if row else part
            for row, part in zip(self.rows, self._gradients(dy))
        ]

    def _gradients(self, dy: Array) -> list[Array]:
        """The gradient of each branch's output, in order."""
        if self.merge == "add":
            return [dy] * len(self.rows)
        return [in_parts(partial(self._slice, number), dy) for number in range(len(self.rows))]

    def sum_gradients(self, gradients: Iterable[Array]) -> Array:
        """The sum of the input's gradients from the branches. gradients: the gradients of the branches' outputs; each
        is taken from the iterator only after the previous branch has run."""
        total: MaybePerPart = None
        adding = self.adds_to_sum
        for row, dy, adds in zip(self.rows, gradients, adding):
            shown = row is not None and shows_gradients(row)
            into = {"onto": _onto(total, shown)} if adds and not isinstance(dy, PerPart) else {}
            found = call(row, "backward", dy, **into) if row else dy
            if total is None:
                # A hook may keep this gradient, so the second branch adds to a copy.
                copies = shown and adding[1] and not isinstance(dy, PerPart)
                total = ops.copy(found) if copies else found
            elif not into:
                total = in_parts(ops.add, total, found)
        return total

    @property
    def adds_to_sum(self) -> list[bool]:
        """For each branch, whether its backward adds its gradient of the input to the sum of the branches before it.
        The branch must support this (`adds_input_grad`), and the sum must be a new array. After one branch, the sum is
        that branch's gradient: a new array if the branch supports adding too, but otherwise perhaps dy itself."""
        able = [row is not None and adds_input_grad(row) for row in self.rows]
        return [number > 0 and can and (number > 1 or able[0]) for number, can in enumerate(able)]

    adding, copied, summed = adds_to_sum, copied_branches, sum_gradients  # their former names

    def _slice(self, number: int, dy: Array) -> Array:
        """A branch's slice of the gradient, copied unless its reader (a branch or the final sum) reads slices."""
        if dy.shape[-1] != self._ends[-1]:
            raise ValueError(f"dy must have {self._ends[-1]} channels, as the output, received {dy.shape[-1]}")
        row, part = self.rows[number], self._parts(dy)[number]
        return part if row is None or reads_slices(row) else ops.copy(part)

    def fused(self) -> Layer:
        rows = [row for row in self.rows if row]
        if self.has_hooks or self.has_own_passes or any(row.has_hooks for row in rows):
            return self
        return self._with_rows([row and row.fused() for row in self.rows])

    def _with_rows(self, rows: Sequence[Sequential | None]) -> Layer:
        """This layer with these sequences in place of its own."""
        raise NotImplementedError


@dataclass(eq=False, repr=False)
class Branches(Merging):
    """Several lists of layers that all read the input; their outputs are concatenated along the channels, or added.

    An empty list is the input itself. So ``Branches([[], layers])`` is a dense block's step, or a U-Net's skip around
    `layers`, which may hold further Branches; four lists are an Inception block. A key in the state dict is, for
    example, "branches1.branch2.conv1.weight".

    Args:
        branches: At least two lists of layers, or Sequentials.
        merge: "concat", along the channels in the order of the branches, or "add".
    """

    stem = "branches"

    branches: Sequence[Row]
    merge: str = "concat"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.merge = lookup("merge", self.merge, MERGES)
        if isinstance(self.branches, Layer) or not isinstance(self.branches, Sequence) or len(self.branches) < 2:
            raise ValueError(f"Branches takes at least two lists of layers, received {self.branches!r}")
        # The base class has converted the lists to tuples.
        self._set_rows({f"branch{number}": None if row == () else row for number, row in enumerate(self.branches, 1)})

    def _with_rows(self, rows: Sequence[Sequential | None]) -> Layer:
        return Branches([row or [] for row in rows], self.merge, name=self.name, frozen=self.frozen)


def _volume(like: Array, *shape: int) -> Array:
    return backends.empty(shape, like.dtype, backends.device_of(like))


def _sum(*arrays: Array, out: Array | None = None) -> Array:
    *before, last = arrays
    return ops.add(reduce(ops.add, before), last, out=out)


def _onto(total: Array, shown: bool) -> Onto:
    """`total` for a backward to add to; a function of its own, so that the lambda keeps this `total`."""
    return Onto(lambda: total, needs_own=shown)


def _sequence(layers: Row) -> Sequential:
    if not isinstance(layers, Sequential):
        return Sequential(as_row(layers))
    return layers.twin() if layers.built else layers


def _listed(shapes: Sequence[Shape]) -> str:
    return ", ".join(map(str, shapes))
