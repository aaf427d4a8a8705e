"""Losses: callables ``loss(scores, labels, grad_scale=1) -> (loss, dscores)``, by name "softmax" or "svm".

A user's loss, ``loss(scores, labels)``, may return any number as its loss, and a gradient of any float dtype (`apply`);
it gets the scores of a 16-bit net in float32.

scores: (N, classes). labels: (N,) integers. loss: 0-d, in the scores' accumulation dtype. dscores: the gradient with
respect to the scores, times grad_scale, of their shape and dtype, ready for ``net.backward``. grad_scale: a number or a
one-element float64 array on their device; only float16 training passes one.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from functools import partial
from typing import Any

import numpy as np

from gpuconv import backends, ops
from gpuconv.arguments import expect_accepts, number
from gpuconv.dtypes import accumulation_dtype
from gpuconv.names import lookup
from gpuconv.types import Array, Scalar


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """The mean over the batch of -log softmax(scores)[label].

    Args:
        label_smoothing: From 0 to below 1: that share of the target goes to all classes alike.
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        number("label_smoothing", self.label_smoothing, 0.0, 1.0)

    def __call__(self, scores: Array, labels: Array, grad_scale: Scalar = 1.0) -> tuple[Array, Array]:
        return ops.softmax_cross_entropy(scores, labels, label_smoothing=self.label_smoothing, grad_scale=grad_scale)


@dataclass(frozen=True)
class SVMHinge:
    """The mean over the batch of the sum over wrong classes of max(0, score - score of the label + delta).

    Args:
        delta: The margin, above 0.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        number("delta", self.delta, 0.0)

    def __call__(self, scores: Array, labels: Array, grad_scale: Scalar = 1.0) -> tuple[Array, Array]:
        return ops.svm_hinge(scores, labels, delta=self.delta, grad_scale=grad_scale)


Loss = Callable[..., tuple[Array, Array]]
LOSSES: dict[str, Callable[..., Loss]] = {
    "softmax": SoftmaxCrossEntropy,
    "svm": SVMHinge,
    "cross-entropy": SoftmaxCrossEntropy,
}


def get(loss: str | Loss, **options: Any) -> Loss:
    """The loss with this name and options; a callable is returned as it is. ValueError for an unknown name, TypeError
    for a class.

    Args:
        loss: A name of `LOSSES`, or a function (scores, labels) -> (loss, dscores).
        options: Of the loss with this name, as ``delta=2.0``.
    """
    if isinstance(loss, type):
        raise TypeError(
            f"a loss is a function or an object, received the class {loss.__name__}; call it: {loss.__name__}()"
        )
    if any(getattr(kind, "__module__", "").partition(".")[0] == "torch" for kind in (loss, *type(loss).__mro__)):
        raise TypeError(
            f"{describe(loss)} takes PyTorch's tensors; a loss is one of {', '.join(map(repr, LOSSES))}, or a function "
            "loss(scores, labels) -> (loss, dscores) of arrays"
        )
    if not callable(loss):
        return lookup("loss", loss, LOSSES)(**options)
    if not _takes_scale(loss):
        expect_accepts(f"the loss {describe(loss)}", loss, "scores", "labels")
    return loss


def apply(loss: Loss, scores: Array, labels: Array, grad_scale: Scalar | None = None) -> tuple[Array, Array]:
    """Call a loss, and convert its result for the metrics and ``net.backward``.

    A user's loss gets the scores in their accumulation dtype. It may return any number or one-element array, and a
    gradient of another float dtype; if it has no argument grad_scale, its gradient is scaled here. Raises TypeError and
    ValueError for an invalid result.

    Args:
        loss: As `get` returns it.
        scores: (N, classes) on the device.
        labels: (N,) integers there.
        grad_scale: A factor on the gradient, of a loss scale.
    """
    scale = () if grad_scale is None else (grad_scale,)
    if isinstance(loss, (SoftmaxCrossEntropy, SVMHinge)):
        return loss(scores, labels, *scale)
    device, dtype = backends.device_of(scores), accumulation_dtype(scores.dtype)
    given = scores if scores.dtype == dtype else backends.asarray(scores, dtype=dtype)
    scales = bool(scale) and _takes_scale(loss)
    found = loss(given, labels, grad_scale=grad_scale) if scales else loss(given, labels)
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise TypeError(
            f"a loss returns (loss, gradient with respect to the scores); {describe(loss)} returned "
            f"{f'{len(found)} values' if isinstance(found, (tuple, list)) else type(found).__name__}"
        )
    value, dscores = found
    value = value if hasattr(value, "shape") else np.asarray(value, dtype)
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
    if backends.device_of(dscores) != device:
        raise TypeError(
            f"the gradient of the loss must be on the scores' device, {device}; {describe(loss)} returned one on "
            f"{backends.device_of(dscores)}"
        )
    if value.dtype != dtype or value.shape or isinstance(value, np.generic) or backends.device_of(value) != device:
        value = backends.asarray(value, device, dtype).reshape(())
    if scale and not scales:
        dscores = dscores * backends.asarray(grad_scale, device, dtype)
    return value, dscores if dscores.dtype == scores.dtype else backends.asarray(dscores, dtype=scores.dtype)


def _takes_scale(loss: Loss) -> bool:
    try:
        return "grad_scale" in inspect.signature(loss).parameters
    except ValueError:  # a C function without a signature
        return False


def describe(loss: object) -> str:
    """A description that distinguishes each `loss`, the same in every process."""
    if isinstance(loss, partial):
        given = [*map(repr, loss.args), *(f"{name}={value!r}" for name, value in loss.keywords.items())]
        return f"{describe(loss.func)}({', '.join(given)})"
    return repr(loss) if is_dataclass(loss) else getattr(loss, "__name__", type(loss).__qualname__)


def read(text: str) -> Loss:
    """The loss with the description `text`, from this version or another. ValueError for one that is not gpuconv's."""
    kinds = LOSSES | {kind.__name__: kind for kind in LOSSES.values()}
    try:
        call: Any = ast.parse(text, mode="eval").body
        options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        return kinds[call.func.id](**options)
    except (SyntaxError, AttributeError, KeyError, TypeError, ValueError):
        raise ValueError(f"the loss {text} is not one of gpuconv's") from None


def redescribed(text: str) -> str:
    """Another version's description of a loss, `text`, as this version writes it; other text is returned as it is."""
    try:
        return describe(read(text))
    except ValueError:
        return text
