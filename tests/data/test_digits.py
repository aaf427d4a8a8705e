"""The digits that gpuconv contains are the published ones."""

from importlib import resources

import numpy as np
import pytest

from gpuconv.data import digits


def test_the_first_1437_digits_are_for_training_and_the_last_360_for_testing():
    train, test = digits.load()
    assert train.images.shape == (1437, 8, 8, 1)
    assert test.images.shape == (360, 8, 8, 1)
    assert train.classes == tuple("0123456789")
    assert train.labels[:10].tolist() == list(range(10))
    assert np.bincount(train.labels).tolist() == [143, 146, 142, 146, 144, 145, 144, 143, 141, 143]


def test_pixels_span_black_to_white_and_the_published_values_can_be_recovered():
    train, _ = digits.load()
    ink = np.ceil(train.images.astype(int) * 16 / 255).astype(int)  # 0 to 16
    assert sorted(np.unique(ink)) == list(range(17))
    np.testing.assert_array_equal(ink * 255 // 16, train.images)
    assert (train.images.min(), train.images.max()) == (0, 255)


def test_the_first_digit_is_the_published_image():
    """The first digit of the file, a zero, as the UCI repository has it."""
    train, _ = digits.load()
    expected = """
         0  0  5 13  9  1  0  0
         0  0 13 15 10 15  5  0
         0  3 15  2  0 11  8  0
         0  4 12  0  0  8  8  0
         0  5  8  0  0  9  8  0
         0  4 11  0  1 12  7  0
         0  2 14  5 10 12  0  0
         0  0  6 13 10  0  0  0
    """
    ink = np.array(expected.split(), int).reshape(8, 8)
    np.testing.assert_array_equal(train.images[0, :, :, 0], ink * 255 // 16)


def test_the_digits_equal_those_of_scikit_learn():
    published = pytest.importorskip("sklearn.datasets").load_digits()
    train, test = digits.load()
    images = np.concatenate([train.images, test.images])[..., 0]
    np.testing.assert_array_equal(images, published.images.astype(int) * 255 // 16)
    np.testing.assert_array_equal(np.concatenate([train.labels, test.labels]), published.target)


def test_the_attribution_ships_with_the_file():
    text = resources.files("gpuconv.data").joinpath("digits.md").read_text()
    assert "Alpaydin" in text
    assert "CC BY 4.0" in text
