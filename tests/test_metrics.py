"""Metrics by name, as functions and as objects, against counts by hand."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest

from gpuconv import losses, metrics
from gpuconv.training import Trainer, evaluate
from tests import toy_run

SCORES = np.array([[1, 5, 3, 2], [9, 0, 8, 7], [2, 2, 2, 2], [0, 1, np.nan, 3]], np.float32)
LABELS = np.array([2, 3, 1, 2])


def measure(metric, scores=SCORES, labels=LABELS, ends=(0, 1, 4)):
    """A metric's name and result after several batches. A batch holds the samples from one of `ends` to the next."""
    ((name, started),) = metrics.begin(metrics.named([metric])).items()
    for first, last in itertools.pairwise(ends):
        started.update(scores[first:last], labels[first:last])
    return name, started.result()


def test_top_k_ranks_the_first_of_equal_scores_before_the_others_and_nan_highest():
    # The label's rank: 1, 2, 1 (of equal scores the first is better), 0.
    expected = {"top-1": 0.25, "top-2": 0.75, "top_3": 1.0, "top5": 1.0, "Top-5": 1.0}
    for name, fraction in expected.items():
        assert measure(name) == (f"top_{name[-1]}", fraction)
    draw = np.random.default_rng(0)
    scores, labels = draw.normal(size=(40, 6)), draw.integers(0, 6, 40)
    for k in range(1, 7):
        best = np.argsort(-scores, axis=1)[:, :k]
        assert measure(f"top-{k}", scores, labels, (0, 7, 40))[1] == (best == labels[:, None]).any(axis=1).mean()


def test_confusion_and_the_accuracy_of_each_class_equal_counts_by_hand():
    name, matrix = measure("confusion")
    assert name == "confusion"
    assert matrix.tolist() == [[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 1, 0], [1, 0, 0, 0]]
    name, shares = measure("per-class")
    assert name == "per_class"
    np.testing.assert_array_equal(shares, [np.nan, 0, 0.5, 0])


def test_a_mapping_gives_the_results_their_names():
    net, data = toy_run.net(), toy_run.held_out()
    found = evaluate(net, data, metrics={"best two": "top-2", "own": Mistakes(), "mean": lambda scores, labels: 0.5})
    assert [*found.metrics] == ["best two", "own", "mean"]
    assert found.metrics["best two"] == evaluate(net, data, metrics=["top-2"]).metrics["top_2"]
    with pytest.raises(ValueError, match=r"unknown metric 'top-two'; did you mean 'top-5'"):
        evaluate(net, data, metrics={"best two": "top-two"})


class Mistakes:
    """A metric as a user might write it, without a base class: it accumulates over batches."""

    def __init__(self):
        self.count = 0

    def update(self, scores, labels):
        assert type(scores) is type(labels) is np.ndarray
        self.count += int((scores.argmax(1) != labels).sum())

    def result(self):
        return self.count


class ResettableMistakes(Mistakes):
    name = "errors"

    def reset(self):
        self.count = 0


def first_class(scores, labels):
    return (labels == 0).mean()


def test_functions_and_objects_of_users_are_metrics():
    assert measure(first_class, labels=np.array([0, 1, 0, 1]))[1] == 0.5
    assert measure(lambda scores, labels: scores.mean(0), np.ones((4, 4)))[1].tolist() == [1] * 4
    net, counted, resettable = toy_run.net(), Mistakes(), ResettableMistakes()
    for _ in range(2):  # each evaluation starts from zero
        evaluation = evaluate(net, toy_run.held_out(), metrics=["top-2", "confusion", first_class, counted, resettable])
        assert [*evaluation.metrics] == ["top_2", "confusion", "first_class", "Mistakes", "errors"]
        wrong = round((1 - evaluation.accuracy) * evaluation.samples)
        assert evaluation.metrics["Mistakes"] == evaluation.metrics["errors"] == resettable.result() == wrong
        assert evaluation.metrics["confusion"].trace() == evaluation.samples - wrong
        assert evaluation.confusion is None
    assert counted.result() == 0
    evaluation = evaluate(net, toy_run.held_out(), metrics=["confusion"], confusion=True)
    np.testing.assert_array_equal(evaluation.confusion, evaluation.metrics["confusion"])


def test_a_metric_that_works_in_place_changes_no_other_result():
    def in_place(scores, labels):
        scores[:], labels[:] = 0, 0
        return 1.0

    net, labels = toy_run.net(), np.arange(6) % 3
    images = np.random.default_rng(0).normal(size=(6, *net.input_shape)).astype(np.float32)
    batches = [(images, labels)]
    expected = evaluate(net, batches, metrics=["top-1", "confusion"])
    for own in (in_place, InPlace()):
        found = evaluate(net, batches, metrics={"own": own, "top_1": "top-1", "confusion": "confusion"})
        assert found.metrics["top_1"] == expected.metrics["top_1"]
        np.testing.assert_array_equal(found.metrics["confusion"], expected.metrics["confusion"])
        np.testing.assert_array_equal(labels, np.arange(6) % 3)


class InPlace(Mistakes):
    def update(self, scores, labels):
        scores[:], labels[:] = 0, 0


def test_an_object_without_reset_that_cannot_be_copied_is_named():
    metric = Mistakes()
    metric.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"the metric Mistakes has no reset\(\) and cannot be copied: cannot pickle"):
        evaluate(toy_run.net(), toy_run.held_out(), metrics=[metric])


class WithoutLabels:
    def update(self, scores):
        raise AssertionError

    def result(self):
        raise AssertionError


class WithoutResult:
    """As torchmetrics' classes: they can be called, but have compute() in place of result()."""

    def update(self, scores, labels):
        raise AssertionError

    __call__ = update


def test_bad_metrics_are_refused():
    for wrong, error, message in (
        (["top-0"], ValueError, "the k of top-k must be at least 1, received 0"),
        (["acuracy"], ValueError, "unknown metric 'acuracy'"),
        (["confusoin"], ValueError, "did you mean 'confusion'"),
        ("top-5", TypeError, "metrics are a list"),
        ([3], TypeError, r"update\(scores, labels\) and result\(\); received int"),
        ([WithoutResult()], TypeError, r"update\(scores, labels\) and result\(\); received WithoutResult"),
        ({"5": "top-1", 5: "top-2"}, ValueError, "two metrics are named '5'"),
        ([lambda scores: 0.0], TypeError, r"<lambda> is called with \(scores, labels\), but takes \(scores\)"),
        ([WithoutLabels()], TypeError, r"WithoutLabels.update is called with \(scores, labels\), but takes \(scores\)"),
        (["top-3", "top3"], ValueError, "two metrics are named 'top_3'"),
        (["top-" + "9" * 5000], ValueError, "unknown metric 'top-999"),
        (["top-\uff13"], ValueError, "unknown metric"),
    ):
        with pytest.raises(error, match=message):
            evaluate(toy_run.net(), toy_run.held_out(), metrics=wrong)
    with pytest.raises(TypeError, match=r"the k of top-k must be an integer, received 1\.5"):
        metrics.TopK(1.5)


@pytest.mark.parametrize("label", [-1, 4])
@pytest.mark.parametrize("metric", ["top-2", "confusion", "per-class"])
def test_a_label_that_is_no_class_is_refused(metric, label):
    with pytest.raises(ValueError, match=rf"labels must lie in \[0, 4\), received {label} at index 2"):
        measure(metric, labels=np.array([2, 3, 1, label]), ends=(1, 4))


def test_a_function_whose_results_have_different_shapes_is_named():
    def right(scores, labels):
        return scores.argmax(axis=1) == labels

    message = r"metric right must return a mean over the batch, .* shape \(1,\) and then \(3,\)"
    with pytest.raises(ValueError, match=message):
        measure(right)


def test_a_function_that_returns_no_number_is_named():
    """None would count as NaN, a masked number as 0, and a complex one would lose its imaginary part."""
    for value in (None, "0.5", 1j, np.ma.masked, 10**400, object(), [None], {"a": 1}):

        def wrong(scores, labels, value=value):
            return value

        with pytest.raises(TypeError, match=r"the metric wrong"):
            evaluate(toy_run.net(), toy_run.held_out(), metrics=[wrong])


def test_a_result_that_a_run_cannot_store_is_named():
    class Wrong:
        def update(self, scores, labels):
            pass

        def result(self):
            return self.value

    for value in (object(), [object()], {"part": 1j}):
        metric = Wrong()
        metric.value = value
        trainer = Trainer(toy_run.net(), metrics=[metric])
        with pytest.raises(TypeError, match=r"the metric Wrong must give numbers.* received (object|complex)"):
            trainer.fit(toy_run.loader(), validation=toy_run.held_out(), epochs=1, progress=False)


def test_if_there_are_no_images_numbers_are_nan_and_results_by_class_are_none():
    for metric in ("top-5", lambda scores, labels: 1.0):
        assert np.isnan(measure(metric, ends=(0,))[1])
    for metric in ("confusion", "per-class"):
        assert measure(metric, ends=(0,))[1] is None


def test_held_out_images_whose_labels_are_all_ignored_are_evaluated():
    net = toy_run.net()
    images = np.zeros((3, *net.input_shape), np.float32)
    found = evaluate(net, (images, np.full(3, 2)), loss=losses.get("softmax", ignore_index=2), metrics=["top-5"])
    assert found.samples == 0
    assert np.isnan(found.accuracy)
    assert np.isnan(found.metrics["top_5"])
