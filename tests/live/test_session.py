"""A watched run can be controlled and changed, and resumes and repeats with the same bits."""

from __future__ import annotations

import contextlib
import itertools
import json
import time

import numpy as np
import pytest

pytest.importorskip("starlette")

from gpuconv import backends, checkpoint
from gpuconv.inspect.attribution_maps import map_stages
from gpuconv.layers import BatchNorm, Conv2D, Dropout, Flatten, Linear, MaxPool2D, ReLU, Residual
from gpuconv.live import attribution, pictures, setting_changes, snapshots
from gpuconv.live.budget import Budget, Limits
from gpuconv.live.session import PAUSED
from gpuconv.training import RunDirectory, schedules
from gpuconv.training.run_schemas import state
from tests import standin
from tests.live.conftest import LINEAR, do

CONV = [Conv2D(3, 3, padding=1), BatchNorm(), ReLU(), MaxPool2D(2), Flatten(), Dropout(0.5), Linear(10)]


def wait_for(session, condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, (session.phase, session.message)
        time.sleep(0.005)
    do(session, "greet")  # after the pending work is done


def weights_of(session):
    found = checkpoint.load(RunDirectory(session.run_dir).last)
    return {name: array.tobytes() for name, array in found.tensors.items()}


def records_of(run_dir):
    return state(checkpoint.load(RunDirectory(run_dir).last).state, run_dir)["records"]


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


def test_a_change_is_announced_stored_and_applied(open_session):
    session = open_session()
    wait_for(session, lambda: session.trainer.steps > 3)
    do(session, "pause")
    do(session, "change", settings={"lr": 0.01, "momentum": 0.8, "batch_size": 25})
    wait_for(session, lambda: session.trainer.optimizer.lr == 0.01)
    step = session.trainer.steps
    do(session, "step")
    wait_for(session, lambda: session.trainer.steps == step + 1)
    assert session.trainer.optimizer.momentum == 0.8
    assert session.segment.loaders["train"].batch_size == 25
    assert any(f"from step {step} on: lr 0.01" in line for line in session.view.log)
    session.close()
    assert setting_changes.changes_of(records_of(session.run_dir)) == [
        (step, {"lr": 0.01, "momentum": 0.8, "batch_size": 25})
    ]
    lines = [json.loads(line) for line in (session.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "change"] == [step]


def test_the_rate_of_the_next_step_is_shown_while_paused(open_session):
    session = open_session()
    wait_for(session, lambda: session.trainer.steps > 5)
    do(session, "pause")
    do(session, "change", settings={"lr": 0.004})
    wait_for(session, lambda: session.trainer.optimizer.lr == 0.004)
    session.trainer.schedule = schedules.get("linear")
    left = 1 - session.trainer.steps / session.trainer.total_steps
    assert 0 < left < 1
    assert session.state()["lr"] == pytest.approx(0.004 * left)


def test_a_new_rate_keeps_the_optimizer_state_and_a_new_optimizer_starts_fresh(open_session):
    session = open_session(changes={"optimizer": {"optimizer": "adam", "lr": 0.01}})
    wait_for(session, lambda: session.trainer.steps > 3)
    do(session, "pause")
    before = session.trainer.optimizer.state_dict()
    do(session, "change", settings={"lr": 0.5})
    wait_for(session, lambda: session.trainer.optimizer.lr == 0.5)
    after = session.trainer.optimizer.state_dict()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    do(session, "change", settings={"optimizer": "rmsprop"})
    wait_for(session, lambda: session.trainer.optimizer.name == "rmsprop")
    assert session.trainer.optimizer.lr == 0.5  # settings that both have are kept
    assert session.trainer.steps == before["steps"]


@pytest.mark.parametrize(
    "layers", [LINEAR, pytest.param(CONV, marks=pytest.mark.slow)], ids=["linear", "norm-and-dropout"]
)
def test_a_stopped_run_and_a_repeated_one_give_the_same_bits(open_session, layers):
    changes = [(7, {"lr": 0.02}), (13, {"batch_size": 30}), (15, {"optimizer": "adam", "lr": 0.003})]
    first = open_session(layers, repeat=changes, changes={"epochs": 6})
    wait_for(first, lambda: first.phase == "finished")
    assert setting_changes.changes_of(records_of(first.run_dir)) == changes
    again = open_session(layers, repeat=setting_changes.changes_of(records_of(first.run_dir)), changes={"epochs": 6})
    wait_for(again, lambda: again.phase == "finished")
    assert weights_of(again) == weights_of(first)
    stopped = open_session(layers, start=False, repeat=changes, changes={"epochs": 6})
    stopped.phase = PAUSED
    stopped.start()
    for _ in range(17):
        do(stopped, "step")
        do(stopped, "greet")
    wait_for(stopped, lambda: stopped.trainer.steps >= 15)
    stopped.close()
    recipe = checkpoint.load(RunDirectory(stopped.run_dir).last).state["settings"]
    resumed = open_session(recipe=recipe, run_dir=stopped.run_dir)
    assert resumed.phase == PAUSED
    do(resumed, "go")
    wait_for(resumed, lambda: resumed.phase == "finished")
    assert weights_of(resumed) == weights_of(first)


def test_refused_changes_change_nothing(open_session):
    session = open_session(CONV)
    wait_for(session, lambda: session.trainer.steps > 3)
    do(session, "pause")
    step, recipe = session.trainer.steps, session.segment.recipe
    for settings, message in [
        ({"lr": -1.0}, "lr"),
        ({"lr": "0.1"}, "lr"),
        ({"momentum": 1.5}, "momentum"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": 201}, "at most 200"),
        ({"optimizer": "sdg"}, "did you mean"),
        ({"epochs": 0}, "epochs"),
        ({"rate": 1}, "unknown setting"),
        ({"optimizer": "adam", "momentum": 0.5}, "momentum"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            do(session, "change", settings=settings)
    with pytest.raises((ValueError, TypeError)):
        do(session, "change", settings=3)
    assert (session.trainer.steps, session.segment.recipe) == (step, recipe)


def test_a_run_in_use_by_another_process_can_be_viewed_but_not_changed(open_session):
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


def test_an_edited_net_starts_a_new_run_and_an_invalid_one_names_its_layer(open_session):
    session = open_session(CONV)
    first = session.run_dir
    from gpuconv.live.request_parsing import LayerError

    twice = '{"layer": "ReLU", "name": "a"}'
    wide = '{"layer": "Conv2D", "out_channels": 1000000, "kernel_size": 1}'
    narrow = '{"layer": "Conv2D", "out_channels": 1, "kernel_size": 1}'
    many = ", ".join(['{"layer": "ReLU"}'] * 300)
    for text, layer, message in [
        ("[", None, "not JSON"),
        ("5", None, "list"),
        ("[]", None, "list"),
        ('[{"layer": "Conv3D"}]', 0, "unknown layer"),
        ('[{"layer": "ReLU"}, {"layer": "Conv2D", "out_channels": 4}]', 1, "kernel_size"),
        ('[{"layer": "Conv2D", "out_channels": 4, "kernel_size": 9}]', 0, "layer 1"),
        ('[{"layer": "Flatten"}, {"layer": "Linear", "out_features": 9}]', 1, "10 scores"),
        ('[{"layer": "Flatten"}, {"layer": "Linear", "out_features": 99999999}]', 1, "at most"),
        ('[{"layer": "Input", "shape": [8, 8, 1]}]', 0, "input"),
        (f'[{twice}, {twice}, {{"layer": "Flatten"}}, {{"layer": "Linear", "out_features": 10}}]', None, "named 'a'"),
        ("[[[[[]]]]]", 0, "layer 1"),
        (f'[{{"layer": "Residual", "body": [{wide}, {narrow}]}}]', 0, "Conv2D .* gives 64,000,000 values; at most"),
        (f'[{{"layer": "Residual", "body": [{many}]}}, {{"layer": "Residual", "body": [{many}]}}]', 1, "500 layers"),
    ]:
        with pytest.raises(LayerError, match=message) as caught:
            do(session, "restart", layers=text)
        assert caught.value.layer == layer, text
    assert session.run_dir == first
    do(session, "restart", layers='[{"layer": "Flatten"}, {"layer": "Linear", "out_features": 10}]')
    wait_for(session, lambda: session.run_dir != first and session.trainer.steps > 3)
    assert [type(layer).__name__ for layer in session.segment.net] == ["Input", "Flatten", "Linear"]


def test_the_written_form_of_a_net_is_read_back():
    from gpuconv.layers import Input, Sequential
    from gpuconv.live.request_parsing import read_net, write_net

    inner = [Conv2D(3, 3, padding=((1, 1), (1, 1)), bias=False), BatchNorm(eps=1e-3)]
    net = Sequential([Input((8, 8, 1)), *CONV[:3], Residual(inner), *CONV[3:]], initialize=False)
    assert read_net(write_net(net.config()), (8, 8, 1), 10, 0) == net.config()


def test_a_run_can_return_to_a_saved_checkpoint(open_session):
    session = open_session()
    wait_for(session, lambda: session.trainer.steps > 3)
    do(session, "pause")
    step = session.trainer.steps
    weight = np.array(session.segment.net["fc1"]["weight"])
    assert do(session, "save") == 1
    do(session, "go")
    wait_for(session, lambda: session.trainer.steps > step + 5)
    with pytest.raises(ValueError, match=r"saved are \[1\]"):
        do(session, "load", number=2)
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


def test_a_diverged_run_is_reported_and_can_restart(open_session):
    session = open_session(changes={"optimizer": {"optimizer": "sgd", "lr": 3e38}})
    wait_for(session, lambda: session.phase == "failed")
    assert "not finite" in session.message
    do(session, "change", settings={"lr": 0.01})
    do(session, "restart")
    wait_for(session, lambda: session.phase == "training" and session.trainer.steps > 3)


def test_watching_a_run_does_not_change_its_bits(open_session):
    """Snapshots, gradients, maps and explanations are computed between two steps."""
    alone = open_session(CONV, changes={"epochs": 8})
    wait_for(alone, lambda: alone.phase == "finished")
    watched = open_session(CONV, start=False, changes={"epochs": 8})
    watched.view.hub = HubWithClient()
    watched.view.budget = Budget({name: Limits(0.0, 1.0) for name in watched.view.budget.limits})
    watched.start()
    maps = itertools.cycle(attribution.KINDS)
    while watched.phase != "finished":
        for kind in pictures.KINDS:
            do(watched, "look", kind=kind, test=3, map=next(maps))
        assert do(watched, "explain", layer="conv1", at=[1, 2, 0])["error"] < 1e-4
    assert weights_of(watched) == weights_of(alone)
    assert {
        "state",
        "curves",
        "picture",
        "examples",
        "scales",
        "confusion",
        "net",
        "log",
        "map",
    } <= watched.hub.put_names


class HubWithClient:
    """A hub with a client that never reads."""

    clients = 1

    def __init__(self):
        self.put_names = set()

    def put(self, name, message):
        self.put_names.add(name)


def test_snapshots_take_no_more_than_their_share_of_time():
    now = [0.0]
    budget = Budget({"picture": Limits(every=0.1, share=0.02)}, clock=lambda: now[0])
    spent = 0.0
    for _ in range(100_000):
        now[0] += 0.001
        if budget.due("picture"):
            with budget.spend("picture"):
                now[0] += 0.05
                spent += 0.05
    assert 0.019 < spent / now[0] < 0.0202  # above 0.02 until the time of the last picture is made up for
    quick = Budget({"state": Limits(every=0.1, share=0.02)}, clock=lambda: now[0])
    seen = 0
    for _ in range(769):  # steps in 10 s
        now[0] += 0.013
        if quick.due("state"):
            with quick.spend("state"):
                seen += 1
    assert 98 <= seen <= 101


def test_a_missing_extra_is_named(monkeypatch):
    import sys

    from gpuconv import live

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ImportError, match=r"gpuconv\[live\]"):
        live.expect_installed()


def test_a_picture_that_fails_is_reported_once_and_training_continues(open_session, monkeypatch):
    from gpuconv.live import snapshots

    def broken(*_):
        raise ValueError("no picture")

    monkeypatch.setattr(snapshots, "picture", broken)
    session = open_session()
    for _ in range(5):
        do(session, "look", kind="filters")
    steps = session.trainer.steps
    wait_for(session, lambda: session.trainer.steps > steps + 5)
    assert [line for line in session.view.log if "cannot show" in line] == ["cannot show picture: no picture"]


def test_an_image_of_a_single_gray_is_shown(open_session):
    session = open_session(CONV)
    for gray in range(0, 256, 5):
        do(session, "look", image=np.full((8, 8, 1), gray, np.uint8))
    assert not [line for line in session.view.log if "cannot show" in line]


def test_a_net_with_an_optimizer_of_groups_trains_and_changes(open_session):
    groups = {"optimizer": "groups", "groups": "filters -> muon:lr=0.02; * -> sgd:lr=0.05", "lr": 1.0}
    session = open_session(CONV, changes={"optimizer": groups})
    wait_for(session, lambda: session.trainer.steps > 3)
    do(session, "change", settings={"lr": 0.5})
    wait_for(session, lambda: session.trainer.optimizer.lr == 0.5 and session.trainer.steps > 10)
    with pytest.raises((ValueError, TypeError), match="momentum"):
        do(session, "change", settings={"momentum": 0.5})


def test_a_change_continues_the_epoch_and_another_optimizer_starts_with_empty_state(open_session):
    """The epoch continues with whole batches of the new size."""
    session = open_session(start=False, changes={"optimizer": {"optimizer": "adam", "lr": 0.01}})
    session.phase = PAUSED
    session.start()
    for count in (1, 2, 3):
        do(session, "step")
        wait_for(session, lambda: session.trainer.steps == count)  # noqa: B023
    do(session, "change", settings={"batch_size": 25})
    wait_for(session, lambda: session.segment.loaders["train"].batch_size == 25)
    assert session.trainer.batch == 120 // 25
    before = session.trainer.optimizer.state_dict()
    assert any(value.any() for name, value in before.items() if name != "steps")
    do(session, "change", settings={"optimizer": "adamw"})
    wait_for(session, lambda: session.trainer.optimizer.name == "adamw")
    after = session.trainer.optimizer.state_dict()
    assert before.keys() == after.keys()
    assert not any(value.any() for name, value in after.items() if name != "steps")


def test_a_stored_change_is_checked_like_the_rest_of_a_checkpoint(open_session):
    session = open_session()
    wait_for(session, lambda: session.trainer.steps > 3)
    do(session, "change", settings={"lr": 0.01})
    wait_for(session, lambda: session.trainer.optimizer.lr == 0.01)
    session.close()
    found = checkpoint.load(RunDirectory(session.run_dir).last).state
    change = next(record for record in found["records"] if record["event"] == "change")
    state(found, "here")
    for name in ("settings", "step"):
        value = change.pop(name)
        with pytest.raises(checkpoint.CheckpointError, match=f"{name} is missing"):
            state(found, "here")
        change[name] = value


def map_of(session):
    """The header and the values of the newest map."""
    frame = session.hub.get("map")[1]
    length = int.from_bytes(frame[:4], "little")
    head = json.loads(frame[4 : 4 + length])
    return head, np.frombuffer(frame[4 + length :], np.int8)


@pytest.mark.parametrize("kind", [kind for kind in attribution.KINDS if kind != "none"])
def test_a_map_of_the_image_is_finished_while_paused(open_session, kind):
    session = open_session(CONV)
    do(session, "pause")
    do(session, "look", test=2, map=kind)
    wait_for(session, lambda: not session.view.attribution.unfinished)
    head, values = map_of(session)
    assert (head["map"], head["step"], head["error"]) == (kind, session.trainer.steps, "")
    net, x = session.segment.net, snapshots.normalize_images(session.segment, session.view.image[None])
    *_, found = map_stages(kind, net, x, target=head["target"], batch=64)
    flat = np.abs(found).max(axis=2) if found.ndim == 3 else found
    expected = np.frombuffer(pictures.pack({}, [pictures.plane("", flat)]), np.int8)[-values.size :]
    np.testing.assert_allclose(values.astype(int), expected.astype(int), atol=1)
    assert values.any()


def test_an_occlusion_is_made_in_parts_between_steps(open_session):
    session = open_session(CONV)
    session.view.hub = HubWithClient()
    wait_for(session, lambda: session.trainer.steps > 2)
    do(session, "look", map="occlusion")
    assert session.view.attribution.unfinished
    steps = session.trainer.steps
    wait_for(session, lambda: session.trainer.steps > steps + 5)


def test_a_map_that_cannot_be_made_shows_its_error(open_session, monkeypatch):
    def refused(*_, **__):
        raise ValueError("no maps")
        yield

    monkeypatch.setattr(attribution, "map_stages", refused)
    session = open_session()
    do(session, "look", map="grad-cam")
    wait_for(session, lambda: session.hub.get("map") is not None)
    assert map_of(session)[0]["error"] == "no maps"
    steps = session.trainer.steps
    wait_for(session, lambda: session.trainer.steps > steps + 5)
    with pytest.raises(ValueError, match="map must be one of none, saliency, occlusion, grad-cam, received 'heat'"):
        do(session, "look", map="heat")


def test_a_pause_refreshes_all_pictures(open_session):
    session = open_session(start=False)
    session.view.budget = Budget({name: Limits(1000.0, 1.0) for name in session.view.budget.limits})
    session.start()
    while session.trainer.steps < 3:
        time.sleep(0.005)
    before = {name: session.hub.get(name)[0] for name in ("picture", "examples", "curves")}
    do(session, "pause")
    end = time.monotonic() + 20
    while any(session.hub.get(name)[0] <= number for name, number in before.items()):
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.kernels
@pytest.mark.parametrize("device", ["emulated", "cuda, late", "cuda, early"])
def test_a_run_on_a_device_with_kernels_is_watched_and_changed(open_session, device):
    """CUDA is the stand-in for CuPy, which runs the work of a stream as late or as early as CUDA allows."""
    name, _, schedule = device.partition(", ")
    with standin.installed(["90"], schedule=schedule) if schedule else contextlib.nullcontext():
        row = [Conv2D(2, 3), BatchNorm(), ReLU(), MaxPool2D(2), Flatten(), Linear(10)]
        session = open_session(row, device=backends.resolve(name), hub=HubWithClient())
        wait_for(session, lambda: session.trainer.steps > 10, seconds=60)
        do(session, "pause")
        step = session.trainer.steps
        for kind in pictures.KINDS:
            do(session, "look", kind=kind, test=3)
        for kind in attribution.KINDS:
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
