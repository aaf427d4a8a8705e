"""Schedules in a run: the rate of every step, functions as schedules, and resumed runs."""

from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv import models
from gpuconv.data import synthetic
from gpuconv.training import SGD, SettingsError, Trainer
from tests import toy_run


def test_the_schedule_gets_the_number_of_steps_since_the_run_began():
    trainer = toy_run.trainer(lr=2.0, optimizer="sgd", schedule="step:1,gamma=0.5")
    trainer.optimizer.lr = 2e-3
    toy_run.fit(trainer, metrics_every=1)
    rates = [record["lr"] for record in trainer.records if record["event"] == "step"]
    assert rates == [2e-3] * 5 + [1e-3] * 5 + [5e-4] * 5


def test_the_schedule_sets_the_size_of_the_step():
    trainer = toy_run.trainer(optimizer="sgd", lr=0.1, schedule="warmup:2")
    before = {name: value.copy() for name, value in trainer.net.params().items()}
    toy_run.fit(trainer, epochs=1, train=toy_run.loader(batch_size=22))  # one step, at half the rate
    for name, value in trainer.net.params().items():
        np.testing.assert_allclose(value, before[name] - 0.05 * trainer.net.grads()[name], rtol=1e-5, atol=1e-7)


def test_a_trainer_knows_its_rate_before_its_first_run():
    for text in ("constant", "linear", "cosine", "one-cycle"):
        assert Trainer(models.build("seed-net", (8, 8, 3)), lr=0.5, schedule=text).lr == 0.5


def test_every_schedule_has_a_rate_before_the_first_run():
    texts = ("step:1", "multi-step:1,2", "linear:2", "exponential:0.9", "polynomial", "cosine,warmup:5", "one-cycle")
    for schedule in (*texts, lambda step, total: 0.5):
        assert 0 <= toy_run.trainer(schedule=schedule).lr <= 0.01
    with pytest.raises(TypeError, match=r"a schedule is text, .*or a function of the step.*received \[0.1\]"):
        toy_run.trainer(schedule=[0.1])


def test_a_one_cycle_run_of_one_step_changes_the_weights():
    trainer = Trainer(models.build("seed-net", (8, 8, 3)), lr=0.1, schedule="one-cycle")
    before = trainer.net["conv1"]["weight"].copy()
    trainer.fit(synthetic.load(32, size=(8, 8, 3))[0], epochs=1, batch_size=32, progress=False)
    assert abs(trainer.net["conv1"]["weight"] - before).max() > 1e-3


def test_a_function_of_the_step_is_a_schedule():
    def by_step(step):
        return 1 / (1 + step)

    def by_share(step, total):
        return 1 - step / total

    class ByEpoch:
        def __call__(self, step, total, epoch):
            return 0.5 ** (step // epoch)

    rates = {}
    for schedule in (by_step, by_share, ByEpoch(), lambda step, total=0, epoch=1: np.float64(0.25)):
        trainer = Trainer(toy_run.net(), SGD(lr=1e-3), schedule=schedule)
        trainer.fit(toy_run.loader(), epochs=2, metrics_every=1, progress=False)
        rates[str(trainer.schedule)] = [r["lr"] for r in trainer.records if r["event"] == "step"]
    assert rates["by_step"] == pytest.approx([1e-3 / (1 + step) for step in range(10)])
    assert rates["by_share"] == pytest.approx([1e-3 * (1 - step / 10) for step in range(10)])
    assert rates["ByEpoch"] == [1e-3] * 5 + [5e-4] * 5
    assert rates["<lambda>"] == [2.5e-4] * 10
    for wrong, message in ((lambda: 1, "received <lambda>"), (lambda a, b, c, d: 1, r"\(step, total, epoch\)")):
        with pytest.raises(TypeError, match=message):
            Trainer(toy_run.net(), schedule=wrong)
    for value in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="the factor of schedule <lambda>"):
            toy_run.fit(toy_run.trainer(schedule=lambda step, value=value: value))


def test_a_run_is_continued_with_a_function_of_the_same_name(tmp_path):
    def halving(step):
        return 0.5 ** (step // 5)

    def cosine(step, total):  # not gpuconv's schedule of this name
        return 1 - step / total

    stops = SimpleNamespace(on_epoch=lambda trainer, record: trainer.stop("enough"))
    for schedule in (halving, cosine):
        run, options = tmp_path / schedule.__name__, {"epochs": 3, "progress": False}
        uninterrupted = toy_run.trainer(schedule=schedule)
        uninterrupted.fit(toy_run.loader(), **options)
        toy_run.trainer(schedule=schedule).fit(toy_run.loader(), run_dir=run, callbacks=[stops], **options)
        for other_schedule in ("cosine", None, lambda step: 1.0):
            with pytest.raises(SettingsError, match=rf'schedule is ".*{schedule.__name__}" there'):
                toy_run.trainer(schedule=other_schedule).fit(toy_run.loader(), run_dir=run, resume=True, **options)
        resumed = toy_run.trainer(schedule=schedule)
        resumed.fit(toy_run.loader(), run_dir=run, resume=True, **options)
        assert toy_run.same_arrays(resumed.net.state_dict(), uninterrupted.net.state_dict())
