"""The nets of `gpuconv.models`."""

import json

import numpy as np
import pytest

from gpuconv import losses, models
from gpuconv.layers import Conv2D, Flatten, Input, Layer, Sequential

# Counted by hand, or known from papers and public implementations of the nets.
PARAMETERS = {
    "seed-net": 31_066,
    "tiny-vgg": 6_440,
    "three-layer": 3073 * 100 + 101 * 100 + 101 * 10,
    "lenet": 62_006,
    "alexnet-cifar": 5_871_434,
    "vgg-cifar": 4_707_786,
    "resnet20": 272_474,
    "resnet18-cifar": 11_173_962,
    "airbench94": 1_972_792,
    "vgg16": 138_357_544,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "mobilenet-v2": 3_504_872,
    "digits-net": 150_010,
}
IMAGENET = ("vgg16", "resnet18", "resnet34", "resnet50", "mobilenet-v2")


@pytest.mark.parametrize("name", models.MODELS)
def test_every_net_has_its_classes_and_parameters_and_rebuilds_from_json(name):
    net = models.build(name, initialize=False)
    assert net.output_shape == ((1000,) if name in IMAGENET else (10,))
    assert net.parameter_count == PARAMETERS[name]
    twin = Layer.from_config(json.loads(json.dumps(net.config())), initialize=False)
    assert twin.config() == net.config()
    assert models.build(name, classes=7, initialize=False).output_shape == (7,)
    assert not any(layer.arrays for layer in net.walk())


@pytest.mark.parametrize("name", [name for name in models.MODELS if name not in (*IMAGENET, "resnet18-cifar")])
def test_every_small_net_has_a_finite_loss_and_finite_gradients(name):
    net = models.build(name, seed=4)
    x = np.random.default_rng(0).normal(size=(2, *net.input_shape)).astype(np.float32)
    loss, dscores = losses.get("softmax")(net.forward(x, training=True), np.array([3, 1]))
    assert np.isfinite(loss)
    assert net.backward(dscores, input_grad=False) is None
    for key, gradient in net.grads().items():
        assert np.isfinite(gradient).all(), key
    assert net.grads()[list(net.grads())[-1]].any()


def test_the_seed_net_has_its_documented_volumes():
    net = models.seed_net()
    assert [layer.output_shape for layer in net] == [
        (32, 32, 3),
        (32, 32, 12),
        (32, 32, 12),
        (16, 16, 12),
        (3072,),
        (10,),
    ]


def test_tiny_vgg_is_three_blocks_of_ten_filters():
    kinds = [name.rstrip("0123456789") for name, _ in models.tiny_vgg().children()]
    assert kinds == ["input", *["conv", "relu", "conv", "relu", "pool"] * 3, "flatten", "fc"]
    assert [layer.out_channels for layer in models.tiny_vgg() if isinstance(layer, Conv2D)] == [10] * 6


def test_the_digits_net_takes_images_of_another_shape():
    net = models.build("digits_net", input_shape=(9, 11, 3), classes=4)
    assert net.forward(np.zeros((1, 9, 11, 3), np.float32)).shape == (1, 4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tiny-vg", {}, "did you mean 'tiny-vgg'"),
        ("tiny-vgg", {"classes": 0}, "classes must be at least 1"),
        ("tiny-vgg", {"input_shape": (4, 4, 3)}, r"^pool3: a window spans 2"),
    ],
)
def test_bad_requests_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, **options)


def test_an_input_shape_that_is_no_tuple_is_named():
    for wrong in (np.array([8, 8, 3]), 32):
        with pytest.raises(TypeError, match=r"shape must be that of one image, .* received (array|32)"):
            models.build("lenet", wrong)


def test_whitening_refuses_a_wrong_eps():
    net = models.airbench94()
    before = net["conv1.weight"].copy()
    for eps, error, message in ((-1.0, ValueError, "eps must lie in"), ("small", TypeError, "eps must be a number")):
        with pytest.raises(error, match=message):
            models.whiten(net, np.zeros((1, 32, 32, 3), np.float32), eps=eps)
    assert (net["conv1.weight"] == before).all()


@pytest.mark.parametrize("shape", [(32, 32, 3), (2, 32, 32, 1), (0, 32, 32, 3), (2, 1, 32, 3)])
def test_whitening_refuses_images_of_a_wrong_shape_or_without_patches(shape):
    net = models.airbench94()
    before = net["conv1.weight"].copy()
    with pytest.raises(ValueError, match=r"images must be \(N, H, W, 3\) of at least 2 x 2 pixels, N from 1"):
        models.whiten(net, np.zeros(shape, np.float32))
    assert (net["conv1.weight"] == before).all()


def test_whitening_refuses_nan_and_patches_of_too_few_dimensions_and_keeps_the_filters():
    net = models.airbench94()
    before = net["conv1.weight"].copy()
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    gray = np.zeros_like(images)
    images[1, 2, 3] = np.nan
    for given, options, message in (
        (images, {}, "images must be finite, received NaN or infinity"),
        (gray, {"eps": 0.0}, r"eps must be larger, because the images' patches have the eigenvalue 0; received 0"),
    ):
        with pytest.raises(ValueError, match=message):
            models.whiten(net, given, **options)
    with pytest.raises(TypeError, match=r"a net must be a gpuconv\.Sequential or another layer, received int"):
        models.whiten(3, images)
    assert (net["conv1.weight"] == before).all()


@pytest.mark.slow
def test_whitening_filters_make_patches_white():
    rng = np.random.default_rng(3)
    net = models.airbench94()
    mix = rng.normal(size=(3, 3))
    images = (rng.normal(size=(200, 32, 32, 3)).cumsum(1).cumsum(2) @ mix).astype(np.float32)
    images -= images.mean(axis=(0, 1, 2))
    images /= images.std()
    models.whiten(net, images, eps=0.0)
    y = net["conv1"].infer(images).astype(np.float64).reshape(-1, 24)
    covariance = y.T @ y / len(y)
    np.testing.assert_allclose(covariance[:12, :12], np.eye(12), atol=0.02)
    np.testing.assert_array_equal(net["conv1"]["weight"][12:], -net["conv1"]["weight"][:12])
    with pytest.raises(ValueError, match="needs 54 filters, and the net has 12"):
        models.whiten(Sequential([Input((32, 32, 3)), Conv2D(12, 3)]), images)
    with pytest.raises(ValueError, match="3 groups"):
        models.whiten(Sequential([Input((32, 32, 3)), Conv2D(18, 3, groups=3)]), images)
    with pytest.raises(ValueError, match="initializes a convolution, and the net has none"):
        models.whiten(Sequential([Input((32, 32, 3)), Flatten()]), images)
