"""Runs a layer inside a net: within the contexts of all listeners, with its hooks, and with its name added to
errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

from gpuconv import backends
from gpuconv.arguments import is_array
from gpuconv.dtypes import is_float
from gpuconv.layers.batch_parts import MaybePerPart, PerPart, in_parts, takes_all_parts
from gpuconv.layers.protocol import AnyLayer
from gpuconv.types import Array

Listener = Callable[[Any, str], AbstractContextManager[object]]  # called with (layer, direction)
LayerT = TypeVar("LayerT", bound=AnyLayer)
_listeners: list[Listener] = []


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """A context in which every layer that `run` calls runs inside the context ``listener(layer, direction)``, with the
    direction "forward" or "backward"."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextmanager
def tracked_layer() -> Iterator[Callable[[], tuple[str, str]]]:
    """A context that yields a function: it returns the path and the direction of the innermost layer that runs, or
    ("", "") outside of all layers."""
    running = [("", "")]

    @contextmanager
    def inside(layer: AnyLayer, direction: str) -> Iterator[None]:
        running.append((layer.path, direction))
        try:
            yield
        finally:
            running.pop()

    with listen(inside):
        yield lambda: running[-1]


def run(layer: AnyLayer, method: str, *args: object, **options: object) -> MaybePerPart:
    """Call a child's "forward", "infer" or "backward". Sequences run their layers only through this function; layers
    with branches run their branches, which are sequences, through `call`.

    The parts of a PerPart are run one by one, unless the layer takes all parts together. Errors get a note that names
    the layer.
    """
    if isinstance(args[0], PerPart) and not takes_all_parts(layer):
        return args[0].run_each(layer, lambda x: run(layer, method, x, *args[1:], **options))
    try:
        if not _listeners:
            return call(layer, method, *args, **options)
        direction = "backward" if method == "backward" else "forward"
        with ExitStack() as stack:
            for listener in [*_listeners]:  # a copy, because other threads may change the list
                stack.enter_context(listener(layer, direction))
            return call(layer, method, *args, **options)
    except Exception as error:
        if layer.path:
            what = type(layer).__name__ if layer.children() else repr(layer)
            error.add_note(f"in {layer.path}.{method} of {what}")
        raise


def writes_slices(layer: AnyLayer) -> bool:
    """Whether a layer's forward takes out=, a slice of the channels of a wider volume."""
    return layer.writes_slices and not layer.is_foreign


def reads_slices(layer: AnyLayer) -> bool:
    """Whether a layer's backward reads a dy that is a slice of the channels of a wider volume without copying it."""
    return layer.reads_slices and not layer.is_foreign


def takes_slices(layer: AnyLayer) -> bool:
    """Whether a layer reads an x that is a slice of the channels of a wider volume without copying it."""
    return layer.takes_slices and not layer.is_foreign


def holds_input(layer: AnyLayer) -> bool:
    """Whether the layer below may write the input into a slice of this layer's output."""
    return layer.holds_input and not layer.is_foreign


def takes_addend(layer: AnyLayer) -> bool:
    """Whether a layer's forward takes addend=, a `gpuconv.layers.addend.Addend`."""
    return layer.takes_addend and not layer.is_foreign


def adds_input_grad(layer: AnyLayer) -> bool:
    """Whether a layer's backward takes onto=, a `gpuconv.layers.input_gradient.Onto`, to which it adds its gradient."""
    return layer.adds_input_grad and not layer.is_foreign


def shows_gradients(layer: AnyLayer) -> bool:
    """Whether a layer, or one inside it, has a backward hook."""
    return any("backward" in each.hooks for each in layer.walk())


def in_place_runs(layers: Sequence[LayerT]) -> list[list[LayerT]]:
    """The layers, split into runs in which each layer but the last writes straight into the output of the next one."""
    runs: list[list[LayerT]] = []
    for layer in layers:
        if runs and holds_input(layer) and writes_slices(runs[-1][-1]):
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return runs


def output_arrays(layers: Sequence[Any], x: Array, out: Array | None) -> list[Array | None]:
    """The array into which each layer of a run of `in_place_runs` writes its output; None for a new array. x: the input
    of the first layer. out: the array for the last layer, or None."""
    if len(layers) == 1:
        return [out]
    found = [layers[-1].new_output(x) if out is None else out]
    for layer in reversed(layers[1:]):
        found.append(layer.place_of_input(found[-1]))
    return found[::-1]


def call(layer: AnyLayer, method: str, *args: Any, **options: Any) -> MaybePerPart:
    """As `run`, without listeners and notes: converts the result of a user's layer to the net's dtype and calls the
    hooks. A backward hook receives the layer's own gradient of the input, even if that is added to another one. Raises
    RuntimeError for a layer that must be built first."""
    try:
        found = getattr(layer, method)(*args, **options)
    except AttributeError as error:
        if layer.built or layer.is_foreign or error.obj is not layer:
            raise
        raise RuntimeError(f"build the {type(layer).__name__} first: its input shape is unknown") from error
    if layer.is_foreign:
        found = _in_net_dtype(layer, method, found)
        if found is not None:
            _expect_planned(layer, method, args[0], found)
    if layer.hooks:
        backward = method == "backward"
        shown = options["onto"].own if "onto" in options else found
        for hook in layer.hooks.get("backward" if backward else "forward", ()):
            in_parts(partial(hook, layer), *((shown, args[0]) if backward else (args[0], found)))
    return found


def _expect_planned(layer: AnyLayer, method: str, given: Array, found: Array) -> None:
    """Raise ValueError if a user's layer receives a volume of the planned shape, but returns one of another shape than
    planned."""
    accepted, planned, name = layer.input_shape, layer.output_shape, "forward"
    if method == "backward":
        accepted, planned, name = planned, accepted, method
    if planned is not None and tuple(given.shape[1:]) == accepted and tuple(found.shape) != (len(given), *planned):
        shape = ", ".join(map(str, ("N", *planned)))
        raise ValueError(
            f"{type(layer).__name__}.{name} must return an array of shape ({shape}), which its plan() implies, "
            f"returned {tuple(found.shape)}"
        )


def _in_net_dtype(layer: AnyLayer, method: str, found: object) -> Array | None:
    """The result of a user's layer, converted to the net's dtype if it has another float dtype."""
    if found is None and method == "backward":  # None is allowed with input_grad=False
        return None
    if not is_array(found):
        raise TypeError(f"{type(layer).__name__}.{method} must return an array, returned {type(found).__name__}")
    if not layer.built or found.dtype == layer.dtype or not is_float(found.dtype):
        return found
    return backends.asarray(found, dtype=layer.dtype)
