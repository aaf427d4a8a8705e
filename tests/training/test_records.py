"""The records of a run: means over samples, metrics of held-out data, and when the totals are read from the device."""

import json

import numpy as np
import pytest

from gpuconv.training import Trainer, evaluate
from gpuconv.training.running_metrics import Totals
from tests import toy_run


def test_records_are_means_over_the_samples_of_their_steps():
    """The means are recomputed here from the scores of each step."""
    trainer, seen = toy_run.trainer(), []
    loss = trainer.loss

    def recording_loss(scores, labels):
        value, gradient = loss(scores, labels)
        seen.append((float(value), float((scores.argmax(1) == labels).sum()), len(labels)))
        return value, gradient

    trainer.loss = recording_loss
    toy_run.fit(trainer, epochs=2, metrics_every=2, validation=None)
    value, correct, count = np.array(seen).T
    assert count.tolist() == [5, 5, 5, 5, 2] * 2
    spans = {2: (0, 2), 4: (2, 4), 6: (5, 6), 8: (6, 8), 10: (8, 10)}
    for record in trainer.records:
        of_epoch = record["event"] == "epoch"
        first, last = (record["step"] - 5, record["step"]) if of_epoch else spans[record["step"]]
        span, prefix = slice(first, last), "train_" if of_epoch else ""
        assert record[f"{prefix}loss"] == pytest.approx((value * count)[span].sum() / count[span].sum(), rel=1e-12)
        assert record[f"{prefix}accuracy"] == correct[span].sum() / count[span].sum()
    assert [record["step"] for record in trainer.records] == [2, 4, 5, 6, 8, 10, 10]


def test_held_out_metrics_are_those_of_evaluate():
    trainer = toy_run.trainer()
    last = toy_run.fit(trainer, test=toy_run.held_out())[-1]
    evaluation = evaluate(trainer.net, toy_run.held_out())
    assert (last["validation_loss"], last["validation_accuracy"]) == (evaluation.loss, evaluation.accuracy)
    assert (last["test_loss"], last["test_accuracy"]) == (evaluation.loss, evaluation.accuracy)


def test_totals_are_read_after_every_nth_step_of_a_run_and_at_the_end_of_each_epoch(monkeypatch):
    reads, read = [], Totals.read
    trainer = toy_run.trainer()
    monkeypatch.setattr(Totals, "read", lambda self: reads.append(trainer.steps) or read(self))
    toy_run.fit(trainer, epochs=2, metrics_every=4, validation=None)
    assert reads == [4, 5, 8, 10]


def test_metrics_of_a_trainer_are_in_the_records_of_held_out_data(tmp_path, capsys):
    def spread(scores, labels):
        return scores.std()

    trainer = Trainer(toy_run.net(), metrics=["top-2", "per-class", spread])
    history = trainer.fit(toy_run.loader(), epochs=2, validation=toy_run.held_out(), run_dir=tmp_path / "run")
    for record in history:
        assert record["validation_accuracy"] <= record["validation_top_2"] <= 1
        assert len(record["validation_per_class"]) == 3
        assert record["validation_spread"] > 0
        assert "train_top_2" not in record
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == history
    heading = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert heading.endswith("validation_loss,validation_accuracy,validation_top_2,validation_spread")
    assert f"validation top 2 {history[-1]['validation_top_2']:.4f}" in capsys.readouterr().out
    resumed = Trainer(toy_run.net(), metrics=["top-2"])
    resumed.fit(toy_run.loader(), epochs=2, validation=toy_run.held_out(), run_dir=tmp_path / "run", resume=True)
    assert resumed.history == history
    with pytest.raises(ValueError, match="top_2 is measured on validation or test data, and neither is given"):
        resumed.fit(toy_run.loader(), epochs=2, progress=False)


def test_a_metric_may_give_lists_of_different_lengths():
    class Hits:
        def update(self, scores, labels):
            self.hits = [np.flatnonzero(labels == label).tolist() for label in (0, 1, 7)]

        def result(self):
            return [*self.hits, "seen"]

    trainer = Trainer(toy_run.net(), metrics={"hits": Hits()})
    (record,) = trainer.fit(toy_run.loader(), epochs=1, validation=toy_run.held_out(9), progress=False)
    *hits, seen = record["validation_hits"]
    assert len({*map(len, hits)}) > 1
    assert (hits[2], seen) == ([], "seen")


@pytest.mark.parametrize("name", ["loss", "accuracy"])
def test_a_metric_with_the_name_of_a_recorded_measure_is_refused(name):
    """Its result would take the place of that measure, by which epochs may be compared."""
    trainer = Trainer(toy_run.net(), metrics={name: lambda scores, labels: scores.std()})
    with pytest.raises(ValueError, match=f"a run records its own {name}; give the metric '{name}' another"):
        trainer.fit(toy_run.loader(), epochs=1, validation=toy_run.held_out(), progress=False)


def test_totals_count_the_steps_before_the_first_nonfinite_loss():
    totals = Totals("numpy")
    scores, labels = np.array([[1.0, 2.0], [3.0, 3.0]]), np.array([1, 1])
    for loss in (1.5, 0.5, np.inf, 1.0):
        totals.add(np.array(loss), scores, labels)
    sums = totals.read()
    assert sums.finite_steps == 2
    assert sums.samples == 8
    assert sums.correct == 4  # the first of equal scores is chosen
    assert sums.loss_sum == np.inf
