"""A run that is killed anywhere and resumed gives the same bits as one that never stopped."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from gpuconv.losses import SoftmaxCrossEntropy
from gpuconv.training import Callback, CheckpointError, SettingsError, Trainer, checkpoint, load_net
from gpuconv.training.callbacks import Curves
from gpuconv.training.interrupts import SIGNALS, Interrupts
from tests.training import toy_run

ROOT = Path(__file__).parents[2]
FILES = ("last.safetensors", "best.safetensors", "metrics.jsonl", "metrics.csv", "run.json")
STEPS = 4 * toy_run.STEPS_PER_EPOCH


def run(directory, kill_at=("never", 0), resume=False):
    """The exit status of a process of `run_to_kill`, which trains in the directory.

    kill_at: where the process kills itself: ("step", n) after step n, ("sync", n) in call n of fsync on a file, with
    half of the file written. resume: continue the run in the directory."""
    what, number = kill_at
    command = [sys.executable, "-m", "tests.training.run_to_kill", str(directory), what, str(number)]
    command += ["resume"] if resume else []
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def contents(directory):
    return {name: (directory / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The files of a run that was never stopped."""
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    assert run(directory) == 0
    return contents(directory)


@pytest.mark.slow
def test_a_run_killed_at_random_steps_resumes_with_the_same_bits(tmp_path, uninterrupted):
    draw = random.Random(7)
    steps = sorted(draw.sample(range(1, STEPS), 4))
    for number, step in enumerate(steps):
        assert run(tmp_path / "run", kill_at=("step", step), resume=number > 0) == -signal.SIGKILL
    assert run(tmp_path / "run", resume=True) == 0
    assert contents(tmp_path / "run") == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize("syncs", [(2, 3), (7, 4), (9, 6)], ids="sync {0[0]}, then {0[1]}".format)
def test_a_run_killed_while_writing_resumes_with_the_same_bits(tmp_path, uninterrupted, syncs):
    """syncs: in which call of fsync the first process is killed, and in which the second, which resumes the run."""
    for number, sync in enumerate(syncs):
        assert run(tmp_path / "run", kill_at=("sync", sync), resume=number > 0) == -signal.SIGKILL
    assert run(tmp_path / "run", resume=True) == 0
    assert contents(tmp_path / "run") == uninterrupted
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.slow
def test_a_run_killed_after_the_last_step_of_an_epoch_resumes_with_the_same_bits(tmp_path, uninterrupted):
    """A checkpoint is due then too: step 15 ends an epoch and is a multiple of checkpoint_every."""
    assert run(tmp_path / "run", kill_at=("step", 3 * toy_run.STEPS_PER_EPOCH)) == -signal.SIGKILL
    assert run(tmp_path / "run", resume=True) == 0
    assert contents(tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_a_run_killed_before_its_first_file_is_complete_can_be_started_again(tmp_path, uninterrupted):
    assert run(tmp_path / "run", kill_at=("sync", 1)) == -signal.SIGKILL
    assert run(tmp_path / "run") == 0
    assert contents(tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_a_partially_written_log_line_is_dropped(tmp_path, uninterrupted):
    assert run(tmp_path / "run", kill_at=("step", 13)) == -signal.SIGKILL
    with open(tmp_path / "run" / "metrics.jsonl", "ab") as file:
        file.write(b'{"event": "st')
    assert run(tmp_path / "run", resume=True) == 0
    assert contents(tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_resuming_a_finished_run_changes_nothing(tmp_path, uninterrupted):
    assert run(tmp_path / "run") == 0
    assert run(tmp_path / "run", resume=True) == 0
    assert contents(tmp_path / "run") == uninterrupted


@pytest.mark.slow
def test_a_run_stopped_after_any_step_resumes_with_the_same_bits(tmp_path, monkeypatch):
    """In one process: stop after a step, continue in a new trainer, and compare with an uninterrupted run."""
    monkeypatch.setattr(Curves, "on_stop", Callback.on_stop)  # 18 pictures would take too long

    uninterrupted = toy_run.trainer()
    toy_run.fit(uninterrupted, epochs=2)
    for step in range(1, 2 * toy_run.STEPS_PER_EPOCH):
        toy_run.fit(toy_run.trainer(), epochs=2, run_dir=tmp_path / f"{step}", callbacks=[toy_run.StopAt(step)])
        second = toy_run.trainer()
        toy_run.fit(second, epochs=2, run_dir=tmp_path / f"{step}", resume=True)
        assert second.records == uninterrupted.records, step
        assert toy_run.same_arrays(second.net.state_dict(), uninterrupted.net.state_dict()), step
        assert toy_run.same_arrays(second.optimizer.state_dict(), uninterrupted.optimizer.state_dict()), step


# --- what cannot be continued ------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    """The directory of a run that was stopped after one of three epochs."""

    class Stop(Callback):
        def on_epoch(self, trainer, record):
            trainer.stop("for now")

    toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[Stop()])
    return tmp_path / "run"


def relabeled():
    """The same images with other labels."""
    data = toy_run.images()
    return dataclasses.replace(data, labels=(data.labels + 1) % 3)


@pytest.mark.parametrize(
    ("trainer_options", "fit_options", "message"),
    [
        ({"lr": 0.02}, {}, "optimizer.lr is 0.01 there and 0.02 here"),
        ({"optimizer": "sgd"}, {}, 'optimizer.optimizer is "adam" there and "sgd" here'),
        ({"schedule": "cosine"}, {}, 'schedule is "one-cycle.*" there and "cosine.*" here'),
        ({"loss": "svm"}, {}, "loss is .*SoftmaxCrossEntropy.* there and .*SVMHinge"),
        ({"seed": 4}, {}, "net.seed is 0 there and 4 here.*; seed is 0 there and 4 here"),
        ({}, {"epochs": 5, "metrics_every": 3}, "epochs is 3 there and 5 here; .*metrics_every is 2 there and 3 here"),
        ({}, {"settings": {"data": "other"}}, 'options.data is absent there and "other" here'),
        ({}, {"train": toy_run.loader(seed=9)}, "train.seed is 3 there and 9 here"),
        ({}, {"train": toy_run.loader(batch_size=6)}, "train.batch_size is 5 there and 6 here"),
        ({}, {"train": toy_run.loader(toy_run.images(seed=8))}, "train.checksum is .* there and .* here"),
        ({}, {"train": toy_run.loader(relabeled())}, "train.checksum is .* there and .* here"),
        ({}, {"validation": None}, "validation is .* there and null here"),
    ],
    ids=[
        "rate",
        "optimizer",
        "schedule",
        "loss",
        "seed",
        "epochs",
        "settings",
        "loader's seed",
        "batch size",
        "images",
        "labels",
        "validation",
    ],
)
def test_different_settings_are_named_before_anything_changes(stored, trainer_options, fit_options, message):
    trainer = toy_run.trainer(**trainer_options)
    state, before = {name: value.copy() for name, value in trainer.net.state_dict().items()}, contents(stored)
    with pytest.raises(SettingsError, match=message):
        toy_run.fit(trainer, run_dir=stored, resume=True, **fit_options)
    assert toy_run.same_arrays(trainer.net.state_dict(), state)
    assert (trainer.steps, trainer.records) == (0, [])
    assert contents(stored) == before


def test_the_error_for_another_net_names_the_first_difference(stored):
    other = Trainer(toy_run.net(filters=5), "adam", lr=0.01, schedule="one-cycle")
    before = contents(stored)
    with pytest.raises(CheckpointError, match=r"of another net: layers\[1\]\.out_channels is 4 there and 5 here"):
        toy_run.fit(other, run_dir=stored, resume=True)
    assert contents(stored) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("net.conv1.weight"), "conv1.weight is missing"),
        (lambda t: t.update({"net.more": np.zeros(2)}), "more is not part of this net"),
        (lambda t: t.update({"net.conv1.bias": np.zeros(9, "f4")}), r"conv1.bias has shape \(9,\) there and \(4,\)"),
        (lambda t: t.update({"net.conv1.bias": np.zeros(4)}), "conv1.bias is float64 there and float32 here"),
        (lambda t: t.pop("optimizer.exp_avg.conv1.bias"), "'exp_avg.conv1.bias' is missing"),
    ],
)
def test_mismatched_arrays_are_named(stored, change, message):
    loaded = checkpoint.load(stored / "last.safetensors")
    change(loaded.tensors)
    checkpoint.save(stored / "last.safetensors", loaded)
    trainer = toy_run.trainer()
    state = {name: value.copy() for name, value in trainer.net.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        toy_run.fit(trainer, run_dir=stored, resume=True)
    assert toy_run.same_arrays(trainer.net.state_dict(), state)


def test_a_checkpoint_with_class_weights_but_no_sum_of_them_is_resumed(tmp_path):
    """Older versions averaged such losses over samples."""
    loss = SoftmaxCrossEntropy(weight=(1, 2, 3))
    toy_run.fit(toy_run.trainer(loss=loss), run_dir=tmp_path, callbacks=[toy_run.StopAt(7)])
    loaded = checkpoint.load(tmp_path / "last.safetensors")
    assert len(loaded.state["totals"]) == 5
    assert loaded.state["batch"] == 2
    for name in ("totals", "read"):
        loaded.state[name] = loaded.state[name][:4]
    checkpoint.save(tmp_path / "last.safetensors", loaded)
    resumed, uninterrupted = toy_run.trainer(loss=loss), toy_run.trainer(loss=loss)
    toy_run.fit(resumed, run_dir=tmp_path, resume=True)
    toy_run.fit(uninterrupted)
    assert toy_run.same_arrays(resumed.net.state_dict(), uninterrupted.net.state_dict())
    assert resumed.history[0] == uninterrupted.history[0]
    assert resumed.history[2] == uninterrupted.history[2]


def test_a_truncated_checkpoint_is_not_resumed(stored):
    path = stored / "last.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="truncated"):
        toy_run.fit(toy_run.trainer(), run_dir=stored, resume=True)


def test_a_directory_that_holds_a_run_is_not_overwritten(stored):
    before = contents(stored)
    with pytest.raises(FileExistsError, match="already holds a run"):
        toy_run.fit(toy_run.trainer(), run_dir=stored)
    assert contents(stored) == before


def test_a_directory_without_a_run_is_not_resumed(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        toy_run.fit(toy_run.trainer(), run_dir=tmp_path, resume=True)


def test_a_missing_checkpoint_is_reported_and_nothing_is_overwritten(stored):
    (stored / "last.safetensors").unlink()
    before = {path: path.read_bytes() for path in stored.iterdir()}
    trainer = toy_run.trainer()
    with pytest.raises(
        CheckpointError,
        match=r"last\.safetensors is missing, but the run had begun and wrote best.* Put the checkpoint back",
    ):
        toy_run.fit(trainer, run_dir=stored, resume=True)
    assert {path: path.read_bytes() for path in stored.iterdir()} == before
    (stored / "last.safetensors").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match=r"is missing"):
        toy_run.fit(trainer, run_dir=stored, resume=True)
    (stored / "last.safetensors").unlink()
    (stored / "best.safetensors").rename(stored / "last.safetensors")
    toy_run.fit(trainer, run_dir=stored, resume=True)
    assert trainer.epoch == 3


def test_a_run_killed_before_its_first_checkpoint_starts_over(stored, caplog):
    for path in stored.iterdir():
        if path.name != "run.json":
            path.unlink()
    with pytest.raises(SettingsError, match="epochs is 3 there and 4 here"):
        toy_run.fit(toy_run.trainer(), run_dir=stored, resume=True, epochs=4)
    trainer, uninterrupted = toy_run.trainer(), toy_run.trainer()
    toy_run.fit(trainer, run_dir=stored, resume=True)
    assert caplog.messages == [f"{stored} has no checkpoint yet; the run begins with its first step"]
    toy_run.fit(uninterrupted)
    assert trainer.records == uninterrupted.records


def test_weights_alone_can_be_loaded_into_a_net_of_any_seed(stored):
    net = toy_run.net(seed=5)
    loaded = load_net(stored / "last.safetensors", net)
    assert toy_run.same_arrays(net.state_dict(), loaded.part("net"))
    with pytest.raises(CheckpointError, match="another net"):
        load_net(stored / "last.safetensors", toy_run.net(filters=3))


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    def fill_up(*_):
        raise OSError(28, "No space left on device")

    class FillUp(Callback):
        def on_step(self, trainer, record):
            if trainer.steps == 7:
                self.kept = (tmp_path / "run" / "last.safetensors").read_bytes()
                monkeypatch.setattr(os, "fsync", fill_up)

    callback = FillUp()
    with pytest.raises(CheckpointError, match=r"cannot write .*(best|last)\.safetensors: No space left"):
        toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[callback])
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == callback.kept
    assert not list((tmp_path / "run").glob(".*"))
    monkeypatch.undo()
    trainer, uninterrupted = toy_run.trainer(), toy_run.trainer()
    toy_run.fit(trainer, run_dir=tmp_path / "run", resume=True)
    toy_run.fit(uninterrupted)
    assert trainer.records == uninterrupted.records


def test_a_partial_log_line_is_removed_when_the_disk_is_full(tmp_path):
    """The system takes 9 bytes of the second line and refuses the rest, as a full disk does."""
    resource = pytest.importorskip("resource")
    log, (soft, hard) = tmp_path / "run" / "metrics.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)

    class FillUp(Callback):
        def on_step(self, trainer, record):
            if trainer.steps == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 9, hard))

    try:
        with pytest.raises(CheckpointError, match=r"cannot write .*metrics\.jsonl: File too large"):
            toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[FillUp()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [2]


def test_a_checkpoint_within_an_epoch_stores_its_step(tmp_path):
    saved = {}

    class Look(Callback):
        def on_step(self, trainer, record):
            state = checkpoint.load(tmp_path / "run" / "last.safetensors").state
            saved[trainer.steps] = state["epoch"], state["batch"]

    toy_run.fit(toy_run.trainer(), epochs=1, run_dir=tmp_path / "run", checkpoint_every=2, callbacks=[Look()])
    assert saved == {1: (0, 0), 2: (0, 2), 3: (0, 2), 4: (0, 4), 5: (0, 4)}


def test_a_run_that_fails_saves_nothing_more(tmp_path):
    class Fail(Callback):
        def on_step(self, trainer, record):
            if trainer.steps == 7:
                raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        toy_run.fit(toy_run.trainer(), run_dir=tmp_path / "run", callbacks=[Fail()])
    state = checkpoint.load(tmp_path / "run" / "last.safetensors").state
    assert (state["epoch"], state["batch"]) == (1, 0)


# --- signals -----------------------------------------------------------------------------------


class Signal(Callback):
    """Sends a signal to this process after the given steps."""

    def __init__(self, number, *steps):
        self.number, self.steps = number, steps

    def on_step(self, trainer, record):
        for step in self.steps:
            if trainer.steps == step:
                signal.raise_signal(self.number)


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 5, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupt_finishes_the_step_saves_and_says_how_to_resume(tmp_path, capfd, caplog, number, step):
    caplog.set_level("INFO")
    before = [signal.getsignal(number) for number in SIGNALS]
    trainer = toy_run.trainer()
    toy_run.fit(trainer, run_dir=tmp_path / "run", callbacks=[Signal(number, step)])
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert (trainer.steps, trainer.stop_reason) == (step, "interrupted")
    assert f"{number.name}: finishing the step" in capfd.readouterr().err
    assert f"continue with: fit(..., run_dir={str(tmp_path / 'run')!r}, resume=True)" in caplog.text
    second, uninterrupted = toy_run.trainer(), toy_run.trainer()
    toy_run.fit(second, run_dir=tmp_path / "run", resume=True)
    toy_run.fit(uninterrupted)
    assert second.records == uninterrupted.records
    assert toy_run.same_arrays(second.net.state_dict(), uninterrupted.net.state_dict())


def test_a_second_interrupt_aborts_at_once(tmp_path):
    trainer = toy_run.trainer()
    with pytest.raises(KeyboardInterrupt):
        toy_run.fit(trainer, run_dir=tmp_path / "run", callbacks=[Signal(signal.SIGINT, 7, 7)])
    assert (trainer.steps, trainer.stop_reason) == (7, "failed")
    assert checkpoint.load(tmp_path / "run" / "last.safetensors").state["epoch"] == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_failure_restores_the_handlers():
    before = [signal.getsignal(number) for number in SIGNALS]

    class Fail(Callback):
        def on_step(self, trainer, record):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        toy_run.fit(toy_run.trainer(), callbacks=[Fail()])
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_training_in_another_thread_installs_no_signal_handlers():
    seen = []

    def work():
        with Interrupts(notice="not shown") as interrupts:
            seen.append((interrupts.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(None, signal.default_int_handler)]


class Thaw(Callback):
    """Unfreezes the first layer after one epoch, as in fine-tuning, and freezes the bias of the last one after two."""

    def on_epoch(self, trainer, record):
        if trainer.epoch == 1:
            trainer.net["conv1"].unfreeze()
        if trainer.epoch == 2:
            trainer.net["fc1"].frozen = "bias"


def thawing_run(run_dir, precision, stop_at=0, **options):
    """The trainer of a run that begins with a frozen first layer. stop_at: the step after which it stops; 0: none."""
    trainer = toy_run.trainer(precision=precision)
    trainer.net["conv1"].freeze()
    toy_run.fit(
        trainer,
        epochs=4,
        validation=None,
        callbacks=[Thaw(), toy_run.StopAt(stop_at, "enough")],
        run_dir=run_dir,
        checkpoint_every=1,
        train=toy_run.loader(dtype=precision),
        **options,
    )
    return trainer


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_layers_frozen_by_a_callback_are_frozen_after_resuming(tmp_path, precision):
    uninterrupted = thawing_run(tmp_path / "uninterrupted", precision)
    for step in (3, 7, 13):
        thawing_run(tmp_path / f"cut-{step}", precision, step)
        resumed = thawing_run(tmp_path / f"cut-{step}", precision, resume=True)
        assert toy_run.same_arrays(resumed.net.state_dict(), uninterrupted.net.state_dict())
        assert [layer.frozen for layer in resumed.net.walk()] == [layer.frozen for layer in uninterrupted.net.walk()]
        assert resumed.history == uninterrupted.history


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_refused_restore_changes_neither_frozen_layers_nor_the_optimizer(tmp_path, precision):
    thawing_run(tmp_path, precision)
    state = checkpoint.load(tmp_path / "last.safetensors")
    other = toy_run.trainer(precision=precision, optimizer="sgd")
    other.net["conv1"].freeze()
    other.optimizer.match(other.net.params())
    frozen, arrays = [layer.frozen for layer in other.net.walk()], other.optimizer.state_dict()
    other.epochs, other.batches, other.fit_settings = 4, toy_run.STEPS_PER_EPOCH, state.state["settings"]
    with pytest.raises(CheckpointError, match="does not match"):
        other.restore(state)
    assert [layer.frozen for layer in other.net.walk()] == frozen
    assert toy_run.same_arrays(other.optimizer.state_dict(), arrays)
