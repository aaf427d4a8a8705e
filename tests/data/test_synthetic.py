"""Synthetic images."""

import numpy as np
import pytest

from gpuconv.data import synthetic


def test_synthetic_images_have_the_given_shape_classes_and_count():
    train, test = synthetic.load(101, size=(5, 7, 3), classes=4)
    assert train.images.shape == (101, 5, 7, 3)
    assert test.images.shape == (20, 5, 7, 3)
    assert len(train.classes) == 4
    assert np.bincount(train.labels).tolist() == [26, 25, 25, 25]


def test_equal_seeds_give_equal_images_and_different_seeds_different_ones():
    images = [synthetic.load(20, seed=seed)[0].images for seed in (0, 0, 1)]
    np.testing.assert_array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_no_two_images_are_equal():
    train, test = synthetic.load(300, size=(4, 4, 1))
    assert len({image.tobytes() for image in (*train.images, *test.images)}) == 360


def test_the_nearest_class_mean_classifies_unseen_images():
    train, test = synthetic.load(400, size=(8, 8, 3), classes=10)
    means = np.stack([train.images[train.labels == label].mean(axis=0) for label in range(10)])
    distance = ((test.images[:, None] - means) ** 2).sum(axis=(2, 3, 4))
    assert (distance.argmin(axis=1) == test.labels).mean() > 0.95


@pytest.mark.parametrize("bad", [{"n": 0}, {"size": (8, 8)}, {"size": (0, 8, 1)}, {"classes": 0}, {"seed": -1}])
def test_bad_arguments_are_refused(bad):
    with pytest.raises(ValueError, match="must be"):
        synthetic.load(**bad)
