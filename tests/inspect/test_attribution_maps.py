"""Saliency, occlusion and Grad-CAM against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.inspect import grad_cam, occlusion, saliency
from gpuconv.inspect.attribution_maps import map_stages
from gpuconv.layers import Conv2D, Flatten, GlobalAvgPool2D, Input, Linear, MaxPool2D, Sequential, Tanh

X = np.random.default_rng(3).normal(size=(1, 6, 8, 2))


@pytest.fixture
def net():
    row = [Input((6, 8, 2)), Conv2D(3, 3), Tanh(), Conv2D(2, 3, stride=2), GlobalAvgPool2D(), Flatten(), Linear(4)]
    return Sequential(row, seed=7, precision="float64")


def test_saliency_is_the_numerical_gradient_of_the_score(net):
    for target in (0, 3, None):
        number = int(net.infer(X).argmax()) if target is None else target
        gradient = saliency(net, X, target=target)
        for at in ((0, 0, 0), (3, 4, 1), (5, 7, 0)):
            step = np.zeros_like(X)
            step[(0, *at)] = 1e-6
            slope = (net.infer(X + step) - net.infer(X - step))[0, number] / 2e-6
            assert gradient[at] == pytest.approx(slope, abs=1e-7)
    assert not any(np.any(gradient) for gradient in net.grads().values())


def test_occlusion_is_the_mean_score_drop_of_the_squares_covering_a_pixel(net):
    mean_drops = occlusion(net, X, target=1, size=3, stride=2)
    drops, covered = np.zeros((6, 8)), np.zeros((6, 8))
    # squares of 3 pixels every 2 pixels, and the last one at the border
    for row in (0, 2, 3):
        for column in (0, 2, 4, 5):
            hidden = X.copy()
            hidden[:, row : row + 3, column : column + 3] = 0
            drops[row : row + 3, column : column + 3] += (net.infer(X) - net.infer(hidden))[0, 1]
            covered[row : row + 3, column : column + 3] += 1
    np.testing.assert_allclose(mean_drops, drops / covered, atol=1e-14)


def test_grad_cam_of_a_net_with_global_average_pooling_is_its_class_activation_map(net):
    maps = net.activations(X)["conv2"][0]
    weight = net["fc1"]["weight"][2]
    coarse = np.maximum(maps @ weight, 0) / (maps.shape[0] * maps.shape[1])
    heat = grad_cam(net, X, target=2)
    assert heat.shape == (6, 8)
    np.testing.assert_allclose(np.unique(heat), np.unique(coarse), atol=1e-15)
    assert heat[0, 0] == pytest.approx(coarse[0, 0])
    assert heat[-1, -1] == pytest.approx(coarse[-1, -1])
    assert grad_cam(net, X, layer="conv1", target=2).shape == (6, 8)


def test_grad_cam_of_a_larger_image_chooses_the_layer_by_the_shapes_for_that_image():
    """For images of the net's size, the maps of the second pool have one position. For this image they have 2 x 2."""
    body = [Conv2D(4, 3, padding=1), Tanh(), MaxPool2D(2), MaxPool2D(2), GlobalAvgPool2D(), Flatten(), Linear(2)]
    net = Sequential([Input((4, 4, 1), larger=True), *body], seed=0)
    x = np.random.default_rng(1).normal(size=(1, 8, 8, 1)).astype(np.float32)
    maps = {layer: grad_cam(net, x, target=0, layer=layer) for layer in ("pool1", "pool2", None)}
    np.testing.assert_array_equal(maps[None], maps["pool2"])
    assert not np.array_equal(maps[None], maps["pool1"])


def test_a_map_is_named_in_any_spelling(net):
    (found,) = map_stages("Grad_CAM", net, X, target=2, batch=8)
    np.testing.assert_array_equal(found, grad_cam(net, X, target=2))


def test_invalid_targets_images_sizes_and_layers_are_refused(net):
    for call, message in [
        (lambda: saliency(net, X, target=4), "from 0 to 3, received 4"),
        (lambda: saliency(net, X[0]), "one image"),
        (lambda: occlusion(net, X, size=7), "size must be"),
        (lambda: occlusion(net, X, size=2, stride=3), "stride must be"),
        (lambda: grad_cam(net, X, layer="fc1"), "needs a layer with maps"),
        (lambda: grad_cam(net, X, layer="conv9"), "unknown layer"),
        (lambda: grad_cam(net.fuse(), X, layer="conv1"), r"as one op; take the net as it was before fuse\(\)"),
        (lambda: grad_cam(Sequential([Input((4,)), Linear(2)]), np.zeros((1, 4))), "one image"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
