"""Captured steps give the same bits as uncaptured ones, whatever happens between the steps."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from gpuconv import asarray, backends, ops, to_numpy
from gpuconv.data import Augmentation, Loader, Normalization
from gpuconv.layers import Dropout
from gpuconv.training import Callback, LossScale, Trainer, UncapturedWarning
from gpuconv.training.step_graphs import STEPS_PER_GRAPH, Replay
from tests import toy_run
from tests.devices import kernel_devices

DEVICE = "emulated"
devices = pytest.mark.parametrize("device", [name for name in kernel_devices() if name != "numpy"])


def loader(count=22, batch_size=1, device=DEVICE, **options):
    data = toy_run.images(count)
    return Loader(
        data,
        batch_size,
        normalization=Normalization.from_dataset(data),
        augmentation=Augmentation(shift=1, flip=True, resized_crop=0.5, contrast=0.4),
        seed=3,
        device=device,
        **options,
    )


def trainer(graph, optimizer="adam", device=DEVICE, **options):
    options = {"schedule": "one-cycle", "lr": 0.01} | options
    return Trainer(toy_run.net().to(device), optimizer, graph=graph, **options)


def fit(trained, **options):
    options = {"epochs": 2, "metrics_every": 50, "progress": False, "train": loader()} | options
    trained.fit(options.pop("train"), **options)
    return trained


def state(trained):
    arrays = {key: np.array(to_numpy(value)) for key, value in trained.net.state_dict().items()}
    return arrays | {f"optimizer.{key}": value for key, value in trained.optimizer.state_dict().items()}


def assert_same(one, other):
    assert one.records == other.records
    assert toy_run.same_arrays(state(one), state(other))


def same_with_and_without_graph(run):
    """The trainers that run(graph=False) and run(graph=True) return; they must end with the same bits."""
    runs = [run(graph) for graph in (False, True)]
    assert_same(*runs)
    return runs


@devices
@pytest.mark.parametrize("optimizer", ["sgd:momentum=0.9,nesterov=true", "adam"])
@pytest.mark.parametrize(("batch_size", "metrics_every"), [(1, 50), (5, 3), (4, 1)])
def test_replayed_steps_have_the_bits_of_uncaptured_ones(captures, device, optimizer, batch_size, metrics_every):
    same_with_and_without_graph(
        lambda graph: fit(
            trainer(graph, optimizer, device),
            train=loader(batch_size=batch_size, device=device),
            metrics_every=metrics_every,
        )
    )
    assert captures["replays"]
    if batch_size == 1 and device == "emulated":
        # An epoch has 22 steps. The first epoch runs 1 step uncaptured and replays 7 single steps, a graph of 8 steps
        # and 6 single steps. The second epoch replays two graphs of 8 steps and 6 single steps.
        one, eight = captures["captured"]
        assert eight == STEPS_PER_GRAPH * one
        assert captures["replays"] == 7 + 1 + 6 + 2 + 6


@pytest.mark.kernels
@devices
@pytest.mark.parametrize("precision", ["tf32", "float16", "bfloat16"])
def test_replayed_steps_have_the_same_bits_in_every_precision(captures, device, precision):
    """In float16, some steps are skipped, and the loss scale falls and grows inside graphs."""

    def run(graph):
        scale = LossScale(start=2.0**30, interval=2) if precision == "float16" else None
        trained = trainer(graph, device=device, precision=precision, loss_scale=scale)
        return fit(trained, train=loader(device=device, dtype=trained.net.dtype))

    runs = same_with_and_without_graph(run)
    assert captures["replays"]
    if precision == "float16":
        scale, _, _, skipped = runs[0].loss_scale.read()
        assert runs[1].loss_scale.read() == runs[0].loss_scale.read()
        assert 8 < skipped < 40  # only the first step runs uncaptured, so replayed steps were skipped too
        assert scale > 2.0 ** (30 - skipped)  # it also grew


@pytest.mark.kernels
@devices
def test_replayed_steps_have_the_same_bits_with_groups_and_their_schedules(captures, device):
    groups = "filters -> muon:lr=0.02; conv1.bias -> sgd:lr=0.05 @ linear:2; * -> sgd:lr=0.05"
    same_with_and_without_graph(lambda graph: fit(trainer(graph, groups, device, lr=1.0), train=loader(device=device)))
    assert captures["replays"]


@devices
@pytest.mark.parametrize("augmentation", [Augmentation(mixup=0.4), Augmentation(cutmix=1, flip=True)])
def test_replayed_steps_have_the_same_bits_with_mixed_batches(captures, device, augmentation):
    plain = loader(batch_size=2, device=device)
    same_with_and_without_graph(
        lambda graph: fit(trainer(graph, device=device), train=plain.over(plain.dataset, augmentation=augmentation))
    )
    assert captures["replays"]


@devices
@pytest.mark.parametrize("options", [{"clip": 0.1}, {"clip": "value:0.01"}, {"ema": 0.9}, {"accumulate": 3}])
def test_replayed_steps_have_the_same_bits_with_clipping_averages_and_accumulation(captures, device, options):
    count, batch_size = (25, 1) if "accumulate" in options else (22, 2)  # an epoch has at least 8 steps of equal size
    train = loader(count, batch_size, device)
    runs = same_with_and_without_graph(lambda graph: fit(trainer(graph, device=device, **options), train=train))
    assert toy_run.same_arrays(*(trained.snapshot().tensors for trained in runs))
    assert captures["replays"]
    if device == "emulated":  # the second epoch replays 8 steps at once
        assert STEPS_PER_GRAPH * captures["captured"][0] in captures["captured"]


class Lower(Callback):
    """Lowers the learning rate after some steps, as a user's callback might."""

    def on_step(self, trainer, record):
        if trainer.steps in (5, 6, 17):
            trainer.optimizer.lr /= 2


class AtEpochs(Callback):
    def on_epoch(self, trainer, record):
        trainer.optimizer.lr /= 3
        trainer.optimizer.weight_decay = 0.01
        trainer.optimizer.beta1 = 0.8


class DropMore(Callback):
    def on_epoch(self, trainer, record):
        next(layer for layer in trainer.net.walk() if isinstance(layer, Dropout)).p = 0.7


@pytest.mark.slow
@pytest.mark.parametrize("callback", [Lower, AtEpochs, DropMore])
def test_changes_by_a_callback_take_effect_in_replayed_steps(captures, callback):
    same_with_and_without_graph(
        lambda graph: fit(trainer(graph), callbacks=[callback()], validation=loader(9, 4, shuffle=False))
    )
    assert captures["replays"]


class Scaled:
    """A user's loss with a number that a callback changes, an array that it replaces, and one that the loss replaces
    itself."""

    def __init__(self):
        self.factor, self.added, self.last = 1.0, None, None

    def __call__(self, scores, labels):
        value, dscores = ops.softmax_cross_entropy(scores, labels)
        self.last = dscores = ops.scale(dscores, factor=self.factor)
        return value, dscores if self.added is None else ops.add(dscores, self.added)


@devices
def test_a_callback_may_change_the_attributes_of_a_users_loss(captures, device):
    def run(graph):
        loss = Scaled()

        class Change(Callback):
            def on_epoch(self, trainer, record):
                loss.factor /= 2
                loss.added = asarray(np.full(3, 0.1 * trainer.epoch, np.float32), device)

        return fit(trainer(graph, device=device, loss=loss), train=loader(9, device=device), callbacks=[Change()])

    same_with_and_without_graph(run)
    assert captures["replays"] == 8 + 8  # in each of the two epochs, one of 9 steps runs uncaptured


def test_graphs_keep_the_arrays_that_a_step_of_another_shape_replaced(monkeypatch):
    class Recorder:
        def prepare(self, work):
            work()

        def capture(self, work):
            work()
            return lambda: None

        def release(self):
            pass

    monkeypatch.setattr(backends, "recorder", lambda device: Recorder())

    class Buffer:
        pass

    replay, of_loss = Replay(DEVICE, captured=True), [Buffer()]
    first = weakref.ref(of_loss[0])

    def replace():
        of_loss[0] = Buffer()

    replay.run(lambda: None, 2, shape=4, same=of_loss.copy)
    replay.run(replace, 2, shape=1, same=of_loss.copy)
    assert first() is not None
    replay.close()
    assert first() is None


@pytest.mark.parametrize("graph", [False, True])
def test_a_learning_rate_of_zero_takes_effect_at_the_next_step(graph):
    class Freeze(Callback):
        def on_step(self, trainer, record):
            if trainer.steps == 5:
                trainer.optimizer.lr = 0.0
                self.params = {key: np.array(to_numpy(value)) for key, value in trainer.net.params().items()}

    trained, freeze = trainer(graph, "sgd"), Freeze()
    fit(trained, epochs=1, callbacks=[freeze])
    assert toy_run.same_arrays(freeze.params, {key: to_numpy(value) for key, value in trained.net.params().items()})


@pytest.mark.slow
def test_a_replaced_array_triggers_a_new_capture(captures):
    class Replace(Callback):
        def on_epoch(self, trainer, record):
            layer = next(layer for layer in trainer.net.walk() if "weight" in layer.arrays)
            layer.arrays["weight"] = asarray(to_numpy(layer.arrays["weight"]) * 2, DEVICE)

    same_with_and_without_graph(lambda graph: fit(trainer(graph, "sgd")))
    without_replacement = len(captures["captured"])
    captures["captured"].clear()
    same_with_and_without_graph(lambda graph: fit(trainer(graph, "sgd"), callbacks=[Replace()]))
    assert len(captures["captured"]) > without_replacement


@pytest.mark.parametrize("steps", [0, -1, 0.5])
def test_a_next_step_that_is_no_positive_integer_is_refused(steps):
    class Never(Callback):
        def next_step(self, trainer):
            return steps

        def on_step(self, trainer, record):
            pass

    with pytest.raises((ValueError, TypeError), match=rf"the result of Never.next_step must be .*, received {steps}"):
        fit(trainer(False), callbacks=[Never()])


@pytest.mark.slow
def test_a_stopped_run_with_graphs_resumes_with_the_same_bits(tmp_path):
    class Stop(Callback):
        def next_step(self, trainer):
            return None

        def on_step(self, trainer, record):
            if trainer.steps == 13:
                trainer.stop("enough")

    uncaptured = fit(trainer(False))
    stopped = trainer(True)
    fit(stopped, run_dir=tmp_path / "run", callbacks=[Stop()], checkpoint_every=5)
    assert stopped.steps == 15  # checkpoints at 5, 10 and 15 end groups of steps; the stop came within the last group
    assert_same(uncaptured, fit(trainer(True), run_dir=tmp_path / "run", resume=True))


@pytest.mark.slow
def test_after_a_failed_capture_the_run_continues_with_one_message(monkeypatch):
    from gpuconv.backends.cuda.runtime.graph import EmulatedRecorder

    def full(self, work):
        raise MemoryError("no 12 bytes more")

    uncaptured, failing = trainer(False), trainer(True)
    fit(uncaptured)
    monkeypatch.setattr(EmulatedRecorder, "capture", full)
    with pytest.warns(UncapturedWarning, match=r"launch by launch: MemoryError: no 12 bytes more") as caught:
        fit(failing)
    assert len(caught) == 1
    assert_same(uncaptured, failing)


def test_a_user_defined_loader_runs_uncaptured_with_a_message():
    ours, theirs = trainer(True), trainer(True)
    fit(ours, train=loader(batch_size=5))
    with pytest.warns(UncapturedWarning, match="the batches come from a UserLoader"):
        fit(theirs, train=toy_run.UserLoader(loader(batch_size=5)))
    assert_same(ours, theirs)


def test_graph_true_on_numpy_is_refused():
    with pytest.raises(ValueError, match="graph=True captures the launches of a CUDA or the emulated device"):
        Trainer(toy_run.net(), graph=True)
