"""Gradient clipping in training: against PyTorch, in float16, with groups, shards and user-defined optimizers."""

import math

import numpy as np
import pytest

from gpuconv import layers
from gpuconv.training import Clip, LossScale, Trainer
from tests import toy_run

DRAW = np.random.default_rng(0)
BATCHES = [(3 * DRAW.standard_normal((4, 2, 3, 1)).astype(np.float32), DRAW.integers(0, 3, 4)) for _ in range(5)]


def linear(**options):
    net = layers.Sequential([layers.Input((2, 3, 1)), layers.Flatten(), layers.Linear(3)], seed=1)
    return Trainer(net, "sgd", lr=1.0, **options)


def weights(trainer):
    return {name: np.array(value, np.float32) for name, value in trainer.net.params().items()}


def moved(trainer):
    """The norm of the change of all parameters in one step. At rate 1 it is the norm of the clipped gradients."""
    before = trainer.optimizer.masters or trainer.net.params()
    before = {name: value.copy() for name, value in before.items()}
    x, y = BATCHES[0]
    trainer.optimizer.advance()
    trainer.step(x.astype(trainer.net.dtype), y)
    after = trainer.optimizer.masters or trainer.net.params()
    return math.sqrt(sum(float(np.square(after[name] - old, dtype=np.float64).sum()) for name, old in before.items()))


@pytest.mark.parametrize("clip", [0.5, "norm:1e3", "value:0.05", None])
def test_five_clipped_steps_agree_with_pytorch(clip):
    torch = pytest.importorskip("torch")
    ours = linear(clip=clip)
    theirs = torch.nn.Linear(6, 3)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(weights(ours)["fc1.weight"]))
        theirs.bias.copy_(torch.from_numpy(weights(ours)["fc1.bias"]))
    clipping = Clip.of(clip)
    for x, y in BATCHES:
        ours.optimizer.advance()
        ours.step(x, y)
        theirs.zero_grad()
        torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x).flatten(1)), torch.from_numpy(y)).backward()
        if clipping:
            utils = torch.nn.utils
            clip_gradients = {"norm": utils.clip_grad_norm_, "value": utils.clip_grad_value_}[clipping.kind]
            clip_gradients(theirs.parameters(), clipping.limit)
        with torch.no_grad():
            for param in theirs.parameters():
                param -= param.grad
    for name, value in weights(ours).items():
        expected = getattr(theirs, name.rpartition(".")[2]).detach().numpy()
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_float16_gradients_are_clipped_after_the_loss_scale_is_removed():
    for start in (1.0, 2.0**10):
        for clip in ("norm:0.01", "value:0.01"):
            trainer = linear(precision="float16", loss_scale=LossScale(start=start), clip=clip)
            if clip.startswith("norm"):
                expected = pytest.approx(0.01, rel=1e-3)
            else:  # nearly every value is clipped to 0.01
                expected = pytest.approx(0.01 * math.sqrt(21), rel=0.1)  # 21 parameters
            assert moved(trainer) == expected, (start, clip)


def test_a_step_that_overflows_is_skipped_with_clipping_too():
    for clip in ("norm:0.01", "value:0.01"):
        trainer = linear(precision="float16", loss_scale=LossScale(start=2.0**40), clip=clip)
        assert moved(trainer) == 0
        assert trainer.loss_scale.skipped == 1


def test_clipping_does_not_hide_nan():
    for clip in ("norm:1", "value:1"):
        trainer = linear(clip=clip)
        trainer.optimizer.advance()
        trainer.step(np.full((4, 2, 3, 1), np.nan, np.float32), BATCHES[0][1])
        assert not np.isfinite(next(iter(weights(trainer).values()))).any(), clip


def test_the_norm_is_taken_over_all_groups_and_all_shards():
    groups = "fc1.weight -> sgd:lr=1; * -> sgd:lr=1"
    net = linear().net
    assert moved(Trainer(net, groups, clip=0.01)) == pytest.approx(0.01, rel=1e-3)
    assert moved(linear(clip=0.01, shards=2)) == pytest.approx(0.01, rel=1e-3)
    assert moved(linear(shards=2)) > 0.1


@pytest.mark.parametrize("clip", ["norm:0.1", "value:0.01"])
def test_a_resumed_run_goes_on_with_the_same_bits(tmp_path, clip):
    uninterrupted = toy_run.trainer(clip=clip)
    toy_run.fit(uninterrupted, epochs=3, run_dir=tmp_path / "whole")
    toy_run.fit(toy_run.trainer(clip=clip), epochs=3, run_dir=tmp_path / "cut", callbacks=[toy_run.StopAt(7)])
    resumed = toy_run.trainer(clip=clip)
    toy_run.fit(resumed, epochs=3, run_dir=tmp_path / "cut", resume=True)
    assert toy_run.same_arrays(uninterrupted.net.state_dict(), resumed.net.state_dict())
    free = toy_run.trainer()
    toy_run.fit(free, epochs=3)
    assert not toy_run.same_arrays(uninterrupted.net.state_dict(), free.net.state_dict())
    with pytest.raises(ValueError, match="cannot be continued with other settings: clip"):
        toy_run.fit(toy_run.trainer(), epochs=3, run_dir=tmp_path / "cut", resume=True)


class UserOptimizer:
    lr = 0.1

    def step(self, params, grads):
        for name in params:
            params[name] -= grads[name]


def test_for_a_user_defined_optimizer_values_are_clipped_and_clipping_by_norm_is_refused():
    with pytest.raises(ValueError, match=r"UserOptimizer takes the gradients as they are.*give clip='value:2'"):
        Trainer(linear().net, UserOptimizer(), clip=2)
    trainer = Trainer(linear().net, UserOptimizer(), clip="value:0.001")
    assert moved(trainer) == pytest.approx(0.001 * math.sqrt(21), rel=0.05)  # 21 parameters


def test_short_forms_of_clipping_are_parsed_or_refused():
    for form in (1, 1.0, "1", "1.0", " norm:1 ", Clip("norm", 1), np.float32(1)):
        assert Clip.of(form) == Clip("norm", 1.0), form
    assert Clip.of(str(Clip("value", 0.1))) == Clip("value", 0.1)
    assert Clip.of(None) is Clip.of("none") is None
    for wrong, message in (
        (0, "the limit of the norm must be above 0, received 0"),
        (-1, "the limit of the norm must be above 0, received -1"),
        ("-1", "the limit of the norm must be above 0, received -1"),
        (math.nan, "the limit of the norm must be above 0, received nan"),
        ("value:inf", "the limit of the value must lie in"),
        ("value:0", "the limit of the value must be above 0"),
        ("norm", "clipping is written like 'norm:1.0' or 'value:0.5', received 'norm'"),
        ("norm:1,2", "clipping is written like"),
        ("norm:1,value:2", "clipping is written like"),
        ("nrom:1", "did you mean 'norm'"),
        (True, "must be a number, received True"),
        ([1], "must be a number"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            linear(clip=wrong)
