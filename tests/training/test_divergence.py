"""NaN and infinity stop a run. The error names the step, and nothing of this step is saved."""

import json

import numpy as np
import pytest

from gpuconv import checkpoint
from gpuconv.layers import Flatten, Input, Linear, Sequential
from gpuconv.training import DivergedError, Trainer
from tests import toy_run


class Poisoned(toy_run.UserLoader):
    """A loader whose batch number `step` (from 1, over all epochs) holds NaN."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def epoch(self, epoch, start_batch=0):
        for batch, (x, y) in enumerate(self.inner.epoch(epoch, start_batch), epoch * len(self) + start_batch + 1):
            yield (x * np.float32("nan") if batch == self.step else x), y


@pytest.mark.parametrize("metrics_every", [1, 3, 50])
@pytest.mark.parametrize("step", [6, 8, 10])
def test_the_error_names_the_step_of_nan_and_the_last_checkpoint_is_kept(tmp_path, step, metrics_every):
    trainer = toy_run.trainer()
    message = rf"not finite at step {step} \(epoch 2\).*last\.safetensors was saved before that"
    with pytest.raises(DivergedError, match=message):
        toy_run.fit(trainer, train=Poisoned(step), metrics_every=metrics_every, run_dir=tmp_path / "run")
    last_checkpoint = checkpoint.load(tmp_path / "run" / "last.safetensors")
    assert (last_checkpoint.state["epoch"], last_checkpoint.state["batch"]) == (1, 0)
    assert all(np.isfinite(array).all() for array in last_checkpoint.tensors.values())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == trainer.records
    assert max(line["step"] for line in lines) < step


def test_the_error_names_the_step_of_nan_if_the_shares_of_the_steps_parts_do_not_add_up_to_one():
    count = 49
    assert count * (1 / count) < 1
    batches = [(np.full((1, 2, 2, 1), number + 0.5, np.float32), np.array([0])) for number in range(2 * count)]
    for x, _ in batches[count:]:
        x.fill(np.nan)
    trainer = Trainer(Sequential([Input((2, 2, 1)), Flatten(), Linear(3)]), "sgd", lr=0.01, accumulate=count)
    with pytest.raises(DivergedError, match="not finite at step 2"):
        trainer.fit(batches, epochs=1, progress=False)


@pytest.mark.parametrize("parts", [{"accumulate": 2}, {"shards": 2}, {"accumulate": 2, "shards": 2}])
def test_the_error_names_the_step_of_nan_in_one_part_though_later_losses_are_finite(parts):
    step = parts.get("accumulate", 1)
    batches = [(np.full((2, 2, 2, 1), number + 0.5, np.float32), np.array([0, 1])) for number in range(6 * step)]
    batches[3 * step - 1][0][-1].fill(np.nan)
    net = Sequential([Input((2, 2, 1)), Flatten(), Linear(3)])
    trainer = Trainer(net, "sgd", lr=0.01, precision="float16", **parts)
    with pytest.raises(DivergedError, match="not finite at step 3 "):
        trainer.fit(batches, epochs=1, metrics_every=10, progress=False)


def test_nan_between_two_readings_of_the_totals_is_never_saved(tmp_path):
    with pytest.raises(DivergedError, match="step 6"):
        toy_run.fit(
            toy_run.trainer(), train=Poisoned(6), metrics_every=50, checkpoint_every=1, run_dir=tmp_path / "run"
        )
    state = checkpoint.load(tmp_path / "run" / "last.safetensors").state
    assert (state["epoch"], state["batch"]) == (1, 0)


def test_an_overflow_stops_the_run_without_a_warning():
    with pytest.raises(DivergedError, match="A lower learning rate"):
        toy_run.fit(toy_run.trainer(optimizer="sgd", lr=1e30, schedule=None))


def test_infinite_weights_are_not_saved(tmp_path):
    trainer = toy_run.trainer(optimizer="sgd")
    loss, calls = trainer.loss, []

    def infinite_gradient_at_step_10(scores, labels):
        calls.append(1)
        value, gradient = loss(scores, labels)
        return value, gradient * np.float32("inf") if len(calls) == 10 else gradient

    trainer.loss = infinite_gradient_at_step_10
    with pytest.raises(DivergedError, match=r"conv1\.weight is not finite after step 10"):
        toy_run.fit(trainer, validation=None, run_dir=tmp_path / "run")
    assert checkpoint.load(tmp_path / "run" / "last.safetensors").state["epoch"] == 1


def test_a_nan_validation_loss_stops_the_run():
    trainer = toy_run.trainer()
    trainer.net.state_dict()["norm1.running_mean"].fill(np.nan)
    with pytest.raises(DivergedError, match="validation loss is nan after step 5"):
        toy_run.fit(trainer)


def test_a_metric_whose_name_ends_in_loss_may_be_nan_or_an_array():
    def brier_loss(scores, labels):
        return np.full(3, np.nan)

    def hinge_loss(scores, labels):
        return np.nan

    trainer = toy_run.trainer(metrics=[brier_loss, hinge_loss])
    history = toy_run.fit(trainer, epochs=1)
    assert history[0]["validation_brier_loss"] == [None, None, None]
    assert history[0]["validation_hinge_loss"] is None
