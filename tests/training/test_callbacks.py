"""Callbacks: the order of their events, the signatures of their hooks, and the step at which each has to act next."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gpuconv.notices import Notice
from gpuconv.training import Callback, CheckpointError, EarlyStopping, Trainer, callback_base, callbacks
from gpuconv.training.callbacks import Checkpoints, Curves, Progress
from gpuconv.training.logs import Log
from gpuconv.training.rundir import RunDirectory
from tests import toy_run


def test_next_step_is_the_number_of_steps_until_a_callback_has_to_act(tmp_path):
    """Until then a device may run ahead. A callback with a step hook acts at each step unless its own `next_step` says
    otherwise."""

    class Listens(Callback):
        def on_step(self, trainer, record):
            pass

    def ask(callback, steps):
        return callback_base.next_step(callback, SimpleNamespace(steps=steps))

    assert [ask(Callback(), 3), ask(Listens(), 3), ask(EarlyStopping(1), 3)] == [None, 1, None]
    assert [ask(SimpleNamespace(), 3), ask(SimpleNamespace(on_step=print), 3)] == [None, 1]
    callback = Callback()
    callback.on_step = print
    assert ask(callback, 3) == 1
    assert [ask(callback, 3) for callback in (Log(tmp_path), Progress(), Curves(tmp_path))] == [None] * 3
    run = RunDirectory(tmp_path)
    assert [ask(Checkpoints(run, 5), steps) for steps in (0, 3, 4, 5, 7)] == [5, 2, 1, 5, 3]
    assert ask(Checkpoints(run), 3) is None


class Listener(Callback):
    def __init__(self):
        self.events = []

    def on_start(self, trainer):
        self.events.append("start")

    def on_step(self, trainer, record):
        self.events.append(trainer.steps if record is None else (trainer.steps, record["event"]))

    def on_epoch(self, trainer, record):
        self.events.append((trainer.epoch, record["event"]))

    def on_stop(self, trainer, reason):
        self.events.append(reason)


def test_callbacks_receive_all_events_in_order():
    listener = Listener()
    toy_run.fit(toy_run.trainer(), epochs=1, metrics_every=3, callbacks=[listener])
    assert listener.events == ["start", 1, 2, (3, "step"), 4, 5, (1, "epoch"), "finished"]


def test_a_callback_stops_the_run_after_the_step():
    trainer, listener = toy_run.trainer(), Listener()
    toy_run.fit(trainer, callbacks=[toy_run.StopAt(7, "enough"), listener])
    assert (trainer.steps, trainer.stop_reason, listener.events[-1]) == (7, "enough", "enough")


def test_callbacks_are_told_about_a_failure():
    class Fail(Callback):
        def on_step(self, trainer, record):
            raise RuntimeError("broken callback")

    listener = Listener()
    with pytest.raises(RuntimeError, match="broken callback"):
        toy_run.fit(toy_run.trainer(), callbacks=[Fail(), listener])
    assert listener.events[-1] == "failed"


def test_only_started_callbacks_get_the_end_event_and_the_first_error_is_raised():
    class Broken(Callback):
        def on_start(self, trainer):
            raise RuntimeError("no start")

    class NoEnd(Callback):
        def on_stop(self, trainer, reason):
            raise OSError("no end")

    first, last = Listener(), Listener()
    with pytest.raises(RuntimeError, match="no start") as raised:
        toy_run.fit(toy_run.trainer(), callbacks=[NoEnd(), first, Broken(), last])
    assert (first.events, last.events) == (["start", "failed"], [])
    assert raised.value.__notes__ == ["NoEnd could not end: no end"]


def test_a_callback_need_not_have_every_method():
    class Steps:
        def __init__(self):
            self.seen = []

        def on_step(self, trainer, record):
            self.seen.append(trainer.steps)

    class Nothing:
        def on_epoch(self, trainer, record):
            pass

    steps = Steps()
    toy_run.fit(toy_run.trainer(), epochs=1, callbacks=[steps, Nothing()])
    assert steps.seen == [1, 2, 3, 4, 5]
    next_steps = [callback_base.next_step(callback, None) for callback in (steps, Nothing(), Callback(), Listener())]
    assert next_steps == [1, None, None, 1]


class UnknownHook:
    def on_epoch_ends(self, trainer, record):
        raise AssertionError


class NotCallable(Callback):
    on_step = None


class HookInOtherLetters(Callback):
    def on_Epoch(self, trainer, record):
        raise AssertionError


class MisspelledHook(Callback):
    def on_epochs(self, trainer, record):
        raise AssertionError

    def on_stop(self, trainer, reason):
        raise AssertionError


class HookWithoutTrainer:
    def on_start(self, trainer):
        pass

    def on_epoch(self, record):
        raise AssertionError


class HookWithMore(Callback):
    def on_stop(self, trainer, reason, more):
        raise AssertionError


def test_a_hook_of_another_signature_is_refused_before_anything_is_trained(tmp_path):
    trainer = Trainer(toy_run.net())
    before = {name: array.copy() for name, array in trainer.net.state_dict().items()}
    for wrong, message in (
        (HookWithoutTrainer(), r"HookWithoutTrainer.on_epoch is called with \(trainer, record\), but takes \(record\)"),
        (
            HookWithMore(),
            r"HookWithMore.on_stop is called with \(trainer, reason\), but takes \(trainer, reason, more\)",
        ),
    ):
        with pytest.raises(TypeError, match=message):
            trainer.fit(toy_run.loader(), epochs=1, callbacks=[wrong], run_dir=tmp_path / "run", progress=False)
    assert toy_run.same_arrays(trainer.net.state_dict(), before)
    assert not [*tmp_path.iterdir()]


def test_parameters_of_hooks_may_have_defaults_and_other_names():
    calls = []

    class Named:
        def on_step(self, *anything):
            calls.append(len(anything))

        def on_epoch(self, run, record, verbose=True):
            calls.append(record["epoch"])

    callback = Named()
    callback.on_start = calls.append  # a function written in C, set on the object only
    trainer = toy_run.trainer()
    toy_run.fit(trainer, callbacks=[callback], epochs=1)
    assert calls == [trainer, *[2] * trainer.batches, 1]


def test_callbacks_without_any_hook_or_with_an_unknown_one_are_refused():
    for wrong, message in (
        ([print], "any of on_start, .*received <built-in function print>"),
        ([EarlyStopping], r"the class EarlyStopping; call it"),
        ([None], "any of on_start, .*received None"),
        ([Callback()], "any of on_start, .*received <.*Callback"),
        ([UnknownHook()], r"UnknownHook.on_epoch_ends would never be called: .*did you mean 'on_epoch'"),
        ([HookInOtherLetters()], "HookInOtherLetters.on_Epoch would never be called: write on_epoch"),
        ([MisspelledHook()], r"MisspelledHook.on_epochs would never be called: .*did you mean 'on_epoch'"),
        ([NotCallable()], r"NotCallable.on_step must be a function of \(trainer, record\), received None"),
        (EarlyStopping(3), "a list, received EarlyStopping"),
    ):
        with pytest.raises(TypeError, match=message):
            toy_run.fit(toy_run.trainer(), callbacks=wrong)


def test_a_callback_that_fails_at_the_end_does_not_stop_the_others(tmp_path):
    reasons = []

    class FailingCallback(Callback):
        def on_stop(self, trainer, reason):
            raise RuntimeError("broken")

    class NextCallback(Callback):
        def on_stop(self, trainer, reason):
            reasons.append(reason)

    with pytest.warns(Notice, match="FailingCallback failed at the end of the run: RuntimeError: broken"):
        toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[FailingCallback(), NextCallback()])
    assert reasons == ["finished"]


def test_a_run_that_cannot_be_saved_at_its_end_raises_after_all_callbacks_ran(tmp_path, monkeypatch):
    reasons = []

    class StopWhenSavingFails(Callback):
        def on_step(self, trainer, record):
            if trainer.steps == 2:
                monkeypatch.setattr(callbacks, "save", refuse)
                trainer.stop("for now")

        def on_stop(self, trainer, reason):
            reasons.append(reason)

    def refuse(*_):
        raise CheckpointError("cannot write last.safetensors: No space left on device")

    with pytest.raises(CheckpointError, match="No space left"):
        toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[StopWhenSavingFails()])
    assert reasons == ["for now"]


def test_a_callback_that_calls_fit_of_its_trainer_is_refused():
    class Again:
        def on_epoch(self, trainer, record):
            toy_run.fit(trainer)

    trainer = toy_run.trainer()
    with pytest.raises(RuntimeError, match="fit of this trainer is running, and a callback cannot call it again"):
        toy_run.fit(trainer, callbacks=[Again()])
    toy_run.fit(trainer)
    assert trainer.epoch == 3
