"""FC <-> CONV: the two are one operation, with other shapes ("Converting FC layers to CONV layers", CS231n notes).

An FC layer on an (H, W, C) volume is a CONV layer whose filters are as large as the volume. In NHWC its weight
(out, H * W * C) is that filter bank (out, H, W, C) already: a reshape, no value moves.
"""

from __future__ import annotations

import math

import numpy as np

from gpuconv import backends, ops
from gpuconv.layers import Conv2D, Layer, Linear, Sequential
from gpuconv.layers.rewrite import take_values
from gpuconv.types import Shape


def linear_to_conv(linear: Linear, volume: Shape | None = None) -> Conv2D:
    """The CONV layer that computes what a built FC layer does, with the same values.

    volume: the (H, W, C) that was flattened before it; without one, its features are the channels of a 1x1 map.
    Raises ValueError when the volume does not hold the layer's inputs, or the layer is not built.
    """
    (features,) = _input_shape(linear)
    volume = (1, 1, features) if volume is None else volume
    if math.prod(volume) != features:
        raise ValueError(f"the layer reads {features} features, {volume} has {math.prod(volume)}")
    conv = linear.as_conv(volume)
    conv.build(volume, precision=linear.precision, device=linear.device)
    take_values(conv, linear)
    return conv


def conv_to_linear(conv: Conv2D) -> Linear:
    """The FC layer that maps the flattened input of a built CONV layer to its flattened output.

    Its weight is the convolution written as one matrix, (P * Q * K, H * W * C), mostly zeros unless the filter is as
    large as the input; that filter bank then comes out reshaped. Raises ValueError when the layer is not built.
    """
    shape = _input_shape(conv)
    inputs, outputs = math.prod(shape), math.prod(conv.output_shape or ())
    linear = Linear(outputs, bias=conv.bias, algo=conv.algo, frozen=conv.frozen)
    linear.build((inputs,), precision=conv.precision, device=conv.device)
    units = backends.asarray(np.eye(inputs, dtype=conv.dtype).reshape(inputs, *shape), conv.device)
    linear["weight"][...] = ops.conv2d(units, conv["weight"], **conv.problem.window).reshape(inputs, outputs).T
    if conv.bias:
        linear["bias"].reshape(-1, conv.out_channels)[...] = conv["bias"]
    return linear


def as_convolutional(net: Sequential) -> Sequential:
    """`Sequential.as_convolutional`."""
    return net.as_convolutional()


def _input_shape(layer: Layer) -> Shape:
    if layer.input_shape is None:
        raise ValueError(f"build the {type(layer).__name__} first: what it reads is not known yet")
    return layer.input_shape
