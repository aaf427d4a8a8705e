"""Softmax, losses and metrics."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpuconv.dtypes import accumulation_dtype
from gpuconv.types import Options, Shape
from gpuconv.verify.cases.case import Arguments, Case, Make, normal, normal_arrays
from gpuconv.verify.cases.matrices import matrix_sizes


def loss_cases(count: int, rng: np.random.Generator) -> Iterator[Case]:
    for tier, index, n, c, k in matrix_sizes(count, rng):
        name, smoothing = f"{n}x{c} to {k}", 0.1 * (index % 2)
        yield Case("softmax", tier, name, normal_arrays((n, k)))
        yield Case("softmax_cross_entropy", tier, name, _scores(n, k, {"label_smoothing": smoothing}))
        soft = _soft(_scores(n, k, {"label_smoothing": 0.1 - smoothing}))
        yield Case("softmax_cross_entropy", tier, f"{name} soft", soft)
        weighted = _weighted(_scores(n, k, {"label_smoothing": smoothing, "ignore_index": -1 + index % 2}))
        yield Case("softmax_cross_entropy", tier, f"{name} weights, ignored rows", weighted)
        yield Case("softmax_cross_entropy", tier, f"{name} soft weights", _weighted(soft))
        yield Case("svm_hinge", tier, name, _scores(n, k, {"delta": 1.0}))
        if index == 1:
            scaled = {"grad_scale": np.array([1024.0])}
            yield Case("softmax_cross_entropy", tier, f"{name} scaled", _scores(n, k, scaled))
            yield Case("svm_hinge", tier, f"{name} scaled", _scores(n, k, scaled))
        for op, options in _ELEMENTWISE.items():
            more = {"grad_scale": np.array([1024.0])} if index == 1 else {}
            yield Case(op, tier, name, _targets((n, k), options | more))
            yield Case(op, tier, f"{n}x2x1x{k}", _targets((n, 2, 1, k), options))
        yield Case("binary_cross_entropy", tier, f"{name} weights", _targets((n, k), {}, weights=True))
        yield Case("add_metrics", tier, name, _metrics(n, k))
        yield Case("add_metrics", tier, f"{name} soft", _soft(_metrics(n, k)))
        yield Case("add_metrics", tier, f"{name} ignored rows", _metrics(n, k, ignore_index=0))
        yield Case("add_metrics", tier, f"{name} without labels", _unlabeled(_metrics(n, k)))
        yield Case("add_metrics", tier, f"{name} weights", _metrics(n, k, weights=True))
        yield Case("add_metrics", tier, f"{name} weights, ignored rows", _metrics(n, k, weights=True, ignore_index=0))
        if index == 1:
            yield Case("add_metrics", tier, f"{name}, an infinite loss", _metrics(n, k, np.inf))


def _scores(n: int, classes: int, options: Options) -> Make:
    return lambda rng, dtype: ([3 * normal(rng, (n, classes), dtype), rng.integers(0, classes, n)], options)


_ELEMENTWISE: dict[str, Options] = {"mean_squared_error": {}, "huber_loss": {"delta": 0.75}, "binary_cross_entropy": {}}


def _targets(shape: Shape, options: Options, weights: bool = False) -> Make:
    """Targets in [0, 1], in the accumulation dtype. weights: whether to add weights of the positive class."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        wide = accumulation_dtype(dtype)
        arrays = [3 * normal(rng, shape, dtype), rng.random(shape).astype(wide)]
        if weights:
            arrays.append(rng.uniform(0, 3, shape[-1]).astype(wide))
        return arrays, options

    return make


def _soft(labeled: Make) -> Make:
    """The arguments of `labeled` with class probabilities, in the accumulation dtype, instead of labels."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        (*others, scores, labels), options = labeled(rng, dtype)
        probabilities = rng.dirichlet(np.ones(scores.shape[1]), len(labels))
        return [*others, scores, probabilities.astype(accumulation_dtype(dtype))], options

    return make


def _weighted(labeled: Make) -> Make:
    """The arguments of `labeled` with class weights, in the accumulation dtype, and with the ignored label, if there is
    one, in some rows."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        (scores, labels), options = labeled(rng, dtype)
        if "ignore_index" in options:
            labels = np.where(rng.random(len(labels)) < 0.3, options["ignore_index"], labels)
        return [scores, labels, rng.uniform(0, 2, scores.shape[1]).astype(accumulation_dtype(dtype))], options

    return make


def _unlabeled(labeled: Make) -> Make:
    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        (*others, _), options = labeled(rng, dtype)
        return [*others, None], options

    return make


def _metrics(n: int, classes: int, loss: float | None = None, weights: bool = False, **options: object) -> Make:
    """Integer scores, so that ties occur, and int64 labels. loss: its value; None draws one. weights: whether there are
    class weights."""

    def make(rng: np.random.Generator, dtype: np.dtype) -> Arguments:
        wide = accumulation_dtype(dtype)
        scores = rng.integers(-3, 4, (n, classes)).astype(dtype)
        drawn = normal(rng, (), wide) if loss is None else np.array(loss, wide)
        weight = [np.abs(normal(rng, classes, wide))] if weights else []
        totals = normal(rng, 5 if weights else 4, np.float64)
        return [totals, drawn, scores, rng.integers(0, classes, n), *weight], options

    return make
