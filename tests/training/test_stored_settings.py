"""Contents of run.json and checkpoints: invalid entries are named; entries that older versions lack have defaults."""

import copy
import itertools
import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

from gpuconv.layers import Flatten, Input, Layer, Linear, Sequential
from gpuconv.layers.base import Variable
from gpuconv.training import (
    SGD,
    CheckpointError,
    RunDirectory,
    SettingsError,
    Trainer,
    checkpoint,
    compare_settings,
    load_net,
    load_weights,
    run_schemas,
)
from tests.training import toy_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The checkpoint and the settings of a run of two epochs."""
    run = RunDirectory(tmp_path_factory.mktemp("stored") / "run")
    toy_run.fit(toy_run.trainer(), epochs=2, run_dir=run.path, test=toy_run.held_out())
    return checkpoint.load(run.last), run.settings()


def changed(value, path, new):
    """A copy with another value at a path such as "records.0.step"; without the entry where it is `...`."""
    value = copy.deepcopy(value)
    inner, *names = value, *path.split(".")
    for name in names[:-1]:
        inner = inner[int(name) if isinstance(inner, list) else name]
    if new is ...:
        del inner[names[-1]]
    else:
        inner[int(names[-1]) if isinstance(inner, list) else names[-1]] = new
    return value


WRONG = [  # the entry of a checkpoint's state, its new value, the message
    ("net", ..., "net is missing"),
    ("net", {"layer": 3}, 'net must be a layer, received {"layer": 3}'),
    ("epoch", True, "epoch must be a whole number of at least 0, received true"),
    ("epoch", -1, "epoch must be a whole number"),
    ("epoch", 2**63, "epoch must be a whole number"),
    ("epoch", 1, "epoch is 1, and records has 2 epochs"),
    ("batch", "0", 'batch must be a whole number of at least 0, received "0"'),
    ("batch", 5, "batch is 5, and an epoch has 5 batches"),
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


def test_nonfinite_weights_are_refused(finished, tmp_path):
    loaded, settings = finished
    run = RunDirectory.start(tmp_path / "run", settings)
    for name, value, message in [
        ("net.conv1.weight", np.nan, "conv1.weight holds NaN (2 of 36 values)"),
        ("net.fc1.bias", -np.inf, "fc1.bias holds infinity (2 of 3 values)"),
        ("net.norm1.running_mean", np.nan, "norm1.running_mean holds NaN (2 of 4 values)"),
    ]:
        tensors = {key: array.copy() for key, array in loaded.tensors.items()}
        tensors[name].flat[:2] = value
        checkpoint.save(run.last, checkpoint.Checkpoint(tensors, loaded.state))
        net = toy_run.net()
        before = {key: array.copy() for key, array in net.state_dict().items()}
        for read in (
            lambda net=net: load_net(run.last, net),
            lambda: toy_run.fit(toy_run.trainer(), epochs=2, run_dir=run.path, test=toy_run.held_out(), resume=True),
        ):
            with pytest.raises(CheckpointError) as error:
                read()
            assert str(error.value) == f"{run.last}: {message}"
        assert toy_run.same_arrays(net.state_dict(), before)


def test_weights_out_of_the_range_of_the_nets_dtype_are_refused(finished, tmp_path):
    loaded, _ = finished
    tensors = {key: array for key, array in loaded.tensors.items() if key.startswith("net.")}
    tensors["net.fc1.bias"] = np.array([0, 70000, 0], np.float64)
    path = tmp_path / "net.safetensors"
    checkpoint.save(path, checkpoint.Checkpoint(tensors, loaded.state))
    load_weights(path, toy_run.net())
    net = toy_run.net().to(precision="float16")
    before = {key: array.copy() for key, array in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"fc1\.bias holds 70000, which is out of the range of float16"):
        load_weights(path, net)
    assert toy_run.same_arrays(net.state_dict(), before)


@dataclass(eq=False, repr=False)
class Counter(Layer):
    """The identity, with a buffer of a given dtype."""

    kind: str = "int16"

    def plan(self, input_shape):
        def zeros(shape, dtype, **_):
            return np.zeros(shape, dtype)

        self.variables = {"seen": Variable((2,), zeros, buffer=True, dtype=self.kind)}
        return input_shape

    def forward(self, x, training=False):
        self.stash()
        self["seen"][...] += np.ones(2, self.kind)
        return x

    def backward(self, dy, *, input_grad=True):
        self.unstash()
        return dy


@pytest.mark.slow
def test_a_buffer_of_any_integer_dtype_is_resumed(tmp_path):
    def trainer(kind):
        layers = [Input((6, 5, 1)), Counter(kind), Flatten(), Linear(3)]
        return Trainer(Sequential(layers), "sgd", lr=0.01)

    for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"):
        first = trainer(kind)
        toy_run.fit(first, epochs=1, validation=None, run_dir=tmp_path / kind)
        second = trainer(kind)
        toy_run.fit(second, epochs=1, validation=None, run_dir=tmp_path / kind, resume=True)
        assert second.net.state_dict()["layer1.seen"].tolist() == [toy_run.STEPS_PER_EPOCH] * 2
    with pytest.raises(CheckpointError, match=r"cannot save .*net\.layer1\.seen is of dtype complex64"):
        toy_run.fit(trainer("complex64"), epochs=1, validation=None, run_dir=tmp_path / "complex")
    assert not (tmp_path / "complex" / "last.safetensors").exists()


def test_settings_that_could_not_be_read_back_start_no_run(tmp_path):
    for options, message in (
        ({"x": math.nan}, "NaN is not a finite number"),
        ([1], "options must be an object"),
        ({3: set()}, "set"),
        ({"deep": copy.deepcopy(DEEP)}, "nested too deeply"),
    ):
        with pytest.raises((CheckpointError, TypeError), match=message):
            toy_run.fit(toy_run.trainer(), epochs=1, run_dir=tmp_path / "run", settings=options)
        assert not (tmp_path / "run" / "run.json").exists()


DEEP = json.loads("[" * 150 + "]" * 150)


def test_numpy_numbers_and_the_largest_seed_can_be_resumed(tmp_path):
    def fit(resume):
        optimizer = SGD(lr=np.float32(0.01), momentum=np.float32(0.5), nesterov=np.True_)
        trainer = Trainer(toy_run.net(), optimizer, seed=2**64 - 1)
        return toy_run.fit(
            trainer,
            train=toy_run.loader(seed=2**64 - 1),
            epochs=np.int64(1),
            metrics_every=np.uint8(2),
            run_dir=tmp_path / "run",
            settings={"note": np.float64(3)},
            resume=resume,
        )

    assert fit(resume=False) == fit(resume=True)


def test_differences_name_the_keys():
    there = {"net": {"layers": [{"k": 3}, {"k": 5}]}, "lr": 0.1, "gone": 1, "same": [1]}
    here = {"net": {"layers": [{"k": 3}, {"k": 7}]}, "lr": 0.2, "same": [1], "new": True}
    assert compare_settings.differences(there, here) == [
        "net.layers[1].k is 5 there and 7 here",
        "lr is 0.1 there and 0.2 here",
        "gone is 1 there and absent here",
        "new is absent there and true here",
    ]


def test_differences_of_lists_name_the_first_entry_and_the_lengths():
    assert compare_settings.differences([{"k": 3}, 5, 6], [{"k": 4}, 5], "layers") == [
        "layers[0].k is 3 there and 4 here",
        "layers has 3 entries there and 2 here",
    ]
    assert compare_settings.differences([1, 2], [1], "layers") == ["layers has 2 entries there and 1 here"]
    assert not compare_settings.differences(json.loads('{"a": [1, {"b": null}]}'), {"a": [1, {"b": None}]})


def test_values_of_different_types_differ_as_a_whole():
    values = {'{"a": 1}': {"a": 1}, "[1]": [1], "5": 5, "null": None}
    for there, here in itertools.permutations(values, 2):
        assert compare_settings.differences(values[there], values[here], "x") == [f"x is {there} there and {here} here"]
    assert compare_settings.differences(1, 2) == ["it is 1 there and 2 here"]
    assert compare_settings.differences([1, 2, 5], [1, 3], "x") == [
        "x[1] is 2 there and 3 here",
        "x has 3 entries there and 2 here",
    ]


def test_stored_values_of_another_type_are_refused_with_their_place():
    fitting = {
        run_schemas.TEXT: ["", "x"],
        run_schemas.FLAG: [True, False],
        run_schemas.COUNT: [0, 2**63 - 1],
        run_schemas.OBJECT: [{}],
        run_schemas.NUMBER: [0, -1.5, 1e300],
        run_schemas.NUMBERS: [1, [], [1.5, [2]]],
        run_schemas.NOTHING: [None],
        run_schemas.LAYER: [{"layer": "ReLU"}],
        run_schemas.OPTIMIZER: [{"optimizer": "sgd"}],
    }
    others = {
        run_schemas.TEXT: [1, None],
        run_schemas.FLAG: [0, 1, None],
        run_schemas.COUNT: [-1, 2**63, 1.0, True, "1"],
        run_schemas.OBJECT: [[], None],
        run_schemas.NUMBER: [True, "1", math.nan, math.inf, -math.inf, 10**400, None],
        run_schemas.NUMBERS: [[1, "x"], [[math.nan]], {}, True],
        run_schemas.NOTHING: [0, ""],
        run_schemas.LAYER: [{}, {"layer": 1}, "ReLU"],
        run_schemas.OPTIMIZER: [{}, {"optimizer": None}, "sgd"],
    }
    for kind, values in fitting.items():
        for value in values:
            run_schemas.expect(value, kind, "x")
            run_schemas.expect([value], [kind], "x")
            run_schemas.expect({"y": value}, {"y": kind, "z": kind}, "x")
            run_schemas.expect(None, (kind, run_schemas.NOTHING), "x")
    for kind, values in others.items():
        for value in values:
            with pytest.raises(ValueError, match=f"^x must be {kind.words}, received "):
                run_schemas.expect(value, kind, "x")
            with pytest.raises(ValueError, match=rf"^x\[1\] must be {kind.words}, received "):
                run_schemas.expect([fitting[kind][0], value], [kind], "x")
            with pytest.raises(ValueError, match=rf"^x\.y must be {kind.words}, received "):
                run_schemas.expect({"y": value}, {"y": kind}, "x")
    with pytest.raises(ValueError, match=r"does not know x\.other"):
        run_schemas.expect({"other": 1}, {"y": run_schemas.COUNT}, "x")
