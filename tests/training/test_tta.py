"""Scores averaged over shifted and mirrored copies of the images."""

import numpy as np
import pytest

from gpuconv import asarray, to_numpy
from gpuconv.training import evaluate
from gpuconv.training.tta import TTA, averaged_scores, views
from tests import toy_run
from tests.devices import kernel_devices


def test_views_are_the_batch_its_shifts_and_their_mirror_images():
    x = np.arange(2 * 3 * 4 * 1, dtype=np.float32).reshape(2, 3, 4, 1) + 1
    shares, images = zip(*views(x, "mirror+shift"))
    assert shares == (0.25, 0.125, 0.125) * 2
    padded = np.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    np.testing.assert_array_equal(images[0], x)
    np.testing.assert_array_equal(images[1], padded[:, :3, :4])
    np.testing.assert_array_equal(images[2], padded[:, 2:, 2:])
    mirrored = np.pad(x[:, :, ::-1], [(0, 0), (1, 1), (1, 1), (0, 0)], mode="reflect")
    for view, expected in zip(images[3:], (x[:, :, ::-1], mirrored[:, :3, :4], mirrored[:, 2:, 2:]), strict=True):
        np.testing.assert_array_equal(view, expected)
    assert all(view.flags.c_contiguous and view.dtype == x.dtype for view in images)


@pytest.mark.parametrize("tta", TTA)
def test_the_weights_of_the_views_add_up_to_one(tta):
    shares = [share for share, _ in views(np.zeros((1, 2, 2, 1), np.float32), tta)]
    assert len(shares) == TTA[tta]
    assert sum(shares) == 1


def test_shifted_views_of_an_image_one_pixel_high_are_refused():
    with pytest.raises(ValueError, match=r"tta shift needs .* at least 2 pixels, received \(1, 5, 1\)"):
        list(views(np.zeros((1, 1, 5, 1), np.float32), "shift"))


def test_views_of_inputs_that_are_not_images_are_refused():
    for tta in ("mirror", "shift"):
        with pytest.raises(ValueError, match=rf"tta {tta} needs images \(H, W, C\), received \(12,\)"):
            list(views(np.zeros((4, 12), np.float32), tta))
    assert len(list(views(np.zeros((4, 12), np.float32), "none"))) == 1


@pytest.mark.parametrize("device", ["numpy", *kernel_devices()])
def test_scores_are_averaged_over_the_views(device):
    net = toy_run.net()
    x, labels = next(iter(toy_run.held_out(9).epoch(0)))
    expected = sum(share * net.forward(view) for share, view in views(x, "mirror+shift"))
    net.to(device)
    averaged = to_numpy(averaged_scores(net, asarray(x, device), "mirror+shift"))
    np.testing.assert_allclose(averaged, expected, rtol=1e-5, atol=1e-6)
    if device == "numpy":
        assert evaluate(net, toy_run.held_out(6), tta="mirror+shift").accuracy == (expected.argmax(1) == labels).mean()
