"""Metrics: what is measured on held-out images in addition to loss and accuracy.

A metric is a name, a function or an object::

    "top-5"        the fraction of images whose class is among the 5 (or any number of) best scores
    "confusion"    int64 (classes, classes): [i, j] counts the images of class i that were classified as class j
    "per-class"    the accuracy of each class; NaN for a class without images
    metric(scores, labels)      a mean over a batch: a number or an array, averaged over all images
    metric.update(scores, labels), metric.result()     an object; its reset(), if any, is called before the first batch

Batches without a label that counts are left out. Without any batch, "top-5" and means are NaN, "confusion" and
"per-class" None, and an object gives its own result().

scores: (n, classes). labels: (n,) int64, or (n, classes) floats, where the largest of a row is the image's class
(the first if several are equal). Both are NumPy arrays, whatever the net's device.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuconv.arguments import expect_accepts, integer
from gpuconv.backends import to_numpy
from gpuconv.dtypes import is_float
from gpuconv.host_values import expect_within
from gpuconv.names import lookup
from gpuconv.types import Metric, MetricFunction, MetricLike


def class_of(labels: np.ndarray) -> np.ndarray:
    """The class of each image: `labels` (N,), or the index of the largest of each row of (N, classes) targets."""
    return labels if labels.ndim == 1 else labels.argmax(axis=1)


class TopK:
    """The fraction of images whose class is among the k best scores; among equal scores the first is better.

    Args:
        k: At least 1.

    Raises:
        TypeError: k is not an integer.
        ValueError: k is below 1.
    """

    def __init__(self, k: int) -> None:
        self.k = integer("the k of top-k", k, 1)
        self.name = f"top_{self.k}"
        self._right = self._seen = 0

    def update(self, scores: np.ndarray, labels: np.ndarray) -> None:
        """Count a batch. Raises ValueError for a label that is not a class.

        Args:
            scores: (n, classes).
            labels: (n,) int64, or (n, classes) floats.
        """
        labels = class_of(labels)
        expect_within("labels", labels, scores.shape[1])
        scores = np.where(np.isnan(scores), np.inf, scores.astype(np.float64))  # NaN counts as largest
        own = scores[np.arange(len(labels)), labels][:, None]
        before = np.arange(scores.shape[1]) < labels[:, None]
        rank = ((scores > own) | ((scores == own) & before)).sum(axis=1)
        self._right += int((rank < self.k).sum())
        self._seen += len(labels)

    def result(self) -> float:
        """The fraction over the images of all batches, NaN without an image."""
        return self._right / self._seen if self._seen else math.nan


class Confusion:
    """The confusion matrix; [i, j] counts the images of class i that were classified as class j."""

    name = "confusion"

    def __init__(self) -> None:
        self.matrix: NDArray[np.int64] | None = None

    def update(self, scores: np.ndarray, labels: np.ndarray) -> None:
        """Count a batch; arguments and errors as in `TopK.update`."""
        if self.matrix is None:
            self.matrix = np.zeros(2 * scores.shape[1:], np.int64)
        labels = class_of(labels)
        expect_within("labels", labels, scores.shape[1])
        np.add.at(self.matrix, (labels, scores.argmax(axis=1)), 1)

    def result(self) -> np.ndarray | None:
        """int64 (classes, classes), or None without a batch."""
        return self.matrix


class PerClass(Confusion):
    """The accuracy of each class, NaN for a class without images."""

    name = "per_class"

    def result(self) -> np.ndarray | None:
        """float64 (classes,), or None without a batch."""
        if self.matrix is None:
            return None
        counts = self.matrix.sum(axis=1)
        return np.where(counts, self.matrix.diagonal() / np.maximum(counts, 1), np.nan)


class Mean:
    """A function of a batch, averaged over all images.

    Args:
        name: The name of the result.
        function: (scores, labels) -> a number or an array.
    """

    def __init__(self, name: str, function: Callable[[np.ndarray, np.ndarray], object]) -> None:
        self.name, self.function = name, function
        self._total: np.ndarray | float = 0.0
        self._seen = 0

    def update(self, scores: np.ndarray, labels: np.ndarray) -> None:
        """Take a batch; arguments as in `TopK.update`. Raises TypeError if the function returns no real numbers, and
        ValueError if it returns an array of another shape than before."""
        value = to_numpy(self.function(scores, labels), f"what the metric {self.name} returns")
        if value.dtype.kind not in "biuf" and not is_float(value.dtype):
            raise TypeError(f"the metric {self.name} must return a real number or an array, received {value.dtype}")
        if self._seen and value.shape != np.shape(self._total):
            raise ValueError(
                f"the metric {self.name} must return a mean over the batch, of the same shape each time; it returned "
                f"shape {np.shape(self._total)} and then {value.shape}"
            )
        value = value.astype(np.float64)
        self._total, self._seen = self._total + value * len(labels), self._seen + len(labels)

    def result(self) -> np.ndarray | float:
        """The mean over the images of all batches, NaN without an image."""
        return self._total / self._seen if self._seen else math.nan


KNOWN: dict[str, Callable[[], TopK | Confusion]] = {
    "confusion": Confusion,
    "per-class": PerClass,
    "top-5": partial(TopK, 5),
}


def named(metrics: Sequence[MetricLike] | Mapping[str, MetricLike]) -> dict[str, Metric | MetricFunction]:
    """The metrics by the names of their results.

    Args:
        metrics: A list of names, functions of (scores, labels), or objects with `update` and `result`; or a mapping
            from the results' names to these.

    Raises:
        TypeError: Anything that is not a metric.
        ValueError: An unknown name, or a name that occurs twice.
    """
    if isinstance(metrics, str) or not isinstance(metrics, (Sequence, Mapping)):
        raise TypeError(f"metrics are a list, such as ['top-5', my_metric], received {metrics!r}")
    found: dict[str, Metric | MetricFunction] = {}
    given = metrics.items() if isinstance(metrics, Mapping) else [("", metric) for metric in metrics]
    for own_name, metric in given:
        if isinstance(metric, type):
            raise TypeError(
                f"a metric is an object, received the class {metric.__name__}; call it: {metric.__name__}()"
            )
        made: Any = _by_name(metric) if isinstance(metric, str) else metric
        function = getattr(made, "func", made)  # the name of a functools.partial's function
        name = str(own_name or getattr(made, "name", "") or getattr(function, "__name__", "") or type(made).__name__)
        updates = hasattr(made, "update")
        if not (hasattr(made, "result") if updates else callable(made)):
            raise TypeError(
                "a metric is a name, a function (scores, labels), or an object with update(scores, labels) and "
                f"result(); received {type(metric).__name__}"
            )
        if updates:
            expect_accepts(f"{type(made).__name__}.update", made.update, "scores", "labels")
        else:
            expect_accepts(f"the metric {name}", made, "scores", "labels")
        if name in found:
            raise ValueError(f"two metrics are named {name!r}; give one of them another `name`")
        found[name] = made
    return found


def begin(metrics: Mapping[str, Metric | MetricFunction]) -> dict[str, Metric]:
    """The `metrics`, ready for the first batch: a function is wrapped in `Mean`, an object is reset, or copied if it
    has no reset(). Raises TypeError, naming the metric, if an object without reset() cannot be copied."""
    begun: dict[str, Metric] = {}
    metric: Any
    for name, metric in metrics.items():
        if not hasattr(metric, "update"):
            begun[name] = Mean(name, metric)
        elif hasattr(metric, "reset"):
            metric.reset()
            begun[name] = metric
        else:
            try:
                begun[name] = copy.deepcopy(metric)
            except Exception as error:
                raise TypeError(f"the metric {name} has no reset() and cannot be copied: {error}") from error
    return begun


def _by_name(text: str) -> TopK | Confusion:
    if match := re.fullmatch(r"top[-_]?([0-9]{1,18})", text.lower()):
        return TopK(int(match[1]))
    return lookup("metric", text, KNOWN)()
