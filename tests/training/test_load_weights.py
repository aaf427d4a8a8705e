"""Weights of a checkpoint are loaded into a net, or refused."""

import numpy as np
import pytest

from gpuconv import checkpoint
from gpuconv.layers import Linear, Sequential
from gpuconv.training import CheckpointError, RunDirectory, load_net, load_weights
from tests import toy_run


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


def test_weights_alone_can_be_loaded_into_a_net_of_any_seed(stopped_run):
    net = toy_run.net(seed=5)
    loaded = load_net(stopped_run / "last.safetensors", net)
    assert toy_run.same_arrays(net.state_dict(), loaded.part("net"))
    with pytest.raises(CheckpointError, match="another net"):
        load_net(stopped_run / "last.safetensors", toy_run.net(filters=3))


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


def test_nets_and_files_without_what_loading_needs_are_refused(stopped_run, tmp_path):
    last = stopped_run / "last.safetensors"
    for load in (load_net, load_weights):
        with pytest.raises(RuntimeError, match="the net has no shapes yet"):
            load(last, Sequential([Linear(3)]))
        with pytest.raises(TypeError, match=r"a net must be a gpuconv\.Sequential or another layer, received str"):
            load(last, "net")
    bare = tmp_path / "bare.safetensors"
    checkpoint.save(bare, checkpoint.Checkpoint({"weight": np.ones(3)}, {"note": 1}))
    with pytest.raises(CheckpointError, match=r"bare\.safetensors holds no net; its state has note"):
        load_net(bare, toy_run.net())
