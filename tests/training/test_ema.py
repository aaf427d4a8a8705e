"""The moving average of the weights: its values, where it is used, and how it is stored."""

import itertools
import math

import numpy as np
import pytest

from gpuconv import asarray, load, to_numpy
from gpuconv import checkpoint as checkpoints
from gpuconv.checkpoint import CheckpointError
from gpuconv.profiling.launches import record_launches
from gpuconv.training import Trainer, evaluate, optimizers
from gpuconv.training.optimizers import Groups
from gpuconv.training.step import TrainingStep
from tests import toy_run


def weights(net):
    return {name: np.array(to_numpy(value)) for name, value in net.named_parameters()}


def averages(trainer):
    with trainer.averaged():
        return weights(trainer.net)


class Watch:
    """Copies the arrays that the optimizer updates, at the start and after each step. They are the parameters, or the
    float32 masters of 16-bit parameters."""

    def __init__(self, stop=None):
        self.updated, self.stop = [], stop

    def on_start(self, trainer):
        masters = {name: np.array(array) for name, array in trainer.optimizer.masters.items()}
        self.updated.append(weights(trainer.net) | masters)

    def on_step(self, trainer, record):
        self.on_start(trainer)
        if trainer.steps == self.stop:
            trainer.stop("interrupted")


def fit(trainer, **options):
    dtype, held_out = trainer.net.dtype, toy_run.held_out()
    validation = held_out.over(held_out.dataset, dtype=dtype)
    return toy_run.fit(trainer, **{"train": toy_run.loader(dtype=dtype), "validation": validation} | options)


def test_the_average_agrees_with_pytorch():
    """The first update of AveragedModel only copies the weights, so here it gets the initial weights."""
    torch = pytest.importorskip("torch")
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    trainer, watch = toy_run.trainer(ema=0.75), Watch()
    fit(trainer, callbacks=[watch])
    assert len(watch.updated) == 16
    module = torch.nn.ParameterList(
        [torch.nn.Parameter(torch.from_numpy(value)) for value in watch.updated[0].values()]
    )
    theirs = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    for arrays in watch.updated:
        with torch.no_grad():
            for param, value in zip(module, arrays.values()):
                param.copy_(torch.from_numpy(value))
        theirs.update_parameters(module)
    for (name, ours), expected in zip(averages(trainer).items(), theirs.module, strict=True):
        np.testing.assert_allclose(ours, expected.detach().numpy(), rtol=1e-5, atol=1e-6, err_msg=name)
    assert toy_run.same_arrays(weights(trainer.net), watch.updated[-1])


def test_the_average_changes_no_bit_of_training():
    one, other = toy_run.trainer(ema=0.9), toy_run.trainer()
    fit(one)
    fit(other)
    assert toy_run.same_arrays(one.net.state_dict(), other.net.state_dict())
    assert [r["train_loss"] for r in one.history] == [r["train_loss"] for r in other.history]
    assert [r["validation_loss"] for r in one.history] != [r["validation_loss"] for r in other.history]


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_validation_and_the_stored_net_use_the_average(tmp_path, precision):
    trainer = toy_run.trainer(ema=0.9, precision=precision)
    fit(trainer, run_dir=tmp_path / "run")
    loaded = load(tmp_path / "run", which="last")
    assert toy_run.same_arrays(weights(loaded), averages(trainer))
    assert not toy_run.same_arrays(weights(loaded), weights(trainer.net))
    held_out = toy_run.held_out()
    validation = held_out.over(held_out.dataset, dtype=loaded.dtype)
    assert evaluate(loaded, validation).loss == trainer.history[-1]["validation_loss"]
    running = {name: value for name, value in loaded.state_dict().items() if "running" in name}
    assert running
    for name, value in running.items():  # running statistics are not averaged
        np.testing.assert_array_equal(value, trainer.net.state_dict()[name])


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_a_resumed_run_goes_on_with_the_same_bits(tmp_path, precision):
    def run(name, stop=None, **options):
        trainer = toy_run.trainer(ema=0.9, precision=precision)
        fit(trainer, run_dir=tmp_path / name, callbacks=[Watch(stop)], **options)
        return trainer

    uninterrupted = run("whole")
    run("cut", stop=7)
    resumed = run("cut", resume=True)
    assert toy_run.same_arrays(averages(uninterrupted), averages(resumed))
    assert toy_run.same_arrays(uninterrupted.snapshot().tensors, resumed.snapshot().tensors)
    assert uninterrupted.records == resumed.records
    with pytest.raises(ValueError, match="cannot be continued with other settings: ema"):
        fit(toy_run.trainer(precision=precision), run_dir=tmp_path / "cut", resume=True)


def test_averages_in_float16_follow_the_masters_and_a_skipped_step_leaves_them_unchanged():
    trainer, watch = toy_run.trainer(ema=0.75, precision="float16"), Watch()
    expected = {name: value.astype(np.float64) for name, value in weights(trainer.net).items()}
    fit(trainer, validation=None, epochs=10, callbacks=[watch])
    skipped = 0
    for before, after in itertools.pairwise(watch.updated):
        if toy_run.same_arrays(before, after):  # the scaled gradients overflowed
            skipped += 1
        else:
            expected = {name: 0.75 * value + 0.25 * after[name] for name, value in expected.items()}
    assert skipped
    for name, value in trainer.ema.averages.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


class Descent:
    """A user-defined optimizer."""

    def step(self, params, grads):
        for name, param in params.items():
            param -= 0.1 * grads[name]


OPTIMIZERS = {
    **{name: name for name in ("sgd", "adagrad", "rmsprop", "adam", "adamw", "lion")},
    "groups": Groups(groups="filters -> muon:lr=0.02; * -> sgd:lr=0.05"),
    "own": Descent(),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_updates_the_averages(optimizer):
    kind = OPTIMIZERS[optimizer]
    rate = {"schedule": "constant"} | ({"lr": 0.01} if isinstance(kind, str) else {})
    trainer, watch = Trainer(toy_run.net(), kind, ema=0.75, **rate), Watch()
    fit(trainer, validation=None, callbacks=[watch])
    expected = watch.updated[0]
    for arrays in watch.updated[1:]:
        expected = {name: 0.75 * value + 0.25 * arrays[name] for name, value in expected.items()}
    for name, value in averages(trainer).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_parameter_that_is_frozen_later_is_still_averaged():
    trainer = toy_run.trainer(ema=0.5)
    layer = trainer.net[1]

    class Freeze:
        def on_epoch(self, trainer, record):
            layer.frozen = True

    fit(trainer, epochs=12, callbacks=[Freeze()])
    now = weights(trainer.net)
    after = averages(trainer)
    frozen = ["conv1.weight", "conv1.bias"]
    assert layer.path == "conv1"
    for name in frozen:
        np.testing.assert_allclose(after[name], now[name], rtol=1e-6, atol=1e-7, err_msg=name)
    assert any(not np.allclose(after[name], now[name], rtol=1e-6) for name in now if name not in frozen)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_averages_take_no_launch_of_their_own(precision):
    def launches(**options):
        net = toy_run.net().to("emulated")
        x, y = asarray(np.ones((2, 6, 5, 1), net.dtype), "emulated"), asarray(np.array([0, 1]), "emulated")
        step = TrainingStep(net, optimizers.get("adam"), "softmax", precision=precision, **options)
        x = asarray(x, dtype=step.net.dtype)
        with record_launches(execute=False) as launched:
            step.step_on([(x, y)])
        return [launch.kernel.name for launch in launched]

    assert launches() == launches(ema=0.9)


def test_averages_of_frozen_parameters_do_not_change():
    trainer = toy_run.trainer(ema=0.5)
    trainer.net[1].frozen = True
    before = weights(trainer.net)
    fit(trainer)
    after = averages(trainer)
    unchanged = [name for name in before if np.array_equal(before[name], after[name])]
    assert unchanged == ["conv1.weight", "conv1.bias"]


def test_the_average_starts_from_weights_loaded_before_the_first_step():
    trainer = toy_run.trainer(ema=0.999)
    other = toy_run.net(seed=9)
    trainer.net.load_state_dict(other.state_dict())
    fit(trainer, epochs=0, validation=None)
    assert toy_run.same_arrays(averages(trainer), weights(other))


def test_a_checkpoint_with_missing_or_invalid_averages_is_refused(tmp_path):
    fit(toy_run.trainer(ema=0.9), run_dir=tmp_path / "run", callbacks=[Watch(stop=7)])
    path = tmp_path / "run" / "last.safetensors"
    valid = checkpoints.load(path)
    name = next(name for name in valid.tensors if name.startswith("trained."))
    for change, message in (
        ({name: None}, f"{name} is missing"),
        ({name: np.zeros(99, np.float32)}, f"{name} must be float32"),
        ({name: valid.tensors[name] * np.float32(np.nan)}, f"{name} is not finite"),
        ({"trained.x": np.zeros(1)}, "trained.x is not part of this net"),
    ):
        tensors = {key: value for key, value in (valid.tensors | change).items() if value is not None}
        checkpoints.save(path, checkpoints.Checkpoint(tensors, valid.state))
        trainer = toy_run.trainer(ema=0.9)
        before = weights(trainer.net)
        with pytest.raises(CheckpointError, match=message):
            fit(trainer, run_dir=tmp_path / "run", resume=True)
        assert toy_run.same_arrays(before, weights(trainer.net))


def test_an_invalid_ema_is_refused():
    for ema, message in (
        (0, r"ema must lie in \(0, 1\), received 0"),
        (1, r"ema must lie in \(0, 1\), received 1"),
        (-0.5, "ema must lie in"),
        (math.nan, "ema must lie in"),
        ("0.9", "ema must be a number, received '0.9'"),
        (True, "ema must be a number"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            Trainer(toy_run.net(), ema=ema)


def test_an_update_that_does_not_take_the_averages_is_refused_before_the_first_step():
    class Old(optimizers.SGD):
        def update(self, params, grads, scaling=None):
            super().update(params, grads, scaling)

    class Older(Old):
        def update(self, params, grads):
            super().update(params, grads)

    groups = optimizers.Groups(groups="filters -> adam; * -> sgd")
    groups.parts[1].optimizer = Old(lr=0.1)
    for optimizer in (Old(lr=0.1), groups):
        with pytest.raises(
            TypeError, match=r"Old\.update is called with \(params, grads, scaling, averages, ema\), but"
        ) as raised:
            Trainer(toy_run.net(), optimizer, ema=0.9)
        assert "takes (params, grads, scaling=None); with averages = False in the class" in str(raised.value)
    with pytest.raises(TypeError, match=r"Older\.update is called with \(params, grads, scaling\), but takes"):
        Trainer(toy_run.net(), Older(lr=0.1))
    fit(Trainer(toy_run.net(), Old(lr=0.1)))

    class WithoutAverages(Old):
        averages = False

    fit(Trainer(toy_run.net(), WithoutAverages(lr=0.1), ema=0.9))
