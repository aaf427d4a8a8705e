"""Contents of run.json and checkpoints: invalid entries are named; entries that older versions lack have defaults."""

import copy
import json
import math

import pytest

from gpuconv import checkpoint
from gpuconv.training import CheckpointError, RunDirectory, SettingsError, compare_settings, load_net
from tests import toy_run
from tests.training.nested_values import changed

WRONG = [  # the entry of a checkpoint's state, its new value, the message
    ("net", ..., "net is missing"),
    ("net", {"layer": 3}, 'net must be a layer, received {"layer": 3}'),
    ("epoch", True, "epoch must be a whole number of at least 0, received true"),
    ("epoch", -1, "epoch must be a whole number"),
    ("epoch", 2**63, "epoch must be a whole number"),
    ("epoch", 1, "epoch is 1, and records has 2 epochs"),
    ("batch", "0", 'batch must be a whole number of at least 0, received "0"'),
    ("batch", 6, "batch is 6, and an epoch has 5 steps"),
    ("totals", [0.0], "totals must be 4 or 5 numbers, received [0.0]"),
    ("totals", [0.0, 0, 0, 0, 0], "the sums of this loss are 4 numbers, received 5"),
    ("read", [0, 0, 0, None], "read[3] must be a number, received null"),
    ("records", {}, "records must be a list, received {}"),
    ("records.0", 3, "records[0] must be an object"),
    ("records.0.event", ..., "records[0].event is missing"),
    ("records.0.loss", "low", 'records[0].loss must be a number, received "low"'),
    ("records.2.test_accuracy", ..., "test_accuracy is missing"),
    ("loss_scale", [1, 2], "loss_scale must be 4 numbers"),
    ("loss_scale", [1.0, 2, 3, 4], "loss_scale is [1.0, 2, 3, 4], but this run has none"),
    ("momentum", 1, "this version of gpuconv does not know momentum; use the version that wrote it"),
    ("settings", [], "settings must be an object, received []"),
]
WRONG_SETTINGS = [
    ("net", [], "settings.net must be a layer, received []"),
    ("epochs", 2.5, "settings.epochs must be a whole number of at least 0, received 2.5"),
    ("optimizer", "sgd", 'settings.optimizer must be an optimizer, received "sgd"'),
    ("loss", None, "settings.loss must be text, received null"),
    ("train.checksum", 7, "settings.train.checksum must be text, received 7"),
    ("train.shape.1", "5", 'settings.train.shape[1] must be a whole number of at least 0, received "5"'),
    ("test", [], "settings.test must be an object, received []"),
    ("options", None, "settings.options must be an object, received null"),
    ("swa", 0.9, "this version of gpuconv does not know settings.swa; use the version that wrote it"),
    ("train.workers", 2, "does not know settings.train.workers"),
]


def test_an_invalid_entry_of_a_checkpoint_is_named(finished, tmp_path):
    loaded, settings = finished
    run = RunDirectory.start(tmp_path / "run", settings)
    for path, new, message in [*WRONG, *((f"settings.{path}", new, message) for path, new, message in WRONG_SETTINGS)]:
        checkpoint.save(run.last, checkpoint.Checkpoint(loaded.tensors, changed(loaded.state, path, new)))
        trainer, before = toy_run.trainer(), run.last.read_bytes()
        with pytest.raises(CheckpointError) as error:
            toy_run.fit(trainer, epochs=2, run_dir=run.path, test=toy_run.held_out(), resume=True)
        assert str(error.value).startswith(f"{run.last}: ")
        assert message in str(error.value)
        assert "\n" not in str(error.value)
        assert (trainer.steps, run.last.read_bytes()) == (0, before)


def test_an_invalid_entry_of_run_json_is_named(finished, tmp_path):
    run = RunDirectory.start(tmp_path / "run", finished[1])
    valid = json.loads(run.settings_file.read_text())
    wrong = [(f"settings.{path}", new, message) for path, new, message in WRONG_SETTINGS]
    wrong += [
        ("format", ..., "format is missing"),
        ("settings", ..., "settings is missing"),
        ("gpuconv", 1, "gpuconv must be text, received 1"),
        ("host", "x", "does not know host"),
    ]
    for path, new, message in wrong:
        run.settings_file.write_text(json.dumps(changed(valid, path, new)))
        for read in (run.settings, lambda: toy_run.fit(toy_run.trainer(), run_dir=run.path, resume=True)):
            with pytest.raises(CheckpointError) as error:
                read()
            assert str(error.value).startswith(f"{run.settings_file}: ")
            assert message in str(error.value)
    for text in ("[" * 100_000, '{"format": 1, "settings": {"epochs": NaN}}', '{"format": 1, "settings": 1e999}', "[]"):
        run.settings_file.write_text(text)
        with pytest.raises(CheckpointError, match=r"run\.json: .*(nested too deeply|finite|JSON object)"):
            run.settings()


def test_a_setting_that_an_older_version_did_not_store_has_its_default(finished, tmp_path):
    loaded, settings = finished
    absent = [
        "precision",
        "loss_scale",
        "options",
        "net.layers.1.groups",
        "net.layers.1.fit",
        "net.layers.2.momentum",
        "optimizer.decay",
        "optimizer.beta2",
        "train.name",
    ]
    older = copy.deepcopy(loaded.state)
    for path in absent:
        older["settings"] = changed(older["settings"], path, ...)
        if path.startswith("net."):
            older = changed(older, path, ...)
    older.pop("loss_scale")
    run = RunDirectory.start(tmp_path / "run", older["settings"])
    checkpoint.save(run.last, checkpoint.Checkpoint(loaded.tensors, older))
    trainer = toy_run.trainer()
    toy_run.fit(trainer, epochs=2, run_dir=run.path, test=toy_run.held_out(), resume=True)
    assert trainer.epoch == 2
    assert compare_settings.setting_differences(checkpoint.load(run.last).state["settings"], settings) == []
    load_net(run.last, toy_run.net(seed=9))
    checkpoint.save(run.last, checkpoint.Checkpoint(loaded.tensors, older))
    with pytest.raises(SettingsError, match=r"optimizer\.beta2 is 0\.999 there and 0\.9 here"):
        toy_run.fit(toy_run.trainer(beta2=0.9), epochs=2, run_dir=run.path, test=toy_run.held_out(), resume=True)


def test_an_entry_of_a_newer_version_is_named(finished, tmp_path):
    loaded, settings = finished
    for path, message in [("net.layers.1.padding_mode", "padding_mode"), ("optimizer.amsgrad", "optimizer.amsgrad")]:
        run = RunDirectory.start(tmp_path / path, changed(settings, path, True))
        state = changed(loaded.state, f"settings.{path}", True)
        checkpoint.save(run.last, checkpoint.Checkpoint(loaded.tensors, state))
        with pytest.raises(SettingsError, match=f"{message} is true there and absent here"):
            toy_run.fit(toy_run.trainer(), epochs=2, run_dir=run.path, test=toy_run.held_out(), resume=True)


def test_settings_that_could_not_be_read_back_start_no_run(tmp_path):
    deep = json.loads("[" * 150 + "]" * 150)
    for options, message in (
        ({"x": math.nan}, "NaN is not a finite number"),
        ({"x": set()}, r"set\(\) \(set\) cannot be stored as JSON"),
        ({"deep": deep}, "nested too deeply"),
    ):
        with pytest.raises((CheckpointError, TypeError), match=message):
            toy_run.fit(toy_run.trainer(), epochs=1, run_dir=tmp_path / "run", settings=options)
        assert not (tmp_path / "run" / "run.json").exists()
