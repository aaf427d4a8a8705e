"""Conversion of FC layers to CONV layers and back ("Converting FC layers to CONV layers", CS231n notes).

An FC layer on an (H, W, C) volume is a CONV layer whose filters are as large as the volume. In NHWC its weight
(out, H * W * C) only needs a reshape to the filters (out, H, W, C).
"""

from __future__ import annotations

import math

import numpy as np

from gpuconv import backends, ops
from gpuconv.algorithms import AUTO, DEPTHWISE, FEW_CHANNELS_NAMES, full_name
from gpuconv.layers import Conv2D, Layer, Linear, Sequential
from gpuconv.layers.rewrite import take_values
from gpuconv.types import Shape


def linear_to_conv(linear: Linear, volume: Shape | None = None) -> Conv2D:
    """The CONV layer equivalent to a built FC layer, with the same values.

    volume: the (H, W, C) that is flattened before the layer; by default (1, 1, features of the layer).
    Raises ValueError if the volume is not (H, W, C) or has another size than the layer's input, or the layer is not
    built, and TypeError for another layer.
    """
    (features,) = _input_shape(linear, Linear)
    volume = (1, 1, features) if volume is None else volume
    if np.ndim(volume) != 1 or len(volume) != 3:
        raise ValueError(f"volume must be (H, W, C), received {volume}")
    if math.prod(volume) != features:
        raise ValueError(f"the layer reads {features} features, but {volume} has {math.prod(volume)}")
    conv = linear.as_conv(volume)
    conv.build(volume, precision=linear.precision, device=linear.device)
    take_values(conv, linear)
    return conv


def conv_to_linear(conv: Conv2D) -> Linear:
    """The FC layer that maps the flattened input of a built CONV layer to its flattened output.

    Its weight is the convolution as one matrix, (P * Q * K, H * W * C), with zeros where an output does not read an
    input. With one group, no padding and filters as large as the input, the weight is just the reshaped filters. Raises
    ValueError if the layer is not built, and TypeError for another layer.
    """
    shape = _input_shape(conv, Conv2D)
    inputs, outputs = math.prod(shape), math.prod(conv.output_shape or ())
    only_convolves = full_name(conv.algo) in {DEPTHWISE, *FEW_CHANNELS_NAMES}
    linear = Linear(outputs, bias=conv.bias, algo=AUTO if only_convolves else conv.algo, frozen=conv.frozen)
    linear.build((inputs,), precision=conv.precision, device=conv.device)
    units = backends.asarray(np.eye(inputs, dtype=conv.dtype).reshape(inputs, *shape), conv.device)
    columns = ops.conv2d(units, conv["weight"], **conv.problem.window).reshape(inputs, outputs)
    backends.assign(linear["weight"], columns.transpose())
    if conv.bias:
        backends.assign(linear["bias"].reshape(-1, conv.out_channels), conv["bias"])
    return linear


def as_convolutional(net: Sequential) -> Sequential:
    """The net with its FC layers converted to CONV layers; see `Sequential.as_convolutional`. Raises TypeError for
    anything but a Sequential."""
    if not isinstance(net, Sequential):
        raise TypeError(f"a net must be a gpuconv.Sequential, received {type(net).__name__}")
    return net.as_convolutional()


def _input_shape(layer: object, kind: type[Layer]) -> Shape:
    if not isinstance(layer, kind):
        raise TypeError(f"the layer must be a {kind.__name__}, received {type(layer).__name__}")
    if layer.input_shape is None:
        raise ValueError(f"build the {type(layer).__name__} first: its input shape is unknown")
    return layer.input_shape
