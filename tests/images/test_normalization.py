"""The mean and deviation of images, and normalizations that are refused."""

import numpy as np
import pytest

from gpuconv.data import Dataset, Normalization


def test_channel_normalization_has_the_statistics_computed_by_hand():
    pixels = np.array([[0, 10], [4, 30], [8, 20], [12, 20]], np.uint8).reshape(2, 1, 2, 2)
    normalization = Normalization.from_dataset(Dataset(pixels, np.zeros(2, int), ["a"]))
    assert normalization.mean.tolist() == [6, 20]
    np.testing.assert_array_equal(normalization.std, np.sqrt([20, 50]).astype(np.float32))


PIXELS = (np.arange(200 * 3 * 5 * 2) * 37 % 251).astype(np.uint8).reshape(200, 3, 5, 2)
DATASET = Dataset(PIXELS, np.zeros(200, int), ["a"])


@pytest.mark.parametrize("kind", ["channel", "image"])
def test_normalized_images_have_mean_0_and_deviation_1(kind):
    normalization = Normalization.from_dataset(DATASET, kind)
    assert normalization.mean.shape == ((2,) if kind == "channel" else (3, 5, 2))
    assert normalization.std.shape == (2,)
    x = normalization(PIXELS)
    assert x.dtype == np.float32
    x = x.astype(np.float64)
    axes = (0, 1, 2) if kind == "channel" else 0
    np.testing.assert_allclose(x.mean(axis=axes), 0, atol=1e-6)
    np.testing.assert_allclose(x.std(axis=(0, 1, 2)), 1, atol=1e-6)


def test_statistics_of_many_bright_pixels_do_not_overflow():
    bright = Dataset(np.full((3000, 9, 9, 1), 255, np.uint8), np.zeros(3000, int), ["white"])
    normalization = Normalization.from_dataset(bright)
    assert normalization.mean.tolist() == [255]
    assert normalization.std.tolist() == [1]  # a constant channel is only centered


def test_the_error_for_an_unknown_kind_suggests_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'channel'"):
        Normalization.from_dataset(DATASET, "chanel")


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([1, 2], [1, 0], "positive"),
        ([np.nan], [1], "finite"),
        (3.0, [1], "shape"),
        ([0], np.ones((2, 2)), "shape"),
        ([1e39], [1], "finite"),
    ],
    ids=["std 0", "mean NaN", "mean a number", "std of two axes", "mean beyond float32"],
)
def test_bad_normalizations_are_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Normalization(mean, std)


def test_a_normalization_accepts_only_real_numbers_and_uint8_images():
    for mean in ([1j], [True], np.ma.masked_array([1.0], mask=[1]), ["1"]):
        with pytest.raises(TypeError, match=r"^mean must"):
            Normalization(mean, [1])
    pixels = np.zeros((2, 1, 1, 3), np.uint8)
    for images in (pixels[:0], pixels[0], pixels.astype(np.float32), pixels.astype(np.int64), [1, 2]):
        with pytest.raises(ValueError, match=r"computed from uint8 images \(N, H, W, C\), received .* of shape"):
            Normalization.from_images(images)
    for images in (pixels[0], pixels.astype(np.float32), [1, 2], 3):
        with pytest.raises(TypeError, match=r"^images must be uint8 \(M, H, W, C\), received .* of shape"):
            Normalization([1] * 3, [1] * 3)(images)


def test_mean_images_and_their_deviation_equal_those_computed_by_hand():
    pixels = np.array([[0, 10], [4, 30], [8, 20], [12, 20]], np.uint8).reshape(2, 1, 2, 2)
    normalization = Normalization.from_dataset(Dataset(pixels, np.zeros(2, int), ["a"]), "image")
    assert normalization.mean.tolist() == [[[4, 15], [8, 25]]]
    np.testing.assert_array_equal(normalization.std, np.array([4, 5], np.float32))
