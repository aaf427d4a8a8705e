"""The part of a batch that layers receive. Dropout needs it to number the elements of the whole batch, and batch norm
may sum over the parts.

Parts go through a net one after another, or all together, layer by layer, as batch norm over all parts requires. In the
second case, a `PerPart` holds the activations of all parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from gpuconv import backends, ops
from gpuconv.dtypes import is_float
from gpuconv.layers.protocol import AnyLayer
from gpuconv.types import Array

__all__ = [
    "MaybePerPart",
    "Part",
    "PartStates",
    "PerPart",
    "batch_of",
    "in_parts",
    "part_in_elements",
    "part_of_batch",
    "run_net",
    "sum_function",
    "summed_over_parts",
    "takes_all_parts",
]


class Part(NamedTuple):
    """Consecutive samples of a batch, from number `first` on. batch: the number of samples of the whole batch. last:
    whether this is the last part that this net receives."""

    first: int
    batch: int
    last: bool = True


MaybePerPart = Any  # a value, or a `PerPart` with one for each part: layers treat both alike
Sum = Callable[[Array], None]  # replaces an array of one axis by its sum over all ranks

_sum: ContextVar[Sum | None] = ContextVar("a sum over the parts of a batch", default=None)
_current: ContextVar[Part | None] = ContextVar("part of a batch", default=None)


@contextmanager
def part_of_batch(part: Part) -> Iterator[None]:
    """A context in which layers receive that part of a batch."""
    token = _current.set(part)
    try:
        yield
    finally:
        _current.reset(token)


def part_in_elements(x: Array) -> Part:
    """The current part in elements instead of samples: x is that part of the whole batch's activations."""
    part = _current.get()
    if part is None:
        return Part(0, x.size)
    each = x.size // x.shape[0]
    return Part(part.first * each, part.batch * each, part.last)


place_of = part_in_elements  # the former name


def batch_of(parts: Sequence[Array]) -> int:
    """The number of samples in the whole batch of these parts."""
    part = parts.first_part if isinstance(parts, PerPart) else _current.get()
    return sum(map(len, parts)) if part is None else part.batch


@contextmanager
def summed_over_parts(total: Sum) -> Iterator[None]:
    """A context in which batch norm takes the statistics of the whole batch. total: a function that sums an array over
    the ranks."""
    token = _sum.set(total)
    try:
        yield
    finally:
        _sum.reset(token)


def sum_function() -> Sum | None:
    """The function of the surrounding `summed_over_parts`, or None outside of it."""
    return _sum.get()


sums_over_parts = sum_function  # the former name


class PartStates:
    """The states of a net for the parts of a batch that go through it together, layer by layer: each part has its own
    gradients, activations and running statistics. The first part uses the net's own. count: the number of parts."""

    def __init__(self, net: AnyLayer, count: int) -> None:
        self._others = [{layer: _OwnState.of(layer) for layer in net.walk()} for _ in range(count - 1)]
        self.parts: list[Part] = []

    def begin(self, parts: Sequence[Part]) -> None:
        """Start the parts of a batch: all begin with the net's running statistics."""
        self.parts = [*parts]
        for other in self._others:
            for layer, state in other.items():
                state.begin(layer)

    def arrays(self) -> list[Array]:
        """The arrays that a captured step expects at fixed addresses."""
        states = [state for other in self._others for state in other.values()]
        return [each for state in states for each in (*state.statistics.values(), *state.gradients.values())]

    @contextmanager
    def part(self, number: int, layer: AnyLayer) -> Iterator[None]:
        """A context in which this layer has the state of one part, and receives that part."""
        with part_of_batch(self.parts[number]):
            self._swap_attributes(number, layer)
            try:
                yield
            finally:
                self._swap_attributes(number, layer)

    def _swap_attributes(self, number: int, layer: AnyLayer) -> None:
        for each in layer.walk() if number else ():
            own, kept = vars(each), self._others[number - 1][each].attributes
            for name in kept:
                own[name], kept[name] = kept[name], own[name]


Together = PartStates  # its former name


@dataclass
class _OwnState:
    """A layer's state for one part. statistics, gradients: the part's own arrays, by name. attributes: by name, the
    values that the layer's attributes have while the layer runs that part."""

    statistics: dict[str, Array]
    gradients: dict[str, Array]
    attributes: dict[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, layer: AnyLayer) -> _OwnState:
        buffers = [name for name, variable in layer.variables.items() if variable.buffer]
        statistics = {name: ops.copy(layer[name]) for name in buffers if is_float(layer[name].dtype)}
        gradients = {
            name: backends.zeros(layer[name].shape, layer[name].dtype, layer.device)
            for name in layer.variables
            if layer.trains(name)
        }
        return cls(statistics, gradients)

    def begin(self, layer: AnyLayer) -> None:
        """Start a batch: with the layer's running statistics, and with gradients that count as zero."""
        for name, statistics in self.statistics.items():
            ops.copy(layer.arrays[name], out=statistics)
        self.attributes = layer.attributes_of_part(self.statistics, self.gradients)


class PerPart(list[Any]):
    """The values of all parts of a batch at one place in a net, such as the activations of each part."""

    def __init__(self, values: Iterable[object], states: PartStates) -> None:
        super().__init__(values)
        self._states = states

    def of(self, values: Iterable[object]) -> PerPart:
        """Other values for the same parts."""
        return PerPart(values, self._states)

    def run_each(self, layer: AnyLayer, function: Callable[[object], object]) -> PerPart:
        """The results of `function`, which runs the layer on one part after another."""
        found = []
        for number, value in enumerate(self):
            with self._states.part(number, layer):
                found.append(function(value))
        return self.of(found)

    @property
    def first_part(self) -> Part:
        """The position of the first part in the batch."""
        return self._states.parts[0]


def takes_all_parts(layer: AnyLayer) -> bool:
    """Whether a layer's forward and backward take the parts of a batch together."""
    return layer.takes_parts and not layer.is_foreign


def run_net(net: AnyLayer, method: str, x: object, **options: object) -> MaybePerPart:
    """Call the method of a whole net on x, an array or a `PerPart`. The net runs its layers with
    `gpuconv.layers.layer_call.run`."""
    function = partial(getattr(net, method), **options)
    return x.run_each(net, function) if isinstance(x, PerPart) and not takes_all_parts(net) else function(x)


def in_parts(function: Callable[..., object], *values: object) -> MaybePerPart:
    """function(*values), or if values are PerPart, a PerPart with its result for each part."""
    if not isinstance(values[0], PerPart):
        return function(*values)
    return values[0].of([function(*each) for each in zip(*values)])
