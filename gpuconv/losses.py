"""Losses: callables ``loss(scores, labels, grad_scale=1) -> (loss, dscores)``, by name "softmax" (or "cross-entropy"),
"svm", "mse", "huber" or "bce", or by short form, such as "softmax:label_smoothing=0.1".

A user's loss, ``loss(scores, labels)``, may return any number as its loss, and a gradient of any float dtype (`apply`);
it receives the scores of a 16-bit net in float32.

scores: (N, classes). labels: (N,) integers; for "softmax" also (N, classes) floats, probabilities. "mse", "huber" and
"bce" take scores (N, ...) and a float for each. loss: 0-d, in the scores' accumulation dtype. dscores: the gradient
with respect to the scores, times grad_scale, in their shape and dtype, ready for ``net.backward``. grad_scale: a number
or a one-element float64 array on the scores' device; only float16 training passes a grad_scale.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache, partial
from typing import Any, ClassVar

import numpy as np

from gpuconv import backends, ops, spec
from gpuconv.arguments import INT64_MAX, expect_accepts, integer, number, positive
from gpuconv.devices import device_or_none, is_on
from gpuconv.dtypes import accumulation_dtype, is_float
from gpuconv.names import canonical_keys, lookup
from gpuconv.text import parse_numbers
from gpuconv.types import Array, Scalar


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """The mean over the batch of -log softmax(scores)[label]; the label may also be given as probabilities of the
    classes.

    Args:
        label_smoothing: In [0, 1].
        weight: A number >= 0 for each class, also as text such as "1/2/0.5". It multiplies the terms of its class. With
            integer labels, the loss is divided by the sum of the labels' weights, not by the number of rows.
        ignore_index: The label of rows that count neither in the loss nor in the accuracy; PyTorch's default is -100.
    """

    label_smoothing: float = 0.0
    weight: Sequence[float] | str | None = None
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "label_smoothing", number("label_smoothing", self.label_smoothing, 0.0, 1.0))
        object.__setattr__(self, "weight", _numbers("weight", self.weight))
        if self.ignore_index is not None:
            object.__setattr__(self, "ignore_index", integer("ignore_index", self.ignore_index, -INT64_MAX))

    def __call__(self, scores: Array, labels: Array, grad_scale: Scalar = 1.0) -> tuple[Array, Array]:
        return ops.softmax_cross_entropy(
            scores,
            labels,
            _on_scores_device(scores, self.weight),
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            grad_scale=grad_scale,
        )


@dataclass(frozen=True)
class SVMHinge:
    """The mean over the batch of the sum over wrong classes of max(0, score - score of the label + delta).

    Args:
        delta: The margin, at least 0.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "delta", number("delta", self.delta, 0.0))

    def __call__(self, scores: Array, labels: Array, grad_scale: Scalar = 1.0) -> tuple[Array, Array]:
        return ops.svm_hinge(scores, labels, delta=self.delta, grad_scale=grad_scale)


@dataclass(frozen=True)
class MeanSquaredError:
    """The mean over all scores of (score - target)**2."""

    classifies: ClassVar[bool] = False

    def __call__(self, scores: Array, targets: Array, grad_scale: Scalar = 1.0) -> tuple[Array, Array]:
        return ops.mean_squared_error(scores, targets, grad_scale=grad_scale)


@dataclass(frozen=True)
class Huber:
    """The mean over all scores of d**2 / 2 where abs(d) <= delta, and of delta * (abs(d) - delta / 2) beyond, with
    d = score - target.

    Args:
        delta: Where the parabola becomes linear, above 0.
    """

    delta: float = 1.0
    classifies: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "delta", positive("delta", self.delta))

    def __call__(self, scores: Array, targets: Array, grad_scale: Scalar = 1.0) -> tuple[Array, Array]:
        return ops.huber_loss(scores, targets, delta=self.delta, grad_scale=grad_scale)


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """The mean over all scores of -(p * t * log sigmoid(score) + (1 - t) * log(1 - sigmoid(score))), with the target t.

    Args:
        pos_weight: p >= 0: one number, or one for each entry of the scores' last axis, also as text such as "1/2/0.5".
            By default 1.
    """

    pos_weight: float | Sequence[float] | str | None = None
    classifies: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "pos_weight", _numbers("pos_weight", self.pos_weight))

    def __call__(self, scores: Array, targets: Array, grad_scale: Scalar = 1.0) -> tuple[Array, Array]:
        weight: Any = self.pos_weight
        weight = weight * scores.shape[-1] if weight and len(weight) == 1 else weight
        return ops.binary_cross_entropy(scores, targets, _on_scores_device(scores, weight), grad_scale=grad_scale)


def _numbers(name: str, given: object) -> tuple[float, ...] | None:
    """Weights as numbers >= 0; a short form gives them as "1/2/0.5"."""
    if given is None:
        return None
    if isinstance(given, str):
        try:
            given = [parse_numbers.real(part) for part in given.split("/")]
        except ValueError:
            raise ValueError(f"{name} is written like '1/2/0.5', received {given!r}") from None
    elif isinstance(given, np.ndarray) and given.ndim == 1:
        given = given.tolist()
    listed = given if isinstance(given, (list, tuple)) else [given]
    if not listed:
        raise ValueError(f"{name} must hold a number for each class, received none")
    return tuple([number(f"{name}[{at}]" if len(listed) > 1 else name, each, 0.0) for at, each in enumerate(listed)])


def _on_scores_device(scores: Array, weight: object) -> Array | None:
    if not isinstance(weight, tuple):
        return None
    return _on_device(weight, backends.device_of(scores), accumulation_dtype(scores.dtype))


@cache  # so that the array keeps its address, from which a captured step reads
def _on_device(weight: tuple[float, ...], device: str, dtype: np.dtype) -> Array:
    return backends.constant(np.array(weight, dtype), device)


Loss = Callable[..., tuple[Array, Array]]
LOSSES: dict[str, Callable[..., Loss]] = {
    "softmax": SoftmaxCrossEntropy,
    "svm": SVMHinge,
    "cross-entropy": SoftmaxCrossEntropy,
    "mse": MeanSquaredError,
    "huber": Huber,
    "bce": BinaryCrossEntropy,
}
LIKE = "softmax:label_smoothing=0.1"
_OUR_CALLS: frozenset[Any] = frozenset(vars(each)["__call__"] for each in LOSSES.values())


def is_ours(loss: object) -> bool:
    """Whether a call of `loss` is a call of this module; false for a user's subclass with its own ``__call__``."""
    return type(loss).__call__ in _OUR_CALLS


def classifies(loss: object) -> bool:
    """Whether the largest score is an answer that can be compared with a label.

    Args:
        loss: Any loss; a user's loss for which this is false has the attribute ``classifies = False``.
    """
    return bool(getattr(loss, "classifies", True))


def ignored_label(loss: object) -> int | None:
    """The label of rows that do not count for this `loss`, or None."""
    return loss.ignore_index if isinstance(loss, SoftmaxCrossEntropy) else None


def class_weights(loss: object, scores: Array, labels: Array) -> Array | None:
    """The class weights by which a loss averages: it divides by the sum of the labels' weights. None without weights.

    Args:
        loss: Any loss.
        scores: The weights are returned in the scores' accumulation dtype, on the scores' device.
        labels: (N,) integers. For probabilities the result is None, because the loss then divides by N.
    """
    if not isinstance(loss, SoftmaxCrossEntropy) or labels.ndim != 1:
        return None
    return _on_scores_device(scores, loss.weight)


def is_weighted(loss: object) -> bool:
    """Whether a `loss` has class weights."""
    return isinstance(loss, SoftmaxCrossEntropy) and bool(loss.weight)


def takes_probabilities(loss: object) -> bool:
    """Whether a classification `loss` accepts class probabilities instead of labels; a user's loss may accept
    anything."""
    return not is_ours(loss) or (isinstance(loss, SoftmaxCrossEntropy) and loss.ignore_index is None)


def expect_net(loss: object, shape: tuple[int, ...]) -> None:
    """Raise ValueError for a loss that does not fit a net, for scores without an axis, and for a map of scores if the
    loss classifies.

    Args:
        loss: If it has weights, there must be one for each entry of the scores' last axis; a pos_weight may also be a
            single number.
        shape: The shape of one image's scores.
    """
    if not shape:
        raise ValueError(
            "the net gives a number without an axis for each image, and losses take scores of shape (N, classes) or "
            "(N, ...): let it give an array of shape (1,)"
        )
    if len(shape) > 1 and classifies(loss):
        raise ValueError(
            f"{describe(loss)} classifies, so the net must give scores of shape (N, classes), and it gives "
            f"(N, {', '.join(map(str, shape))}); your own loss for such scores has the attribute classifies = False"
        )
    name = "pos_weight" if isinstance(loss, BinaryCrossEntropy) else "weight"
    weight: Any = getattr(loss, name) if isinstance(loss, (SoftmaxCrossEntropy, BinaryCrossEntropy)) else None
    for_all = name == "pos_weight" and weight and len(weight) == 1
    if weight and not for_all and len(weight) != shape[-1]:
        raise ValueError(f"{name} must hold a number for each of the net's {shape[-1]} scores, received {len(weight)}")


def expect_targets(loss: object, labels: Array, shape: tuple[int, ...]) -> None:
    """For a loss of gpuconv, raise TypeError if it does not accept the labels' dtype, or if float labels have another
    rank or last axis than the scores. The losses check the other sizes.

    Args:
        loss: Any loss; a user's may accept anything.
        labels: The labels of a batch or a data set.
        shape: The shape of one image's scores.
    """
    if not is_ours(loss):
        return
    backends.device_of(labels, "labels")  # raises for anything but an array
    takes = ["integers of shape (N,)"] if classifies(loss) else []
    takes_floats = not isinstance(loss, SVMHinge) and ignored_label(loss) is None
    takes += [f"floats of shape (N, {', '.join(map(str, shape))})"] if takes_floats else []
    if is_float(labels.dtype):
        fits = takes_floats and (labels.ndim, tuple(labels.shape[-1:])) == (1 + len(shape), shape[-1:])
    else:
        fits = classifies(loss)
    if not fits:
        raise TypeError(
            f"{describe(loss)} takes {' or '.join(takes)}, received labels of {labels.dtype.name} and shape "
            f"{tuple(labels.shape)}"
        )


def get(loss: str | Loss, **options: Any) -> Loss:
    """The loss with this name and options; a callable is returned as it is. Raises ValueError for an unknown name or
    option, a value that an option cannot have, or other text, and TypeError for a class, a loss of PyTorch, a callable
    with other arguments, or an object that is neither text nor callable.

    Args:
        loss: A name of `LOSSES`, a short form ("svm:delta=2"), or a function (scores, labels) -> (loss, dscores).
        options: Options of the loss with this name, such as ``delta=2.0``, which override the short form; a callable
            does not receive them.
    """
    if isinstance(loss, type):
        raise TypeError(
            f"a loss is a function or an object, received the class {loss.__name__}; call it: {loss.__name__}()"
        )
    if any(str(getattr(kind, "__module__", "")).partition(".")[0] == "torch" for kind in (loss, *type(loss).__mro__)):
        raise TypeError(
            f"{describe(loss)} takes PyTorch's tensors; a loss is one of {', '.join(map(repr, LOSSES))}, or a function "
            "loss(scores, labels) -> (loss, dscores) of arrays"
        )
    if not callable(loss):
        if not isinstance(loss, str):
            raise TypeError(f"a loss is a name, such as {LIKE!r}, or a function, received {loss!r}")
        part, *more = spec.parse(loss, like=LIKE)
        if more or part.numbers:
            raise ValueError(f"a loss is written like {LIKE!r}, received {loss!r}")
        make = lookup("loss", part.name, LOSSES)
        known = inspect.signature(make).parameters
        written, given = (canonical_keys(f"option of {part.name}", each, known) for each in (part.options, options))
        return make(**written | given)
    if not _takes_scale(loss):
        expect_accepts(f"the loss {describe(loss)}", loss, "scores", "labels")
    return loss


def apply(loss: Loss, scores: Array, labels: Array, grad_scale: Scalar | None = None) -> tuple[Array, Array]:
    """Call a loss and convert its result for the metrics and ``net.backward``.

    A user's loss receives a copy of the scores in their accumulation dtype, which it may change in place. It may return
    its loss as a number or as an array of shape () or (1,), and a gradient of another float dtype; if it has no
    argument grad_scale, its gradient is scaled here. Raises TypeError and ValueError for an invalid result.

    Args:
        loss: As `get` returns it.
        scores: (N, classes), or (N, ...) for a loss that does not classify.
        labels: As the loss takes them, on the scores' device.
        grad_scale: The loss scale, a factor on the gradient; None stands for 1.

    Returns:
        The loss, 0-d in the scores' accumulation dtype, and the gradient, of the scores' shape and dtype.
    """
    scale_arguments = () if grad_scale is None else (grad_scale,)
    if is_ours(loss):
        return loss(scores, labels, *scale_arguments)
    device, dtype = backends.device_of(scores), accumulation_dtype(scores.dtype)
    given = ops.copy(scores) if scores.dtype == dtype else backends.asarray(scores, dtype=dtype)
    loss_applies_scale = bool(scale_arguments) and _takes_scale(loss)
    found = loss(given, labels, grad_scale=grad_scale) if loss_applies_scale else loss(given, labels)
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise TypeError(
            f"a loss returns (loss, gradient with respect to the scores); {describe(loss)} returned "
            f"{f'{len(found)} values' if isinstance(found, (tuple, list)) else type(found).__name__}"
        )
    value, dscores = found
    value = value.detach() if hasattr(value, "detach") else value  # a tensor of PyTorch
    value = value if hasattr(value, "shape") else np.asarray(value)
    if getattr(value.dtype, "kind", "f") in "OSUc":  # a dtype of PyTorch has no kind
        raise TypeError(f"a loss is one number, the mean over the batch; {describe(loss)} returned {found[0]!r}")
    if tuple(value.shape) not in ((), (1,)):
        raise ValueError(
            f"a loss is one number, the mean over the batch; {describe(loss)} returned an array of shape "
            f"{tuple(value.shape)} (.mean() makes one)"
        )
    if not hasattr(dscores, "shape") or tuple(dscores.shape) != tuple(scores.shape):
        received = f"shape {tuple(dscores.shape)}" if hasattr(dscores, "shape") else type(dscores).__name__
        raise ValueError(
            f"the gradient of the loss must be of the scores' shape {tuple(scores.shape)}; {describe(loss)} returned "
            f"{received}"
        )
    if not is_on(dscores, device):
        received = f"one on {backends.device_of(dscores)}" if device_or_none(dscores) else type(dscores).__name__
        raise TypeError(
            f"the gradient of the loss must be on the scores' device, {device}; {describe(loss)} returned {received}"
        )
    if dscores.dtype.kind == "c":
        raise TypeError(
            f"the gradient of the loss must hold real numbers; {describe(loss)} returned {dscores.dtype.name}"
        )
    if value.dtype != dtype or value.shape or isinstance(value, np.generic) or not is_on(value, device):
        value = backends.asarray(value, device, dtype).reshape(())
    if scale_arguments and not loss_applies_scale:
        dscores = dscores * backends.asarray(grad_scale, device, dtype)
    return value, dscores if dscores.dtype == scores.dtype else backends.asarray(dscores, dtype=scores.dtype)


def _takes_scale(loss: Loss) -> bool:
    try:
        return "grad_scale" in inspect.signature(loss).parameters
    except ValueError:  # a C function without a signature
        return False


def describe(loss: object) -> str:
    """A description of `loss`, the same in every process. It gives the name and, for gpuconv's losses, dataclasses and
    partials, the options or values. Two functions of one name have the same description. A user's dataclass that has
    the name of one of gpuconv's losses is given with its module."""
    if isinstance(loss, partial):
        given = [*map(repr, loss.args), *(f"{name}={value!r}" for name, value in loss.keywords.items())]
        return f"{describe(loss.func)}({', '.join(given)})"
    if not is_dataclass(loss):
        return getattr(loss, "__name__", type(loss).__qualname__)
    kind = type(loss)
    if kind.__name__ in _by_described_name() and kind not in LOSSES.values():
        return f"{kind.__module__}.{loss!r}"
    return repr(loss)


def _by_described_name() -> dict[str, Callable[..., Loss]]:
    return LOSSES | {kind.__name__: kind for kind in LOSSES.values()}


def read(text: str) -> Loss:
    """The loss with the description `text`, from this version or another. ValueError for one that is not gpuconv's."""
    try:
        call: Any = ast.parse(text, mode="eval").body
        options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        return _by_described_name()[call.func.id](**options)
    except (SyntaxError, AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"the loss {text} is not one of gpuconv's") from None


def redescribed(text: str) -> str:
    """`text`, another version's description of a loss, as this version writes it; other text is returned unchanged."""
    try:
        return describe(read(text))
    except ValueError:
        return text
