"""The images and labels that a user gives: layouts and class numbers, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.data.expect import class_numbers, laid_out
from tests.data.small_samples import IMAGES


def test_the_layout_of_images_is_recognized():
    rgb, gray = (2, 3, 3), (2, 3, 1)
    assert laid_out(IMAGES, rgb, rank=4) is IMAGES
    assert laid_out(IMAGES[0], rgb, rank=3).shape == rgb
    assert laid_out(IMAGES[..., 0], gray, rank=4).shape == (10, 2, 3, 1)
    assert laid_out(IMAGES[0, ..., 0], gray, rank=3).shape == gray
    assert laid_out(IMAGES[..., :2, 0], gray, rank=4).shape == (10, 2, 2)  # refused later, by its shape
    assert laid_out(np.zeros((4, 7)), (7,), rank=2).shape == (4, 7)
    channels_first = np.zeros((10, 3, 2, 4), np.uint8)
    with pytest.raises(ValueError, match=r"\(10, 3, 2, 4\); x.transpose\(0, 2, 3, 1\) moves them there"):
        laid_out(channels_first, (2, 4, 3), rank=4)
    with pytest.raises(ValueError, match=r"\(3, 2, 4\); x.transpose\(1, 2, 0\) moves them there"):
        laid_out(channels_first[0], (2, 4, 3), rank=3)
    assert laid_out(channels_first, (5, 4, 3), rank=4).shape == (10, 3, 2, 4)  # transposed, it would not fit either
    assert laid_out(np.zeros((10, 3, 4, 3)), (3, 4, 3), rank=4).shape == (10, 3, 4, 3)


def test_class_numbers_are_converted_or_refused():
    for labels in ([0, 2], (0, 2), np.array([0, 2], np.uint8)):
        numbers = class_numbers(labels, "set", 2)
        assert (numbers.tolist(), numbers.dtype) == ([0, 2], np.int64)
    assert class_numbers(np.zeros(0, int), "set", 0).shape == (0,)
    for labels, error, message in (
        ([0.0, 1.0], TypeError, r"must be integers \(class numbers\), received float64"),
        ([True, False], TypeError, "received bool"),
        ([0], ValueError, r"each of 2 images, received shape \(1,\)$"),
        ([[0], [1]], ValueError, r"shape \(2, 1\); x.ravel\(\) gives one axis; targets for each score are floats"),
        ([[0, 1], [1, 0]], ValueError, r"\(2, 2\); x.argmax\(1\) converts"),
        ([0, -1], ValueError, "labels of 'set' must be 0 or more, received -1"),
        (np.uint64([0, 2**63]), ValueError, r"labels of 'set' must be below 2\*\*63, received 9223372036854775808"),
        ([0, np.ma.masked], TypeError, "labels of 'set' must not be a masked array"),
    ):
        with pytest.raises(error, match=message):
            class_numbers(labels, "set", 2)


def test_an_array_of_a_class_derived_from_tensor_is_laid_out_as_a_tensor():
    torch = pytest.importorskip("torch")

    class Image(torch.Tensor):
        """As torchvision's tv_tensors.Image."""

    channels_first = torch.zeros(10, 3, 2, 4).as_subclass(Image)
    assert laid_out(channels_first, (2, 4, 3), rank=4).shape == (10, 2, 4, 3)
    assert laid_out(channels_first.requires_grad_(), (2, 4, 3), rank=4).shape == (10, 2, 4, 3)
