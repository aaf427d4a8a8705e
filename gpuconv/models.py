"""The nets, by name, ``build("tiny-vgg", classes=10, seed=0)``, or by function, ``tiny_vgg()``.

Every net takes input_shape (H, W, C) and classes, and the options of `gpuconv.layers.Sequential`: seed, precision or
dtype, device, and initialize=False for a net without weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from gpuconv import arguments, backends
from gpuconv.layers import (
    GELU,
    BatchNorm,
    Conv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Input,
    Layer,
    Linear,
    MaxPool2D,
    ReLU,
    ReLU6,
    Residual,
    Scale,
    Sequential,
)
from gpuconv.layers.base import expect_built
from gpuconv.names import lookup
from gpuconv.types import Shape

Nested = Sequence[Any]  # layers and nested lists of layers


class Model(Protocol):
    """A function that builds a net; its arguments are those of `build` except the name."""

    def __call__(
        self, input_shape: Shape | None = None, classes: int | None = None, **options: object
    ) -> Sequential: ...


MODELS: dict[str, Model] = {}


def build(name: str, input_shape: Shape | None = None, classes: int | None = None, **options: object) -> Sequential:
    """The net with this name.

    Args:
        name: One of `MODELS`.
        input_shape: (H, W, C), by default the net's.
        classes: The number of scores, by default the net's.
        options: seed, precision or dtype, device, initialize, as in `gpuconv.layers.Sequential`.

    Raises:
        TypeError: An argument has another type.
        ValueError: An unknown name (the message names the nearest known one), an argument out of its range, or an input
            that is too small for the net.
        DeviceError: The device is not available.
    """
    return lookup("model", name, MODELS)(input_shape, classes, **options)


def _model(name: str, default_shape: Shape, default_classes: int) -> Callable[[Callable[[int], Nested]], Model]:
    """A decorator for a function that returns a net's layers for a number of classes. It registers the net's function,
    and returns that in place of the decorated one."""

    def register(layers: Callable[[int], Nested]) -> Model:
        def model(input_shape: Shape | None = None, classes: int | None = None, **options: Any) -> Sequential:
            classes = default_classes if classes is None else arguments.integer("classes", classes, 1)
            return Sequential(
                [Input(default_shape if input_shape is None else input_shape), *_flat(layers(classes))], **options
            )

        model.__name__ = layers.__name__
        defaults = f"{default_shape} and {default_classes} by default"
        model.__doc__ = layers.__doc__ and f"{layers.__doc__}\n\n    Arguments as in `build`: {defaults}."
        MODELS[name] = model
        return model

    return register


@_model("seed-net", (32, 32, 3), 10)
def seed_net(classes: int) -> Nested:
    """[INPUT - CONV - RELU - POOL - FC] with 12 filters, the first net of the CS231n notes."""
    return [Conv2D(12, 3, padding=1), ReLU(), MaxPool2D(2), Flatten(), Linear(classes)]


@_model("tiny-vgg", (32, 32, 3), 10)
def tiny_vgg(classes: int) -> Nested:
    """[CONV RELU CONV RELU POOL] x 3 - FC, where each CONV has 10 filters: the net in the CS231n notes' picture of
    activations."""
    return [[[_conv_relu(10), _conv_relu(10), MaxPool2D(2)] for _ in range(3)], Flatten(), Linear(classes)]


@_model("three-layer", (32, 32, 3), 10)
def three_layer(classes: int) -> Nested:
    """The 3-layer fully connected network at the start of the CS231n notes: two hidden layers."""
    return [Flatten(), Linear(100), ReLU(), Linear(100), ReLU(), Linear(classes)]


@_model("lenet", (32, 32, 3), 10)
def lenet(classes: int) -> Nested:
    """LeNet-5 (LeCun et al. 1998) in its modern form, with ReLU and max pooling."""
    return [
        Conv2D(6, 5),
        ReLU(),
        MaxPool2D(2),
        Conv2D(16, 5),
        ReLU(),
        MaxPool2D(2),
        Flatten(),
        Linear(120),
        ReLU(),
        Linear(84),
        ReLU(),
        Linear(classes),
    ]


@_model("alexnet-cifar", (32, 32, 3), 10)
def alexnet_cifar(classes: int) -> Nested:
    """AlexNet for small images: the widths of the five convolutions of Krizhevsky 2014 (arXiv:1404.5997, as in
    torchvision) and its overlapping pools, with smaller filters and FC layers."""
    return [
        Conv2D(64, 5, padding=2),
        ReLU(),
        MaxPool2D(3, stride=2),
        Conv2D(192, 5, padding=2),
        ReLU(),
        MaxPool2D(3, stride=2),
        _conv_relu(384),
        _conv_relu(256),
        _conv_relu(256),
        MaxPool2D(3, stride=2),
        Flatten(),
        Dropout(0.5),
        Linear(1024),
        ReLU(),
        Dropout(0.5),
        Linear(1024),
        ReLU(),
        Linear(classes),
    ]


@_model("vgg-cifar", (32, 32, 3), 10)
def vgg_cifar(classes: int) -> Nested:
    """VGG on small images: two convolutions of 64, 128, 256 and 512 filters before each pool, with batch norm."""
    blocks = [[_conv_norm_relu(width), _conv_norm_relu(width), MaxPool2D(2)] for width in (64, 128, 256, 512)]
    return [blocks, Flatten(), Linear(classes)]


@_model("resnet20", (32, 32, 3), 10)
def resnet20(classes: int) -> Nested:
    """The CIFAR ResNet of 20 layers (He et al. 2015, section 4.2), with 1x1 projections where the width doubles."""
    return [_conv_norm_relu(16), *_resnet(16, (16, 32, 64), (3, 3, 3), classes)]


@_model("resnet18-cifar", (32, 32, 3), 10)
def resnet18_cifar(classes: int) -> Nested:
    """ResNet-18 on small images: a 3x3 first convolution, no first pool."""
    return [_conv_norm_relu(64), *_resnet(64, _WIDTHS, (2, 2, 2, 2), classes)]


@_model("resnet18", (224, 224, 3), 1000)
def resnet18(classes: int) -> Nested:
    """ResNet-18 for ImageNet, as torchvision has it; torchvision's weights can be loaded (docs/nets.md)."""
    return [_imagenet_stem(), *_resnet(64, _WIDTHS, (2, 2, 2, 2), classes)]


@_model("resnet34", (224, 224, 3), 1000)
def resnet34(classes: int) -> Nested:
    """ResNet-34 for ImageNet, as torchvision has it."""
    return [_imagenet_stem(), *_resnet(64, _WIDTHS, (3, 4, 6, 3), classes)]


@_model("resnet50", (224, 224, 3), 1000)
def resnet50(classes: int) -> Nested:
    """ResNet-50 for ImageNet, as torchvision has it: bottlenecks of 1x1, 3x3 (with the stride) and 1x1 filters."""
    return [_imagenet_stem(), *_resnet(64, _WIDTHS, (3, 4, 6, 3), classes, _bottleneck, expansion=4)]


@_model("mobilenet-v2", (224, 224, 3), 1000)
def mobilenet_v2(classes: int) -> Nested:
    """MobileNetV2 for ImageNet (Sandler et al. 2018), as torchvision has it: inverted residuals with depthwise
    convolutions."""
    layers, channels = [*_conv_norm(32, stride=2), ReLU6()], 32
    for factor, width, depth, first_stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for block in range(depth):
            stride = 1 if block else first_stride
            body = _inverted_bottleneck(channels, factor, width, stride)
            layers += [Residual(body)] if stride == 1 and width == channels else body
            channels = width
    return [layers, *_conv_norm(1280, size=1), ReLU6(), GlobalAvgPool2D(), Flatten(), Dropout(0.2), Linear(classes)]


@_model("airbench94", (32, 32, 3), 10)
def airbench94(classes: int) -> Nested:
    """The net of Jordan 2024 (arXiv:2404.00498), designed to reach 94 % on CIFAR-10 in seconds: a 2x2 whitening
    convolution with fixed filters (see `whiten`), three groups of two convolutions with identity initialization, a last
    3x3 max pool, and scaled scores."""
    groups = [[_airbench_conv(width, MaxPool2D(2)), _airbench_conv(width)] for width in (64, 256, 256)]
    head = [MaxPool2D(3), Flatten(), Linear(classes, bias=False), Scale(1 / 9)]
    return [Conv2D(24, 2, frozen=("weight",)), GELU(), groups, head]


@_model("vgg16", (224, 224, 3), 1000)
def vgg16(classes: int) -> Nested:
    """VGG-16 for ImageNet (Simonyan and Zisserman 2014), with 138,344,128 weights, not counting the biases."""
    blocks = [
        [[_conv_relu(width) for _ in range(depth)], MaxPool2D(2)]
        for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    ]
    head = [Flatten(), Linear(4096), ReLU(), Dropout(0.5), Linear(4096), ReLU(), Dropout(0.5), Linear(classes)]
    return [blocks, head]


@_model("digits-net", (8, 8, 1), 10)
def digits_net(classes: int) -> Nested:
    """A small VGG with batch norm for the 8x8 digits."""
    blocks = [[_conv_norm_relu(width), _conv_norm_relu(width), MaxPool2D(2)] for width in (48, 96)]
    return [blocks, Flatten(), Dropout(0.5), Linear(classes)]


# --- parts -------------------------------------------------------------------------------------


def _flat(layers: Nested) -> Iterator[Layer]:
    for entry in layers:
        yield from [entry] if isinstance(entry, Layer) else _flat(entry)


def _conv_relu(filters: int) -> list[Layer]:
    return [Conv2D(filters, 3, padding=1), ReLU()]


def _conv_norm_relu(filters: int, stride: int = 1) -> list[Layer]:
    return [*_conv_norm(filters, stride), ReLU()]


def _conv_norm(filters: int, stride: int = 1, size: int = 3, groups: int = 1) -> list[Layer]:
    conv = Conv2D(filters, size, stride=stride, padding=size // 2, groups=groups, bias=False)
    return [conv, BatchNorm()]


_WIDTHS = (64, 128, 256, 512)


def _imagenet_stem() -> list[Layer]:
    return [*_conv_norm(64, stride=2, size=7), ReLU(), MaxPool2D(3, stride=2, padding=1)]


def _two_convs(width: int, stride: int) -> list[Layer]:
    return [*_conv_norm_relu(width, stride), *_conv_norm(width)]


def _bottleneck(width: int, stride: int) -> list[Layer]:
    return [*_conv_norm(width, size=1), ReLU(), *_conv_norm_relu(width, stride), *_conv_norm(4 * width, size=1)]


def _inverted_bottleneck(channels: int, factor: int, width: int, stride: int) -> list[Layer]:
    """A 1x1 convolution to `factor` times the channels (left out if `factor` is 1), a depthwise one, and a 1x1 one to
    `width` channels."""
    hidden = factor * channels
    wider = [] if factor == 1 else [*_conv_norm(hidden, size=1), ReLU6()]
    return [*wider, *_conv_norm(hidden, stride, groups=hidden), ReLU6(), *_conv_norm(width, size=1)]


def _resnet(
    channels: int,
    widths: tuple[int, ...],
    depths: tuple[int, ...],
    classes: int,
    body: Callable[[int, int], list[Layer]] = _two_convs,
    expansion: int = 1,
) -> Nested:
    """Stages of residual blocks, then the head. Each stage except the first halves the map. A block's body outputs
    expansion * width channels."""
    layers: list[Layer] = []
    for stage, (width, depth) in enumerate(zip(widths, depths)):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            matched = stride == 1 and expansion * width == channels
            shortcut = None if matched else _conv_norm(expansion * width, stride, size=1)
            layers += [Residual(body(width, stride), shortcut), ReLU()]
            channels = expansion * width
    return [*layers, GlobalAvgPool2D(), Flatten(), Linear(classes)]


def _airbench_conv(filters: int, *pool: Layer) -> list[Layer]:
    conv = Conv2D(filters, 3, padding="same", bias=False, weight_init="dirac")
    return [conv, *pool, BatchNorm(momentum=0.4, eps=1e-12, frozen=("weight",)), GELU()]


# --- whitening ---------------------------------------------------------------------------------


def whiten(net: Sequential, images: object, *, eps: float = 5e-4) -> None:
    """Initialize the net's first convolution to whiten its patches, as in airbench. Its filters become the eigenvectors
    of the patches' second moments (a covariance from which no mean is subtracted). Each eigenvector is divided by
    sqrt(eigenvalue + eps), and occurs with both signs.

    Args:
        net: Built; its first convolution has 2 * R * S * C filters.
        images: (N, H, W, C) normalized floats, from which the patches are taken (5000 images suffice).
        eps: Added to each eigenvalue, at least 0.

    Raises:
        TypeError: net is not a net, eps is not a number, or images are not an array of numbers.
        ValueError: The net has no convolution, its first one has another number of filters or several groups, the
            images have another shape, hold no patch or are not finite, eps is negative, or an eigenvalue + eps is too
            near 0 for finite filters.
        RuntimeError: The net has no shapes yet, or the convolution no weights.
    """
    expect_built(net)
    eps = arguments.number("eps", eps, 0.0)
    conv = next((layer for layer in net.walk() if isinstance(layer, Conv2D)), None)
    if conv is None:
        raise ValueError("whitening initializes a convolution, and the net has none")
    if conv.groups > 1:
        raise ValueError(f"whitening needs filters that read all channels, and the net's have {conv.groups} groups")
    filters, r, s, c = conv["weight"].shape
    if filters != 2 * r * s * c:
        raise ValueError(f"whitening {r} x {s} x {c} patches needs {2 * r * s * c} filters, and the net has {filters}")
    pixels = backends.to_numpy(images)
    if pixels.ndim != 4 or pixels.shape[3] != c or not len(pixels) or pixels.shape[1] < r or pixels.shape[2] < s:
        raise ValueError(
            f"images must be (N, H, W, {c}) of at least {r} x {s} pixels, N from 1, received shape {pixels.shape}"
        )
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (r, s), axis=(1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, r * s * c).astype(np.float64)
    if not np.isfinite(patches).all():
        raise ValueError("images must be finite, received NaN or infinity")
    weight = conv["weight"]
    with np.errstate(all="ignore"):
        values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
        rows = (vectors / np.sqrt(values + eps)).T[::-1].reshape(-1, r, s, c)
        found = np.concatenate([rows, -rows]).astype(weight.dtype)
    if not np.isfinite(found.astype(np.float64)).all():
        raise ValueError(
            f"eps must be larger, because the images' patches have the eigenvalue {values.min():g}; received {eps:g}"
        )
    backends.assign(weight, found)
