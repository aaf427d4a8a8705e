"""A watched run: pausing, saving, returning to a checkpoint, restarting, and one session per run."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest

pytest.importorskip("starlette")

from gpuconv import backends, checkpoint
from gpuconv.data import Samples
from gpuconv.layers import BatchNorm, Conv2D, Flatten, Linear, MaxPool2D, ReLU
from gpuconv.live import DataSplits, Session, attribution, pictures, snapshots, speed
from gpuconv.live.segment import Segment
from gpuconv.live.session import PAUSED, TRAINING
from gpuconv.training import RunDirectory
from tests import standin
from tests.live.sessions import CONV, LINEAR, HubWithClient, do, recipe_of, wait_for


def test_pause_stops_the_steps_and_go_continues(open_session):
    session = open_session()
    wait_for(session, lambda: session.trainer.steps > 5)
    do(session, "pause")
    paused_step = session.trainer.steps
    time.sleep(0.1)
    assert session.trainer.steps == paused_step
    assert session.state()["lr"] == session.trainer.lr
    assert session.state()["schedule"] == str(session.trainer.schedule)
    for number in range(1, 12):  # past the ends of epochs
        do(session, "step")
        wait_for(session, lambda: session.trainer.steps == paused_step + number)  # noqa: B023
    time.sleep(0.05)
    assert session.trainer.steps == paused_step + 11
    do(session, "go")
    wait_for(session, lambda: session.trainer.steps > paused_step + 30)


def test_a_run_in_use_by_another_session_can_be_viewed_but_not_changed(open_session):
    """`fit` holds the run's lock, and a change between two segments of a run needs it too."""
    writer = open_session(CONV)
    wait_for(writer, lambda: writer.trainer.steps > 3)
    assert do(writer, "save") == 1
    do(writer, "pause")
    watcher = open_session(CONV, run_dir=writer.run_dir)
    before = {path.name: path.read_bytes() for path in writer.run_dir.iterdir()}
    for request, arguments in (("change", {"settings": {"lr": 0.5}}), ("save", {}), ("load", {"number": 1})):
        with pytest.raises(checkpoint.CheckpointError, match="is being written by process"):
            do(watcher, request, **arguments)
    assert {path.name: path.read_bytes() for path in writer.run_dir.iterdir()} == before
    writer.close()
    do(watcher, "change", settings={"lr": 0.5})
    assert watcher.state()["settings"]["lr"] == 0.5


def test_a_run_can_return_to_a_saved_checkpoint(open_session):
    session = open_session()
    wait_for(session, lambda: session.trainer.steps > 3)
    do(session, "pause")
    step = session.trainer.steps
    weight = np.array(session.segment.net["fc1"]["weight"])
    assert do(session, "save") == 1
    do(session, "go")
    wait_for(session, lambda: session.trainer.steps > step + 5)
    for number in (2, 1.0, True):
        with pytest.raises(ValueError, match=rf"no checkpoint is saved as {number}; those saved are \[1\]"):
            do(session, "load", number=number)
    do(session, "load", number=1)
    wait_for(session, lambda: session.trainer.steps == step)
    assert np.array_equal(session.segment.net["fc1"]["weight"], weight)
    do(session, "step")
    wait_for(session, lambda: session.trainer.steps == step + 1)


def test_more_epochs_continue_a_finished_run(open_session):
    session = open_session(changes={"epochs": 1})
    wait_for(session, lambda: session.phase == "finished")
    with pytest.raises(ValueError, match="more epochs"):
        do(session, "go")
    do(session, "change", settings={"epochs": 3})
    wait_for(session, lambda: session.phase == PAUSED)
    do(session, "go")
    wait_for(session, lambda: session.phase == "finished")
    assert session.trainer.epoch == 3


def test_a_restart_prepares_the_same_net_again_but_no_other_net(open_session):
    def prepare(net):
        net["fc1.weight"][...] = 0

    session = open_session(start=False, prepare=prepare)
    for layers, prepared in ((None, True), ('[{"layer": "Flatten"}, {"layer": "Linear", "out_features": 10}]', False)):
        session.restart(layers)
        session.restart()
        assert bool(np.all(session.segment.net["fc1.weight"] == 0)) == prepared


def test_a_diverged_run_is_reported_and_can_restart(open_session):
    session = open_session(changes={"optimizer": {"optimizer": "sgd", "lr": 3e38}})
    wait_for(session, lambda: session.phase == "failed")
    assert "not finite" in session.message
    do(session, "change", settings={"lr": 0.01})
    do(session, "restart")
    wait_for(session, lambda: session.phase == "training" and session.trainer.steps > 3)


def test_a_single_step_that_fails_is_not_repeated(open_session, monkeypatch):
    tried = []

    def fail(*_):
        tried.append(1)
        raise MemoryError("no memory for the step")

    session = open_session(start=False)
    session.phase = PAUSED
    monkeypatch.setattr(Segment, "fit", fail)
    session.start()
    do(session, "step")
    wait_for(session, lambda: session.phase == "failed")
    assert (session.message, len(tried)) == ("no memory for the step", 1)


def test_a_missing_extra_is_named(monkeypatch):
    import sys

    from gpuconv import live

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r"gpuconv\[live\]"):
        live.expect_installed()


@pytest.mark.kernels
@pytest.mark.parametrize("device", ["emulated", "cuda, late", "cuda, early"])
def test_a_run_on_a_device_with_kernels_is_watched_and_changed(open_session, device):
    """The CUDA device is a stand-in, which runs the work of a stream as late or as early as CUDA allows."""
    name, _, schedule = device.partition(", ")
    with standin.installed(["90"], schedule=schedule) if schedule else contextlib.nullcontext():
        row = [Conv2D(2, 3), BatchNorm(), ReLU(), MaxPool2D(2), Flatten(), Linear(10)]
        session = open_session(row, device=backends.resolve(name), hub=HubWithClient())
        wait_for(session, lambda: session.trainer.steps > 10, seconds=60)
        do(session, "pause")
        step = session.trainer.steps
        for kind in pictures.DISPLAYS:
            do(session, "look", kind=kind, test=3)
        for kind in attribution.MAP_KINDS:
            do(session, "look", map=kind)
        assert do(session, "explain", layer="conv1", at=[1, 2, 0])["error"] < 1e-5
        do(session, "save")
        do(session, "change", settings={"optimizer": "adam", "lr": 0.001})
        do(session, "go")
        wait_for(session, lambda: session.trainer.steps > step + 10, seconds=60)
        do(session, "load", number=1)
        wait_for(session, lambda: session.trainer.steps == step, seconds=60)
        assert {"state", "curves", "picture", "examples", "scales", "map"} <= session.hub.put_names
        session.close()


def test_a_cancelled_request_is_not_done_and_the_next_one_is(open_session):
    session = open_session(start=False)
    cancelled, next_one = session.ask("pause"), session.ask("greet")
    assert cancelled.cancel()
    session.start()
    next_one.result(30)
    assert session.phase == TRAINING


class LabeledWhenRead(Samples):
    """The images of a data set, whose labels are known only when they are read."""

    def __init__(self, data):
        super().__init__(name="read", image_shape=data.image_shape, dtype=np.dtype(np.uint8), classes=data.classes)
        object.__setattr__(self, "data", data)

    def __len__(self):
        return len(self.data)

    def read(self, indices):
        return self.data.images[indices], self.data.labels[indices]


def test_a_test_set_whose_labels_are_known_only_when_read_is_shown(sets, tmp_path):
    recipe = recipe_of(LINEAR, epochs=1)
    session = Session(DataSplits(sets.train, None, LabeledWhenRead(sets.test)), recipe, device="numpy", home=tmp_path)
    assert session.view.truth == sets.test.labels[0]
    assert snapshots.examples(session.segment, session.sets) == snapshots.examples(session.segment, sets)


def test_a_read_that_returns_too_few_test_images_is_refused(sets):
    class Short(LabeledWhenRead):
        def read(self, indices):
            return super().read(indices[1:])

    with pytest.raises(ValueError, match=r"Short.read must return images of shape \(3, 8, 8, 1\) in uint8"):
        snapshots.first_labeled(Short(sets.test), 3)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_data_that_is_no_data_set_is_refused(sets, part):
    given = {"train": sets.train, "validation": None, "test": sets.test}
    with pytest.raises(TypeError, match=f"{part} must be a gpuconv.data.Dataset or Samples, received ndarray"):
        DataSplits(**given | {part: sets.train.images})
    if part != "validation":
        with pytest.raises(TypeError, match="received NoneType"):
            DataSplits(**given | {part: None})


def test_a_run_that_is_changed_or_closed_is_not_tested_before_it_is_saved(open_session, sets):
    session = open_session(recipe=recipe_of(LINEAR, test={"at_end": True}, epochs=2000))
    tested = []
    session.on_test = lambda trainer, record: tested.append(record)
    wait_for(session, lambda: session.trainer.steps > 3)
    do(session, "change", settings={"lr": 0.01})
    wait_for(session, lambda: session.state()["settings"]["lr"] == 0.01 and session.trainer.steps > 8)
    session.close()
    assert not tested
    saved = checkpoint.load(RunDirectory(session.run_dir).last).state
    assert (saved["epoch"], saved["batch"]) == (session.trainer.epoch, session.trainer.batch)


def test_a_request_to_a_session_that_has_ended_is_refused(open_session, monkeypatch):
    session = open_session(start=False)
    pending = session.ask("pause")
    session.close()
    with pytest.raises(RuntimeError, match="the session has ended"):
        pending.result(5)
    with pytest.raises(RuntimeError, match="the session has ended"):
        session.ask("pause")
    with pytest.raises(ValueError, match=r"the session has ended; make a new one, with run_dir=\.\.\. to continue"):
        session.start()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_session_whose_thread_fails_answers_no_more_requests(open_session, monkeypatch):
    def fail(*_, **options):
        raise MemoryError("no memory")

    session = open_session(start=False)
    pending = session.ask("save")
    monkeypatch.setattr(session.view, "show_all", fail)
    session.start()
    with pytest.raises(RuntimeError, match="the session has ended"):
        pending.result(20)


def test_without_browsers_no_step_runs_alone(open_session):
    session = open_session(start=False, hub=HubWithClient())
    session.hub.clients = 1
    session._show()
    assert session.view.waits_for_step
    session.hub.clients = 0
    assert not session.view.waits_for_step
    session._answers_after_step, session._began = False, time.perf_counter()
    session._after_step(session.trainer)
    session.hub.clients = 1
    assert not session.view.waits_for_step


def test_a_pause_does_not_count_in_the_speed(open_session, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    session = open_session(start=False)
    session._speed.begin(0)
    session.phase = PAUSED
    now[0] += 60
    session.go()
    now[0] += 1
    assert session._speed.at(10, 40) == 400


def test_the_folder_for_runs_may_be_text(open_session, tmp_path):
    session = open_session(start=False, home=str(tmp_path / "runs"))
    assert session.run_dir.parent == tmp_path / "runs"


def test_there_is_nothing_to_save_before_the_first_step(open_session):
    session = open_session(start=False)
    with pytest.raises(ValueError, match="nothing has been trained yet, so there is nothing to save"):
        session.save()
