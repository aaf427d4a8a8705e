"""`net.predict`: batches, images in every form and of any float dtype, the best classes, and what is refused."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

import gpuconv as gc
from gpuconv import ops
from gpuconv.dtypes import as_dtype
from gpuconv.layers import Conv2D, Flatten, Input, Linear, ReLU, Sequential
from gpuconv.layers.predict import _best
from tests import small_nets
from tests.layers.net_with_shortcut import images, net_of


def test_predict_equals_forward_whatever_the_batch_size():
    net = net_of()
    x = images(7)
    expected = net.forward(x)
    net.release()
    for batch_size in (1, 2, 3, 7, 100):
        scores = net.predict(x, batch_size=batch_size)
        assert scores.shape == (7, 5)
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    assert all(layer._saved is None for layer in net.walk())
    np.testing.assert_allclose(net.predict(x, batch_size=4, softmax=True), ops.softmax(expected), rtol=1e-5)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        net.predict(x, batch_size=0)


def test_masked_and_invalid_arrays_are_refused_by_calls_predict_and_activations():
    """Masked arrays are refused also within lists. The error for other unusable arrays says what the net accepts."""
    net = net_of()
    net.classes = list("abcde")
    x = images()
    masked = np.ma.masked_greater(x, 0.5)
    u8 = np.ma.masked_greater(np.uint8([[[[1, 2]] * 5] * 6]), 1)
    for method in (net, net.predict, net.activations, partial(net.predict, top=1), partial(net.predict, batch_size=1)):
        lists = [] if method is net else [u8, [masked[0], x[0]]]
        for wrong in (masked, np.ma.masked_array(x, hard_mask=True), *lists):
            with pytest.raises(TypeError, match="must not be a masked array"):
                method(wrong)
        for wrong in (np.float32(1), np.ones((), np.float32), np.ones(2, np.float32), np.ones((1, 1, 6, 5, 2), "f4")):
            with pytest.raises((ValueError, TypeError), match=r"volumes of 6 x 5 x 2|shape \(6, 5, 2\)|received float"):
                method(wrong)
    with pytest.raises(TypeError, match=r"expected an array of NumPy or CuPy, received list"):
        net([x[0]])


@pytest.mark.parametrize("count", [2, 3], ids=["one batch", "two batches"])
@pytest.mark.parametrize(("of_net", "of_images"), [("numpy", "emulated"), ("emulated", "numpy")])
def test_scores_are_on_the_device_of_the_images(of_net, of_images, count):
    net = Sequential([Input((2, 2, 1)), Flatten(), Linear(3)], device=of_net)
    x = np.linspace(-1, 1, 4 * count, dtype=np.float32).reshape(count, 2, 2, 1)
    scores = net.predict(gc.asarray(x, of_images), batch_size=2)
    assert gc.device_of(scores) == of_images
    np.testing.assert_allclose(gc.to_numpy(scores), net.copy(device="numpy").forward(x), rtol=1e-5)


def test_predicting_no_images_gives_no_classes(net):
    assert net.predict([], top=1) == []
    assert net.predict(np.zeros((0, 6, 6, 2), np.float32), top=1) == []


def test_a_file_is_refused_by_a_net_that_takes_no_images():
    net = Sequential([Input((10,)), Linear(3)])
    for given in ("digit.png", ["digit.png"], [np.zeros(10, np.float32), "digit.png"]):
        with pytest.raises(ValueError, match=r"takes inputs of shape \(10,\), received the image file 'digit.png'"):
            net.predict(given)


@pytest.fixture(scope="module")
def trained():
    """(net, test set)"""
    return small_nets.trained_on_digits()


def test_predict_accepts_images_in_every_form(trained, tmp_path):
    net, test = trained
    images = test.images[:5]
    scores = net.predict(images)
    normalized = net.normalization(images)
    np.testing.assert_array_equal(net.predict(normalized), scores)
    for dtype in ("float16", "float64"):
        np.testing.assert_allclose(net.predict(normalized.astype(dtype)), scores, rtol=0.02, atol=0.02)
    np.testing.assert_allclose(net.predict(images.astype("f8"), normalize=True), scores, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(net.predict(list(images)), scores)
    np.testing.assert_array_equal(net.predict(images[..., 0]), scores)  # gray images without their axis
    for one in (images[0], images[0, ..., 0]):
        np.testing.assert_allclose(net.predict(one), scores[0], rtol=1e-5, atol=1e-5)
    files = [tmp_path / f"{number}.png" for number in range(5)]
    for file, image in zip(files, images):
        Image.fromarray(image[..., 0]).save(file)
    np.testing.assert_array_equal(net.predict(files), scores)
    np.testing.assert_allclose(net.predict(str(files[0])), scores[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(net.predict(Image.open(files[1])), scores[1], rtol=1e-5, atol=1e-5)
    assert net.predict([]).shape == (0, 10)


def test_predict_names_the_best_classes(trained):
    net, test = trained
    net.classes = [f"digit {number}" for number in range(10)]
    best = net.predict(test.images[:4], top=3)
    chances = net.predict(test.images[:4], softmax=True)
    assert [len(one) for one in best] == [3] * 4
    for image, named in zip(chances, best, strict=True):
        assert named[0] == (f"digit {image.argmax()}", float(image.max()))
        assert named == sorted(named, key=lambda pair: -pair[1])
    assert net.predict(test.images[0], top=1)[0][0] == best[0][0][0]


def test_the_best_classes_of_a_map_of_scores_are_refused():
    net = Sequential([Input((4, 4, 1)), Conv2D(2, 3), Flatten(), Linear(3)]).as_convolutional()
    assert len(net.predict(np.ones((4, 4, 1), np.float32), top=3, normalize=False)) == 3
    with pytest.raises(ValueError, match=r"one score per class, and the net gives a volume of shape \(3, 2, 3\)"):
        net.predict(np.ones((6, 5, 1), np.float32), top=3, normalize=False)


def test_predict_refuses_images_that_differ_from_training(trained):
    small_net = small_nets.untrained()
    net, test = trained
    for floats in (test.images.astype("f4"), test.images / np.float32(255)):
        with pytest.raises(ValueError, match=r"do not look normalized.*give uint8.*normalize=True.*normalize=False"):
            net.predict(floats)
        assert net.predict(floats, normalize=False).shape == (len(test.images), 10)
    with pytest.raises(ValueError, match="the normalization of these images is unknown"):
        small_net.predict(np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(TypeError, match="images must be uint8 or floats, received int64"):
        small_net.predict(np.zeros((2, 4, 4, 3), np.int64))
    with pytest.raises(TypeError, match="a list of files or arrays, received int"):
        small_net.predict(3)
    with pytest.raises(ValueError, match="top"):
        small_net.predict(np.zeros((2, 4, 4, 3), np.float32), top=0)


@pytest.mark.parametrize("precision", ["float32", "tf32", "float16", "bfloat16", "float64"])
def test_training_evaluation_and_predict_accept_any_float_dtype(precision):
    # Every dtype below represents these numbers exactly.
    images = np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype(as_dtype("bfloat16")).astype(np.float64)
    labels = np.arange(6) % 5
    net = gc.Sequential([Input((4, 4, 3)), Conv2D(2, 3), ReLU(), Flatten(), Linear(5)], precision=precision)
    expected = None
    for dtype in ("bfloat16", "float16", "float32", "float64", ">f4", ">f8"):
        cast = images.astype(as_dtype("bfloat16") if dtype == "bfloat16" else dtype)
        twin = net.copy()
        history = gc.Trainer(twin, lr=0.1).fit((cast, labels), epochs=1, progress=False)
        results = [history[0]["train_loss"], gc.evaluate(twin, (cast, labels)).loss, net.predict(cast)]
        results.append(net.activations(cast)["fc1"])
        expected = expected or results
        for result, value in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result, value, err_msg=dtype)


def test_predict_accepts_lists_of_every_kind(trained, tmp_path):
    net, test = trained
    scores = net.predict(test.images[:3])
    for number in range(3):
        Image.fromarray(test.images[number, ..., 0]).save(tmp_path / f"{number}.png")
    files = sorted(tmp_path.glob("*.png"))
    for kind in (iter(files), np.array([str(file) for file in files]), np.array(files), tuple(files)):
        np.testing.assert_array_equal(net.predict(kind), scores)
    np.testing.assert_array_equal(net.predict(image for image in test.images[:3]), scores)
    np.testing.assert_array_equal(net.predict([files[0], *test.images[1:3]]), scores)
    np.testing.assert_array_equal(net.activations(iter(files))["fc1"], scores)
    assert net.activations(test.images[0])["fc1"].shape == (10,)
    for wrong, message in (
        (
            [test.images[0], test.images[1, :5]],
            r"the same shape and dtype, received uint8 \(8, 8, 1\), uint8 \(5, 8, 1\)",
        ),
        ((test.images, test.labels), r"received uint8 \(360, 8, 8, 1\), int64 \(360,\)"),
        (test, r"received Dataset; its images are \.images"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            net.predict(wrong)


def test_predict_takes_channels_first_from_pytorch_only():
    small_net = small_nets.untrained()
    images = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    small_net.normalization = gc.data.Normalization([100, 100, 100], [50, 50, 50])
    for classify in (small_net.predict, small_net.activations):
        for channels_first in (images, (50 * images + 100).clip(0, 255).astype(np.uint8)):
            with pytest.raises(ValueError, match=r"channels last, \(N, H, W, C\).*x.transpose\(0, 2, 3, 1\)"):
                classify(channels_first)
        with pytest.raises(ValueError, match=r"x.transpose\(1, 2, 0\)"):
            classify(images[0])
        with pytest.raises(ValueError, match=r"received 5 x 4 x 4\nin "):
            classify(-np.ones((2, 5, 4, 4), np.float32))
    torch = pytest.importorskip("torch")
    expected = small_net.predict(images.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(small_net.predict(torch.from_numpy(images)), expected)
    np.testing.assert_array_equal(small_net.predict(torch.from_numpy(images).requires_grad_()), expected)
    np.testing.assert_allclose(small_net.predict(torch.from_numpy(images).bfloat16()), expected, atol=0.05)


def test_a_call_with_uint8_images_points_to_predict():
    small_net = small_nets.untrained()
    with pytest.raises(TypeError, match=r"computes with floats, received uint8; net\.predict\(images\)"):
        small_net(np.zeros((1, 4, 4, 3), np.uint8))


def test_the_best_classes_of_a_float64_net_are_ordered_by_the_exact_scores():
    scores = np.array([0.5, 0.5 + 1e-12, 0.5 - 1e-12])
    assert [name for name, _ in _best(scores, 3, ["a", "b", "c"])] == ["b", "a", "c"]
    assert [name for name, _ in _best(scores.astype(as_dtype("bfloat16")), 2, None)] == ["0", "1"]
