"""`net.save`, `gpuconv.load` and `net.predict`: a net goes into a file and sees images as it did in training."""

import json

import numpy as np
import pytest
from PIL import Image

import gpuconv as gc
from gpuconv import checkpoint
from gpuconv.layers import Conv2D, Flatten, Input, Linear, ReLU
from gpuconv.training import CheckpointError


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(net, its run directory, test set): digits, in seconds, right for most."""
    train, test = gc.data.load("digits")
    net = gc.models.build("seed-net", (8, 8, 1))
    folder = tmp_path_factory.mktemp("saved") / "run"
    gc.Trainer(net, "adam", lr=3e-3).fit(train.subset(slice(800)), epochs=3, progress=False, run_dir=folder)
    return net, folder, test


@pytest.fixture
def small():
    return gc.Sequential([Input((4, 4, 3)), Conv2D(2, 3), ReLU(), Flatten(), Linear(5)], seed=3)


def right(net, test):
    return float(np.mean(net.predict(test.images).argmax(axis=1) == test.labels))


def test_a_net_is_saved_and_loaded_with_all_that_predict_needs(trained, tmp_path):
    net, _, test = trained
    net.save(tmp_path / "net.safetensors")
    again = gc.load(tmp_path / "net.safetensors")
    assert again.config() == net.config()
    assert again.classes == list("0123456789")
    np.testing.assert_array_equal(again.normalization.mean, net.normalization.mean)
    np.testing.assert_array_equal(again.predict(test.images), net.predict(test.images))
    assert right(again, test) > 0.7


def test_a_run_from_python_is_loaded_with_its_normalization(trained):
    _, run, test = trained
    assert right(gc.load(run), test) > 0.7
    assert right(gc.load(run, which="best"), test) > 0.7
    assert right(gc.load(run / "last.safetensors"), test) > 0.7
    with pytest.raises(ValueError, match=r"unknown checkpoint 'bets'; did you mean 'best'\?"):
        gc.load(run, which="bets")


def test_what_is_no_saved_net_is_refused(tmp_path, small):
    with pytest.raises(FileNotFoundError, match=r"'nowhere' does not exist; a saved net or a run directory"):
        gc.load("nowhere")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        gc.load(tmp_path)
    file = tmp_path / "net.safetensors"
    small.save(file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    with pytest.raises(CheckpointError, match="truncated"):
        gc.load(file)
    checkpoint.save(file, checkpoint.Checkpoint({}, {"other": 1}))
    with pytest.raises(CheckpointError, match="holds no net; its state has other"):
        gc.load(file)
    found = checkpoint.Checkpoint({}, {"net": small.config() | {"layer": "Sequentail"}})
    checkpoint.save(file, found)
    with pytest.raises(CheckpointError, match="did you mean 'Sequential'"):
        gc.load(file)


def test_save_writes_a_file_or_says_why_not(tmp_path, small):
    with pytest.raises(TypeError, match=r"save\(path\) writes the net to a file, received ndarray; .*self.stash"):
        small.save(np.zeros(3))
    with pytest.raises(IsADirectoryError, match="is a folder; save takes the name of a file"):
        small.save(tmp_path)
    with pytest.raises(RuntimeError, match="no array 'weight'"):
        gc.Sequential([Linear(3)], initialize=False).build((4,)) and gc.Sequential(
            [Input((4,)), Linear(3)], initialize=False
        ).save(tmp_path / "x.safetensors")
    assert not [*tmp_path.iterdir()]
    small.save(tmp_path / "x.safetensors")
    state = json.loads(checkpoint.dump(checkpoint.load(tmp_path / "x.safetensors").state))
    assert state["gpuconv"] == gc.__version__


@pytest.mark.parametrize("precision", ["float64", "tf32", "float16", "bfloat16"])
def test_a_saved_net_keeps_its_precision(tmp_path, precision):
    net = gc.models.build("seed-net", (8, 8, 1), precision=precision)
    net.save(tmp_path / "x.safetensors")
    again = gc.load(tmp_path / "x.safetensors")
    assert again.precision == precision
    for key, array in net.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[key], array)


def test_a_row_built_by_hand_is_loaded_built(tmp_path):
    net = gc.Sequential([Linear(3)])
    net.build((4,))
    net.save(tmp_path / "x.safetensors")
    again = gc.load(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(again.predict(np.ones((1, 4), "f4")), net.predict(np.ones((1, 4), "f4")))


def test_predict_takes_images_as_they_come(trained, tmp_path):
    net, _, test = trained
    images = test.images[:5]
    scores = net.predict(images)
    normalised = net.normalization(images)
    np.testing.assert_array_equal(net.predict(normalised), scores)
    for dtype in ("float16", "float64"):
        np.testing.assert_allclose(net.predict(normalised.astype(dtype)), scores, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(net.predict(images.astype("f8"), normalize=True), scores, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(net.predict(list(images)), scores)
    np.testing.assert_array_equal(net.predict(images[..., 0]), scores)  # grey images without their axis
    for one in (images[0], images[0, ..., 0]):
        np.testing.assert_allclose(net.predict(one), scores[0], rtol=1e-5, atol=1e-5)
    files = [tmp_path / f"{number}.png" for number in range(5)]
    for file, image in zip(files, images):
        Image.fromarray(image[..., 0]).save(file)
    np.testing.assert_array_equal(net.predict(files), scores)
    np.testing.assert_allclose(net.predict(str(files[0])), scores[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(net.predict(Image.open(files[1])), scores[1], rtol=1e-5, atol=1e-5)
    assert net.predict([]).shape == (0, 10)


def test_the_best_classes_by_name(trained):
    net, _, test = trained
    net.classes = [f"digit {number}" for number in range(10)]
    best = net.predict(test.images[:4], top=3)
    chances = net.predict(test.images[:4], softmax=True)
    assert [len(one) for one in best] == [3] * 4
    for image, found in zip(chances, best):
        assert found[0] == (f"digit {image.argmax()}", float(image.max()))
        assert found == sorted(found, key=lambda pair: -pair[1])
    assert net.predict(test.images[0], top=1)[0][0] == best[0][0][0]


def test_predict_refuses_what_would_be_seen_otherwise_than_in_training(trained, small):
    net, _, test = trained
    for floats in (test.images.astype("f4"), test.images / np.float32(255)):
        with pytest.raises(ValueError, match=r"do not look normalised.*give uint8.*normalize=True.*normalize=False"):
            net.predict(floats)
        assert net.predict(floats, normalize=False).shape == (360, 10)
    with pytest.raises(ValueError, match="how to normalise these images is not known"):
        small.predict(np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(TypeError, match="images must be uint8 or floats, received int64"):
        small.predict(np.zeros((2, 4, 4, 3), np.int64))
    with pytest.raises(TypeError, match="a list of files or arrays, received int"):
        small.predict(3)
    with pytest.raises(ValueError, match="top"):
        small.predict(np.zeros((2, 4, 4, 3), np.float32), top=0)


def test_a_copy_and_a_fused_net_keep_what_predict_needs(trained):
    net, _, test = trained
    for twin in (net.copy(), net.fuse()):
        assert twin.classes == net.classes
        np.testing.assert_allclose(twin.predict(test.images[:3]), net.predict(test.images[:3]), rtol=1e-4, atol=1e-4)


def test_a_new_head_is_trained_on_images_as_the_pretrained_layers_know_them(trained):
    net, _, test = trained
    for new in (gc.Sequential([*net[:-1], Linear(2)]), gc.Sequential([net[:-1], Linear(2)])):
        assert new.normalization is not None
        images = test.images // 2
        gc.Trainer(new).fit((images, np.arange(len(images)) % 2), epochs=1, progress=False)
        np.testing.assert_array_equal(new.normalization.mean, net.normalization.mean)
        assert new.classes == ["0", "1"]
    assert net[1:].normalization is None
    assert net[:2].normalization is net.normalization
