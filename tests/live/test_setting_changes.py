"""Settings that are changed while a run trains: applied, stored, repeated with the same bits, or refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gpuconv import checkpoint
from gpuconv.live import setting_changes
from gpuconv.live.session import PAUSED
from gpuconv.training import RunDirectory, optimizers, schedules
from gpuconv.training.run_schemas import state
from tests.live.sessions import CONV, LINEAR, checkpoint_arrays_of, do, recipe_of, records_of, wait_for


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


def test_a_new_rate_keeps_the_optimizer_state_and_another_optimizer_keeps_the_rate_and_the_step_number(open_session):
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
    assert session.trainer.optimizer.lr == 0.5  # settings that both optimizers have are kept
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
    assert checkpoint_arrays_of(again) == checkpoint_arrays_of(first)
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
    assert checkpoint_arrays_of(resumed) == checkpoint_arrays_of(first)


def test_changes_requested_before_the_same_step_are_all_made(open_session):
    session = open_session(start=False)
    answers = [session.ask("change", settings=settings) for settings in ({"lr": 0.02}, {"momentum": 0.5})]
    session.start()
    for answer in answers:
        answer.result(30)
    wait_for(session, lambda: session.trainer.steps > 3)
    settings = session.state()["settings"]
    assert (settings["lr"], settings["momentum"]) == (0.02, 0.5)


def test_changes_at_the_same_step_are_repeated_at_that_step(open_session):
    changes = [(3, {"lr": 0.02}), (3, {"momentum": 0.5}), (5, {"lr": 0.01})]
    session = open_session(repeat=changes, changes={"epochs": 2})
    wait_for(session, lambda: session.phase == "finished")
    assert setting_changes.changes_of(records_of(session.run_dir)) == changes


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


def test_another_spelling_of_the_optimizer_changes_nothing_and_a_setting_given_twice_is_refused():
    recipe = recipe_of(LINEAR, optimizer=optimizers.get("sgd", lr=0.05, momentum=0.9, nesterov=True).config())
    assert setting_changes.change_recipe(recipe, {"optimizer": "SGD"}, images=200) == recipe
    changed = setting_changes.change_recipe(recipe, {"optimizer": "AdamW"}, images=200)
    assert (changed["optimizer"]["optimizer"], changed["optimizer"]["lr"]) == ("adamw", 0.05)
    with pytest.raises(ValueError, match="lr is given twice"):
        setting_changes.change_recipe(recipe, {"lr": 0.1, "LR": 0.2}, images=200)
    with pytest.raises(ValueError, match="unknown optimizer 'sgdd'; did you mean 'sgd'"):
        setting_changes.change_recipe(recipe, {"optimizer": "sgdd"}, images=200)
