"""Names of algorithms that older versions stored."""

import json

import numpy as np
import pytest

from gpuconv import algorithms, checkpoint, ops
from gpuconv.backends import cpu
from gpuconv.layers import Conv2D, Flatten, Input, Layer, Linear, ReLU, Sequential
from gpuconv.training import RunDirectory, Trainer, load_net
from tests import toy_run

RENAMED = {"first-256x64": "few_channels-256x64", "first-256x32": "few_channels-256x32"}
renamed = pytest.mark.parametrize(("old", "new"), RENAMED.items())


@renamed
def test_an_op_accepts_an_old_name(monkeypatch, old, new):
    x, w, dy = (np.ones(shape, np.float16) for shape in ((2, 8, 8, 3), (4, 3, 3, 3), (2, 6, 6, 4)))
    expected = ops.conv2d(x, w)
    np.testing.assert_array_equal(ops.conv2d(x, w, algo=old), expected)
    for op, arrays, options, expected_algorithm in (
        ("conv2d", [x, w], {}, new),
        ("conv2d_relu", [x, w], {}, new),
        ("conv2d_wgrad", [dy, x], {"kernel_size": 3}, "auto"),
        ("conv2d_dgrad", [dy, w], {"input_shape": x.shape}, "auto"),
        ("conv2d_backward", [dy, x, w], {}, ("auto", "auto")),
    ):
        option = "algos" if op == "conv2d_backward" else "algo"
        family = getattr(cpu, ops.OPS[op].family)
        monkeypatch.setattr(family, op, lambda *arguments, option=option, **named: named[option])
        for name in (old, new, old.upper(), old.replace("-", "_")):
            assert getattr(ops, op)(*arrays, **options, algo=name) == expected_algorithm
    wide = np.ones((2, 8, 8, 5), np.float16)
    with pytest.raises(ValueError, match=f"algorithm '{new}' serves convolutions in one group of at most 4 channels"):
        ops.conv2d(wide, np.ones((4, 3, 3, 5), np.float16), algo=old)
    with pytest.raises(ValueError, match=f"algorithm '{new}' serves convolutions"):
        ops.linear(np.ones((5, 8), np.float32), np.ones((6, 8), np.float32), algo=old)


@renamed
def test_a_layer_accepts_an_old_name(old, new):
    assert Conv2D(4, 3, algo=old).algo == new
    config = Conv2D(4, 3, algo=new).config()
    assert config["algo"] == new
    assert Layer.from_config(config | {"algo": old}).config() == config


def test_old_names_are_not_suggested():
    with pytest.raises(ValueError, match="did you mean 'few_channels-256x64'") as raised:
        algorithms.full_name("few_channels-256x63")
    assert "first-" not in str(raised.value)


def test_a_run_with_a_stored_old_name_is_resumed(tmp_path):
    def trainer():
        layers = [Input((6, 5, 1)), Conv2D(4, 3, algo="few_channels-256x64"), ReLU(), Flatten(), Linear(3)]
        return Trainer(Sequential(layers, seed=1), "sgd", lr=0.1)

    def with_old_names(value):
        if isinstance(value, dict):
            return {key: with_old_names(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [with_old_names(entry) for entry in value]
        return "first-256x64" if value == "few_channels-256x64" else value

    begun, uninterrupted = (RunDirectory(tmp_path / name) for name in ("begun", "whole"))
    toy_run.fit(trainer(), epochs=2, run_dir=uninterrupted.path)
    toy_run.fit(trainer(), epochs=2, run_dir=begun.path, callbacks=[toy_run.StopAfterOne()])
    written = json.loads(begun.settings_file.read_text())
    begun.settings_file.write_text(json.dumps(with_old_names(written)))
    last = checkpoint.load(begun.last)
    checkpoint.save(begun.last, checkpoint.Checkpoint(last.tensors, with_old_names(last.state)))
    assert "first-256x64" in begun.settings_file.read_text()
    assert "first-256x64" in json.dumps(load_net(begun.last, trainer().net).state)
    resumed = trainer()
    toy_run.fit(resumed, epochs=2, run_dir=begun.path, resume=True)
    assert resumed.epoch == 2
    assert toy_run.same_arrays(resumed.net.state_dict(), checkpoint.load(uninterrupted.last).part("net"))
