"""Explains one value: the inputs of an activation (or the outputs that contribute to a gradient) and their weights, the
sum as computed by the oracle, NumPy and the device, and the thread that computed it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from gpuconv import arguments, backends
from gpuconv.inspect.computed_by import (
    Computed,
    Thread,
    compute_everywhere,
    locate_threads,
    result_of,
    run_below,
    value_without_op,
    writing_call,
)
from gpuconv.inspect.terms import (
    Index,
    as_float64,
    branch_at,
    branches,
    derivatives_of_outputs,
    expect_explainable,
    window_of_output,
)
from gpuconv.layers.base import Layer, descendants, expect_built
from gpuconv.layers.branches import Merging
from gpuconv.layers.sequential import Sequential
from gpuconv.names import lookup
from gpuconv.types import Array
from gpuconv.verify.call import Call, recording


@dataclass(frozen=True)
class Term:
    """One product of the sum.

    Args:
        at: The index of the input, (y, x, channel) or (feature,); in a gradient's sum, the index of the output.
        input: The value of the input; in a gradient's sum, the gradient of the output.
        weight: The factor of `input`.
    """

    at: tuple[int, ...]
    input: float
    weight: float

    @property
    def product(self) -> float:
        return self.input * self.weight


@dataclass(frozen=True)
class Explanation:
    """One activation of a layer, or one gradient of its input.

    Args:
        layer: Its name.
        kind: The layer's class.
        at: The index of the value.
        value: Computed by the device.
        total: The oracle's value, in float64. If a layer takes several ops, such as a bilinear Upsample, the oracle
            computes the last one from the device's results of the others.
        bias: The term added to the sum; 0 without a bias.
        window: The inputs that are read, (R, S, C) or (features,), with 0 in the padding of a convolution and -inf in
            that of a max pool. For a gradient, the gradients of all outputs. For a residual block or branches,
            (branches,): what each branch adds to the value or gradient. For a value of concatenated branches, (1,):
            the branch's value.
        weight: The factors of `window`, of its shape; None if the value is no weighted sum.
        terms: The products of the largest magnitude; for a max pool, the winner first. For a residual block or
            branches, those of the first branches, in the order of the branches.
        direction: "forward" or "backward".
        computed: The value and error of each backend.
        thread: The thread that computed the value, if it was located.
        branch: The branch that a concatenation takes the value from, such as "branch2"; the term then has the value's
            index in the output of that branch.
    """

    layer: str
    kind: str
    at: tuple[int, ...]
    value: float
    total: float
    bias: float
    window: np.ndarray = field(repr=False)
    weight: np.ndarray | None = field(repr=False)
    terms: list[Term]
    direction: str = "forward"
    computed: list[Computed] = field(default_factory=list)
    thread: Thread | None = None
    branch: str | None = None

    @property
    def error(self) -> float:
        return abs(self.value - self.total)

    @property
    def margin(self) -> float | None:
        """The winner of a max pool minus the second largest; None for other layers, for gradients, and if
        `terms` lists no second finite input."""
        rivals = [term.input for term in self.terms[1:2] if np.isfinite(term.input)]
        return self.terms[0].input - rivals[0] if self.kind == "MaxPool2D" and self._is_forward and rivals else None

    @property
    def _is_forward(self) -> bool:
        return self.direction == "forward"

    def __str__(self) -> str:
        place = ", ".join(map(str, self.at))
        count = self.window.size
        if not self._is_forward:
            senders = sum(term.product != 0 for term in self.terms)
            text = f"{self.layer}: the gradient of its input [{place}] = {self.value:.9g}: "
            who = "branches" if self.kind in ("Residual", "Branches") else "outputs"
            return text + (f"the {who} contribute {self.total:.9g} in float64" if senders else f"no {who} contribute")
        if self.kind == "Residual":
            how = f"the body's {self.window[0]:.9g} and the shortcut's {self.window[1]:.9g}"
        elif self.branch:
            how = f"the value of {self.branch} at [{', '.join(map(str, self.terms[0].at))}]"
        elif self.kind == "Branches":
            how = f"the sum of its branches' {', '.join(f'{value:.9g}' for value in self.window)}"
        elif self.weight is not None:
            how = f"{count} product{'s' * (count > 1)} and the bias {self.bias:.6g} sum to {self.total:.9g} in float64"
        elif self.kind == "MaxPool2D":
            how = f"the largest of {count} inputs" + (f", by {self.margin:.6g}" if self.margin is not None else "")
        else:
            how = f"from the input {self.terms[0].input:.9g} at [{', '.join(map(str, self.terms[0].at))}]"
        return f"{self.layer}[{place}] = {self.value:.9g}: {how}"


def explain(
    net: Sequential,
    x: Array,
    layer: str,
    at: Sequence[int],
    *,
    most: int = 12,
    backward: bool = False,
    target: int | None = None,
    locate: bool = False,
) -> Explanation:
    """Explain one value of a layer, for a batch x of one image.

    Args:
        net: Built.
        x: (1, H, W, C) as the net takes it, on its device.
        layer: Its name, such as "residual1.conv1" for an inner layer.
        at: The index of an activation, (y, x, channel) or (feature,).
        most: The number of terms to list.
        backward: Whether to explain the gradient of the layer's input at this index instead.
        target: With `backward`, the class whose score is differentiated, by default the best.
        locate: Whether to find the thread that computed the value, by running the layer's algorithm on the emulated
            device. Only for nets on that device or on a CUDA device; a net on NumPy has no thread.

    Raises:
        TypeError: An argument other than `at` and `target` has the wrong type.
        RuntimeError: The net has no shapes yet.
        ValueError: An unknown layer or class, a class without `backward`, an index outside the layer's volume, more
            than one image or an image that the net does not take, `most` below 1, or a layer that is a Sequential,
            fused, or a user's own.
    """
    expect_one_image(net, x)
    arguments.integer("most", most, 1)
    backward, locate = arguments.flag("backward", backward), arguments.flag("locate", locate)
    if target is not None and not backward:
        raise ValueError(f"target is for backward=True, as an activation has no class; received {target!r}")
    net = net_with_shapes_for(net, x)
    chosen = layer_of(net, layer)
    expect_explainable(net, chosen)
    branch = None
    # inside: the index in the output of the branch. written: the index in the result of the call that wrote the value.
    # Both differ from place only for a concatenation.
    if backward:
        given, calls, gradients, sent = _backward(net, x, layer, target)
        shape = given.shape[1:]
        place = inside = written = _expect_place(at, shape, f"the input of {layer}")
        parts = _added(sent, place) if sent else _senders(chosen, as_float64(given)[0], gradients, place)
    else:
        given, calls = _forward(net, x, chosen)
        shape = chosen.output_shape or ()
        place = inside = written = _expect_place(at, shape, layer)
        if isinstance(chosen, Merging) and chosen.merge == "concat":
            number, inside = branch_at(chosen, place)
            below = [(each, _forward(net, x, each)[0]) for each in run_below(net, chosen)]
            call, written = writing_call(chosen, given, place, below)
            branch, calls, shape = f"branch{number + 1}", [call], result_of(call).shape[1:]
            parts = _added([as_float64(branches(chosen, given)[number])[0]], inside)
            parts = parts[0], None, *parts[2:]  # a copied value has no weights
        else:
            parts = _inputs(chosen, given, place)
    window, weight, bias, terms = parts
    offset = int(np.ravel_multi_index(written, shape))
    computed = compute_everywhere(calls, offset, net.device) if calls else value_without_op(terms[0].input, net.device)
    return Explanation(
        layer,
        type(chosen).__name__,
        place,
        computed[-1].value,
        computed[0].value,
        bias,
        window,
        weight,
        terms[:most],
        "backward" if backward else "forward",
        computed,
        locate_threads(chosen, calls, offset, net.device, backward) if locate else None,
        branch,
    )


def expect_one_image(net: object, x: Array) -> None:
    """Raise TypeError or RuntimeError as `expect_built` does, TypeError unless x is an array, and ValueError unless it
    is a batch of one image."""
    expect_built(net)
    backends.device_of(x, "x")
    expected = (1, *(net.input_shape or ()))  # type: ignore[attr-defined]
    if len(x.shape) != len(expected) or x.shape[0] != 1:
        raise ValueError(f"x must be a batch of one image, such as {expected}, received shape {tuple(x.shape)}")


def net_with_shapes_for(net: Sequential, x: Array) -> Sequential:
    """The net if it was built for images of the size of x; otherwise a copy whose layers have their shapes for x.
    Raises ValueError for an x that the net does not take."""
    shape = tuple(x.shape[1:])
    if shape == net.input_shape:
        return net

    def note(layer: Layer, given: Array, y: Array) -> None:
        layer.input_shape, layer.output_shape = tuple(given.shape[1:]), tuple(y.shape[1:])

    twin = net.twin()
    with ExitStack() as stack:
        for layer in descendants(twin):
            stack.enter_context(layer.register_forward_hook(note))
        twin.infer(x)
    twin.input_shape = shape
    return twin


def layer_of(net: Sequential, name: str) -> Layer:
    """A layer of a net, inner layers included. Raises ValueError for an unknown name; the message suggests the nearest
    one."""
    return lookup(
        "layer", name, {each.path.removeprefix(net.path).removeprefix("."): each for each in descendants(net)}
    )


# --- running the net ---------------------------------------------------------------------------


def _forward(net: Sequential, x: Array, chosen: Layer) -> tuple[Array, list[Call]]:
    """The input of a layer, and the calls of ops that compute its output: the last call that is not an addition, and
    the additions after it; for a layer with branches only the last call; none for a layer without an op."""
    seen: list[Array] = []
    with chosen.register_forward_hook(lambda layer, given, y: seen.append(given)):
        net.infer(x)
    calls: list[Call] = []
    with recording(calls.append):
        chosen.infer(seen[0])
    if isinstance(chosen, Merging):
        return seen[0], calls[-1:]
    return seen[0], calls[max((at for at, call in enumerate(calls) if call.op != "add"), default=0) :]


def _backward(
    net: Sequential, x: Array, name: str, target: int | None
) -> tuple[Array, list[Call], np.ndarray, list[np.ndarray]]:
    """The input of a layer, the call of the op that computes the input's gradient (if any), the output's gradient, and
    for a layer with branches the input's gradient from each branch."""
    net = net.twin()  # a copy, because backward adds to the gradients
    chosen = layer_of(net, name)
    inputs: list[Array] = []
    outputs: list[Array] = []
    with chosen.register_forward_hook(lambda layer, given, y: inputs.append(given)):
        scores = net.forward(x)
    with chosen.register_backward_hook(lambda layer, dx, dy: outputs.append(dy)):
        net.backward(backends.asarray(chosen_score(scores, target), net.device, scores.dtype))
    chosen.forward(inputs[0])
    calls: list[Call] = []
    with recording(calls.append):
        dx = backends.to_numpy(chosen.backward(outputs[0]))
    results = [next(iter(call.results.values()), None) for call in calls]
    made = [
        call
        for call, result in zip(calls, results)
        if result is not None and np.array_equal(result.reshape(-1), dx.reshape(-1), equal_nan=True)
    ]
    sent: list[np.ndarray] = []
    if isinstance(chosen, Merging):
        chosen.forward(inputs[0])
        sent = [as_float64(each)[0] for each in chosen.input_gradients(outputs[0])]
    return inputs[0], made[-1:], as_float64(outputs[0])[0], sent


def chosen_score(scores: Array, target: int | None) -> np.ndarray:
    """The gradient of one score of one image: 1 at the target, by default the largest score. Raises ValueError for an
    unknown class."""
    found = as_float64(scores)
    count = found.size
    if target is not None:
        try:
            arguments.integer("target", target, 0, count - 1)
        except (TypeError, ValueError):
            raise ValueError(f"target is the number of a class from 0 to {count - 1}, received {target!r}") from None
    one = np.zeros(found.shape)
    one.reshape(-1)[int(found.argmax()) if target is None else target] = 1
    return one


# --- the parts of the sum ----------------------------------------------------------------------

Parts = tuple[np.ndarray, np.ndarray | None, float, list[Term]]  # values, weights (None: no weighted sum), bias, terms


def _inputs(layer: Layer, x: Array, at: Index) -> Parts:
    """The inputs whose products add up to a value of the layer's output, the largest terms first."""
    if isinstance(layer, Merging) and layer.merge == "add":
        return _added([as_float64(branch)[0] for branch in branches(layer, x)], at)
    window = window_of_output(layer, as_float64(x)[0], at)
    factors = np.ones(window.values.shape) if window.weight is None else window.weight
    size = window.values if window.weight is None else np.abs(window.values * factors)
    order = np.argsort(-size, axis=None, kind="stable")
    indices = [np.unravel_index(number, size.shape) for number in order]
    terms = [Term(window.input_index(each), float(window.values[each]), float(factors[each])) for each in indices]
    return window.values, window.weight, window.bias, terms


def _added(volumes: Sequence[np.ndarray], at: Index) -> Parts:
    """The values of several volumes at one index, which are added."""
    values = np.array([volume[at] for volume in volumes])
    return values, np.ones(len(values)), 0.0, [Term(at, float(value), 1.0) for value in values]


def _senders(layer: Layer, x: np.ndarray, dy: np.ndarray, at: Index) -> Parts:
    """The output gradients whose products add up to the gradient of an input value, the largest terms first."""
    weight = derivatives_of_outputs(layer, x, at)
    senders = np.flatnonzero(weight)
    order = senders[np.argsort(-np.abs(dy * weight).reshape(-1)[senders], kind="stable")]
    indices = [tuple(map(int, np.unravel_index(number, dy.shape))) for number in order]
    terms = [Term(each, float(dy[each]), float(weight[each])) for each in indices] or [Term(at, 0.0, 0.0)]
    return dy, weight, 0.0, terms


def _expect_place(at: Sequence[int], shape: tuple[int, ...], layer: str) -> tuple[int, ...]:
    try:
        return tuple(arguments.integer("at", index, 0, size - 1) for index, size in zip(at, shape, strict=True))
    except (TypeError, ValueError):
        size = " x ".join(map(str, shape))
        numbers = "1 whole number" if len(shape) == 1 else f"{len(shape)} whole numbers"
        received = [*at] if isinstance(at, Iterable) else at
        raise ValueError(
            f"a position in {layer} (size {size}) is given by {numbers}, counted from 0, received {received}"
        ) from None
