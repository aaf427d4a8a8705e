"""`net.save` and `gpuconv.load`: a saved net preprocesses images as in training."""

import json
import os
import pickle

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import checkpoint
from gpuconv.layers import Dropout, Input, Linear, Sequential
from gpuconv.training import CheckpointError
from tests import small_nets


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(net, its run directory, test set)"""
    folder = tmp_path_factory.mktemp("saved") / "run"
    net, test = small_nets.trained_on_digits(folder)
    return net, folder, test


def accuracy(net, test):
    return float(np.mean(net.predict(test.images).argmax(axis=1) == test.labels))


def test_a_net_is_saved_and_loaded_with_all_that_predict_needs(trained, tmp_path):
    net, _, test = trained
    net.save(tmp_path / "net.safetensors")
    loaded = gc.load(tmp_path / "net.safetensors")
    assert loaded.config() == net.config()
    assert loaded.classes == list("0123456789")
    np.testing.assert_array_equal(loaded.normalization.mean, net.normalization.mean)
    np.testing.assert_array_equal(loaded.predict(test.images), net.predict(test.images))
    assert accuracy(loaded, test) > 0.7


def test_a_run_from_python_is_loaded_with_its_normalization(trained):
    _, run, test = trained
    assert accuracy(gc.load(run), test) > 0.7
    assert accuracy(gc.load(run, which="best"), test) > 0.7
    assert accuracy(gc.load(run / "last.safetensors"), test) > 0.7
    with pytest.raises(ValueError, match=r"unknown checkpoint 'bets'; did you mean 'best'\?"):
        gc.load(run, which="bets")


def test_files_that_are_not_saved_nets_are_refused(tmp_path):
    small_net = small_nets.untrained()
    with pytest.raises(FileNotFoundError, match=r"'nowhere' does not exist; a saved net or a run directory"):
        gc.load("nowhere")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        gc.load(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="is not a regular file"):
        gc.load(tmp_path / "pipe")
    file = tmp_path / "net.safetensors"
    small_net.save(file)
    content = file.read_bytes()
    file.write_bytes(content[:-5])
    with pytest.raises(CheckpointError, match="truncated"):
        gc.load(file)
    checkpoint.save(file, checkpoint.Checkpoint({}, {"other": 1}))
    with pytest.raises(CheckpointError, match="holds no net; its state has other"):
        gc.load(file)
    small_net["conv1"].save(file)
    with pytest.raises(CheckpointError, match=r"it is a Conv2D, not a Sequential; load_weights\(path, layer\)"):
        gc.load(file)
    gc.training.load_weights(file, small_net["conv1"])
    misspelled = checkpoint.Checkpoint({}, {"net": small_net.config() | {"layer": "Sequentail"}})
    checkpoint.save(file, misspelled)
    with pytest.raises(CheckpointError, match="did you mean 'Sequential'"):
        gc.load(file)


def test_numpy_numbers_in_a_net_are_saved_as_python_numbers(tmp_path):
    """A program may create Linear(labels.max() + 1), whose out_features is a NumPy number."""
    constant = {"name": "constant", "value": np.float32(0.5)}
    net = Sequential(
        [Input((np.int64(4),)), Dropout(np.float32(0.25)), Linear(np.int64(3)), Linear(2, weight_init=constant)]
    )
    assert repr(net[2]) == "Linear(out_features=3)"
    net[1].p = np.float32(0.5)
    json.dumps(net.config())
    net.save(tmp_path / "net.safetensors")
    assert gc.load(tmp_path / "net.safetensors").config() == net.config()


def test_a_net_without_weights_does_not_replace_a_saved_one(tmp_path):
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"kept")
    for net in (Sequential([Linear(2)]), Sequential([Input((3,)), Linear(2)], initialize=False)):
        with pytest.raises(RuntimeError, match=r"has no weights yet|has no array 'weight'"):
            net.save(file)
        assert file.read_bytes() == b"kept"


def test_save_writes_a_file_or_raises(tmp_path):
    small_net = small_nets.untrained()
    with pytest.raises(TypeError, match=r"save\(path\) writes the net to a file, received ndarray; .*self.stash"):
        small_net.save(np.zeros(3))
    with pytest.raises(TypeError, match="received no path"):
        small_net.save()
    with pytest.raises(IsADirectoryError, match="is a folder; save takes the name of a file"):
        small_net.save(tmp_path)
    with pytest.raises(RuntimeError, match="no array 'weight'"):
        gc.Sequential([Input((4,)), Linear(3)], initialize=False).save(tmp_path / "x.safetensors")
    assert not [*tmp_path.iterdir()]
    small_net.save(tmp_path / "x.safetensors")
    state = json.loads(checkpoint.dump(checkpoint.load(tmp_path / "x.safetensors").state))
    assert state["gpuconv"] == gc.__version__


@pytest.mark.parametrize("precision", ["float64", "tf32", "float16", "bfloat16"])
def test_a_saved_net_keeps_its_precision(tmp_path, precision):
    net = gc.models.build("seed-net", (8, 8, 1), precision=precision)
    net.save(tmp_path / "x.safetensors")
    loaded = gc.load(tmp_path / "x.safetensors")
    assert loaded.precision == precision
    for key, array in net.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[key], array)


def test_a_net_built_without_an_input_layer_is_built_after_loading(tmp_path):
    net = gc.Sequential([Linear(3)])
    net.build((4,))
    net.save(tmp_path / "x.safetensors")
    loaded = gc.load(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(loaded.predict(np.ones((1, 4), "f4")), net.predict(np.ones((1, 4), "f4")))


def test_a_copy_and_a_fused_net_keep_what_predict_needs(trained):
    net, _, test = trained
    for twin in (net.copy(), net.fuse()):
        assert twin.classes == net.classes
        np.testing.assert_allclose(twin.predict(test.images[:3]), net.predict(test.images[:3]), rtol=1e-4, atol=1e-4)


def test_the_error_for_an_argument_that_load_cannot_read_says_what_it_reads(tmp_path):
    with pytest.raises(TypeError, match="the path of a saved net or of a run directory, received int"):
        gc.load(3)
    pickled = tmp_path / "w.pt"
    pickled.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(CheckpointError, match=r"PyTorch file.*net\.load_state_dict\(gpuconv\.interop\.from_torch"):
        gc.load(pickled)
    np.savez(tmp_path / "w.npz", weight=np.zeros(3))
    with pytest.raises(CheckpointError, match=r"is a file of NumPy, .*net\.load_state_dict\(numpy\.load\(path\)\)"):
        gc.load(tmp_path / "w.npz")
    for name in ("digits-1", "digits-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"holds no run; the runs in it are digits-1, digits-2"):
        gc.load(tmp_path / "runs")


def test_the_error_for_a_pytorch_state_says_how_to_load_it():
    small_net = small_nets.untrained()
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"received Linear; gpuconv\.interop\.from_torch"):
        small_net.load_state_dict(torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"does not fit the net: .*from PyTorch.*gpuconv\.interop\.from_torch"):
        small_net.load_state_dict(torch.nn.Linear(2, 2).state_dict())


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "net.bin", "net.npz"])
def test_a_net_may_be_saved_under_any_name(name, tmp_path):
    net = small_nets.untrained()
    net.save(tmp_path / name)
    assert gc.load(tmp_path / name).config() == net.config()


def test_files_of_numpy_and_pytorch_are_recognized_by_their_contents(tmp_path):
    with open(tmp_path / "arrays", "wb") as file:
        np.savez(file, weight=np.zeros(3))
    with pytest.raises(CheckpointError, match="is a file of NumPy"):
        gc.load(tmp_path / "arrays")
    (tmp_path / "old").write_bytes(pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2))  # so an old torch.save begins
    with pytest.raises(CheckpointError, match="is a PyTorch file"):
        gc.load(tmp_path / "old")
    header = b'{"__metadata__":{}}'.ljust(0x80)  # in a safetensors file, whose first byte is then that of a pickle
    (tmp_path / "empty").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="empty") as found:
        gc.load(tmp_path / "empty")
    assert "PyTorch" not in str(found.value)
