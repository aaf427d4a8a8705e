"""The channels of a PyTorch tensor of images are moved last; gray images get a channel axis."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.images.layout import laid_out

IMAGES = np.zeros((10, 2, 3, 3), np.uint8)


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


def test_an_array_of_a_class_derived_from_tensor_is_laid_out_as_a_tensor():
    torch = pytest.importorskip("torch")

    class Image(torch.Tensor):
        """As torchvision's tv_tensors.Image."""

    channels_first = torch.zeros(10, 3, 2, 4).as_subclass(Image)
    assert laid_out(channels_first, (2, 4, 3), rank=4).shape == (10, 2, 4, 3)
    assert laid_out(channels_first.requires_grad_(), (2, 4, 3), rank=4).shape == (10, 2, 4, 3)
