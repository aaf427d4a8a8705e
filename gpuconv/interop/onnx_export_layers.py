"""The ONNX operators of each layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.arguments import pair
from gpuconv.interop.onnx_export_graph import ExportedGraph, values
from gpuconv.interop.onnx_library import TO_NCHW, TO_NHWC, Attributes
from gpuconv.layers import (
    ELU,
    GELU,
    AdaptiveAvgPool2D,
    AvgPool2D,
    BatchNorm,
    Branches,
    Conv2D,
    ConvActivation,
    ConvNorm,
    ConvReLU,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    GroupNorm,
    HardSwish,
    Input,
    Layer,
    LayerNorm,
    LeakyReLU,
    Linear,
    MaxPool2D,
    NormActivation,
    NormChain,
    ReLU,
    ReLU6,
    Residual,
    ResidualNorm,
    Scale,
    Sequential,
    Sigmoid,
    SiLU,
    Tanh,
    Upsample,
)
from gpuconv.layers.activation import Activation
from gpuconv.layers.fused import ConvPool
from gpuconv.problems import Conv2dProblem, Pool2dProblem

if TYPE_CHECKING:
    from gpuconv.interop.onnx_export_graph import Form


def _row(graph: ExportedGraph, layer: Sequential, x: str) -> str:
    layers = layer.layers
    for index, each in enumerate(layers):
        if type(each) is Flatten and _flattens_in_other_order(each):
            if _linear_reads(layers[index + 1 :]):
                graph.flattened_shape = each.input_shape
            else:
                x = graph.node("Transpose", [x], f"{each.path}.nhwc", perm=TO_NHWC)
        x = graph.export(each, x)
    return x


def _flattens_in_other_order(layer: Layer) -> bool:
    """Whether NCHW and NHWC flatten to different orders."""
    shape = layer.input_shape or ()
    return len(shape) == 3 and shape[2] > 1 and shape[0] * shape[1] > 1


def _linear_reads(rest: Sequence[Layer]) -> bool:
    """Whether the first layer that depends on the order of features is a Linear."""
    first = next((each for each in rest if not isinstance(each, _ORDERLESS)), None)
    return type(first) is Linear


_ORDERLESS = (Activation, Dropout, Scale)


def _residual(graph: ExportedGraph, layer: Residual, x: str) -> str:
    return graph.node("Add", [graph.export(row, x) if row else x for row in layer.rows], layer.path)


def _branches(graph: ExportedGraph, layer: Branches, x: str) -> str:
    outputs = [graph.export(row, x) if row else x for row in layer.rows]
    return (
        graph.node("Sum", outputs, layer.path)
        if layer.merge == "add"
        else graph.node("Concat", outputs, layer.path, axis=1)
    )


def _conv_transpose(graph: ExportedGraph, layer: ConvTranspose2D, x: str) -> str:
    inputs = [x, graph.weight(layer, "weight", values(layer, "weight").transpose(TO_NCHW))]
    inputs += [graph.weight(layer, "bias")] if layer.bias else []
    dilations, group = list(layer.problem.dilation), layer.groups
    added = list(pair("output_padding", layer.output_padding, 0))
    return graph.node(
        "ConvTranspose",
        inputs,
        layer.path,
        dilations=dilations,
        group=group,
        output_padding=added,
        **_window(graph, layer),
    )


def _adaptive(graph: ExportedGraph, layer: AdaptiveAvgPool2D, x: str) -> str:
    if graph.open_size:
        raise ValueError(f"{layer.path}: an adaptive pool has no ONNX form if the size of the input is variable")
    return graph.node("AveragePool", [x], layer.path, kernel_shape=layer.kernel_size, strides=layer.stride)


def _conv(graph: ExportedGraph, layer: Conv2D, x: str) -> str:
    inputs = [x, graph.weight(layer, "weight", values(layer, "weight").transpose(TO_NCHW))]
    inputs += [graph.weight(layer, "bias")] if layer.bias else []
    dilations, group = list(layer.problem.dilation), layer.groups
    return graph.node("Conv", inputs, layer.path, dilations=dilations, group=group, **_window(graph, layer))


def _linear(graph: ExportedGraph, layer: Linear, x: str) -> str:
    weight, volume = values(layer, "weight"), graph.flattened_shape
    if volume:
        weight = np.moveaxis(weight.reshape(-1, *volume), -1, 1).reshape(weight.shape)
        graph.flattened_shape = None
    inputs = [x, graph.weight(layer, "weight", weight)]
    inputs += [graph.weight(layer, "bias")] if layer.bias else []
    return graph.node("Gemm", inputs, layer.path, transB=1)


def _norm(graph: ExportedGraph, layer: BatchNorm, x: str) -> str:
    dtype = np.float32  # for float16 volumes too, as in gpuconv's own arrays; ONNX allows it
    inputs = [x, *(graph.weight(layer, name, dtype=dtype) for name in layer.variables)]
    return graph.node("BatchNormalization", inputs, layer.path, epsilon=layer.eps, momentum=1 - layer.momentum)


def _group_norm(graph: ExportedGraph, layer: GroupNorm, x: str) -> str:
    inputs = [x, graph.weight(layer, "weight"), graph.weight(layer, "bias")]
    return graph.node("GroupNormalization", inputs, layer.path, num_groups=layer.groups, epsilon=layer.eps)


def _layer_norm(graph: ExportedGraph, layer: LayerNorm, x: str) -> str:
    """ONNX normalizes the last axes, so a volume is transposed to NHWC and back."""
    is_volume = len(layer.input_shape or ()) == 3
    if is_volume:
        x = graph.node("Transpose", [x], f"{layer.path}.nhwc", perm=TO_NHWC)
    inputs = [x, graph.weight(layer, "weight"), graph.weight(layer, "bias")]
    name = f"{layer.path}.normal" if is_volume else layer.path
    y = graph.node("LayerNormalization", inputs, name, axis=-1, epsilon=layer.eps)
    return graph.node("Transpose", [y], layer.path, perm=TO_NCHW) if is_volume else y


def _upsample(graph: ExportedGraph, layer: Upsample, x: str) -> str:
    scales = graph.constant(f"{layer.path}.scales", [1, 1, *layer.options["stride"]], np.float32)
    if layer.mode == "bilinear":
        modes = dict(mode="linear", coordinate_transformation_mode="half_pixel")
    else:
        modes = dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    return graph.node("Resize", [x, "", scales], layer.path, **modes)


def _max_pool(graph: ExportedGraph, layer: MaxPool2D, x: str) -> str:
    return graph.node("MaxPool", [x], layer.path, **_window(graph, layer))


def _avg_pool(graph: ExportedGraph, layer: AvgPool2D, x: str) -> str:
    problem = layer.problem
    # With fit="cover", ONNX's divisor would count the cells past the padding too; gpuconv's excludes them.
    shares = [
        (np.minimum(np.arange(windows) * stride + size, padded) - np.arange(windows) * stride) / size
        for windows, stride, size, padded in zip(
            (problem.p, problem.q), problem.stride, problem.kernel_size, _padded_sizes(problem)
        )
    ]
    corrected = layer.count_include_pad and min(map(np.min, shares)) < 1
    name = f"{layer.path}.mean" if corrected else layer.path
    y = graph.node("AveragePool", [x], name, count_include_pad=int(layer.count_include_pad), **_window(graph, layer))
    if corrected:
        factors = graph.constant(f"{layer.path}.factors", 1 / np.outer(*shares)[None, None])
        y = graph.node("Mul", [y, factors], layer.path)
    return y


def _window(graph: ExportedGraph, layer: Conv2D | ConvTranspose2D | MaxPool2D | AvgPool2D) -> Attributes:
    """kernel_shape, strides and pads (top, left, bottom, right); fit="cover" becomes padding to the last window's
    end."""
    problem = layer.problem
    if graph.open_size and problem.fit == "cover":
        raise ValueError(f"{layer.path}: fit='cover' has no ONNX form if the size of the input is variable")
    before, after = zip(*problem.padding)
    reach = [
        (windows - 1) * stride + dilation * (size - 1) + 1
        for windows, stride, dilation, size in zip(
            (problem.p, problem.q), problem.stride, problem.dilation, problem.kernel_size
        )
    ]
    missing = [max(0, end - padded) for end, padded in zip(reach, _padded_sizes(problem))]
    return dict(
        kernel_shape=list(problem.kernel_size),
        strides=list(problem.stride),
        pads=[*before, *(side + more for side, more in zip(after, missing))],
    )


def _padded_sizes(problem: Conv2dProblem | Pool2dProblem) -> list[int]:
    return [size + sum(sides) for size, sides in zip((problem.h, problem.w), problem.padding)]


def _clip6(graph: ExportedGraph, layer: Layer, x: str) -> str:
    bounds = [graph.constant(f"{layer.path}.{name}", value) for name, value in (("min", 0), ("max", 6))]
    return graph.node("Clip", [x, *bounds], layer.path)


def _silu(graph: ExportedGraph, layer: Layer, x: str) -> str:
    return graph.node("Mul", [x, graph.node("Sigmoid", [x], f"{layer.path}.sigmoid")], layer.path)


def _scale(graph: ExportedGraph, layer: Scale, x: str) -> str:
    return graph.node("Mul", [x, graph.constant(f"{layer.path}.factor", layer.factor)], layer.path)


def _dropout(graph: ExportedGraph, layer: Dropout, x: str) -> str:
    return graph.node("Dropout", [x, graph.constant(f"{layer.path}.ratio", layer.p, np.float32)], layer.path)


def _one_operator(op: str, attributes: Callable[[Any], Attributes] = lambda layer: {}) -> Form:
    """The conversion of a layer that is one operator without weights."""

    def convert(graph: ExportedGraph, layer: Layer, x: str) -> str:
        return graph.node(op, [x], layer.path, **attributes(layer))

    return convert


FUSED = (ConvActivation, ConvNorm, ConvPool, ConvReLU, NormActivation, NormChain, ResidualNorm)

FORMS: dict[type, Form] = {
    Sequential: _row,
    **dict.fromkeys(FUSED, _row),
    Residual: _residual,
    Branches: _branches,
    Input: lambda graph, layer, x: x,
    Conv2D: _conv,
    ConvTranspose2D: _conv_transpose,
    Linear: _linear,
    BatchNorm: _norm,
    GroupNorm: _group_norm,
    LayerNorm: _layer_norm,
    MaxPool2D: _max_pool,
    AvgPool2D: _avg_pool,
    AdaptiveAvgPool2D: _adaptive,
    GlobalAvgPool2D: _one_operator("GlobalAveragePool"),
    Upsample: _upsample,
    Flatten: _one_operator("Flatten", lambda layer: {"axis": 1}),
    Dropout: _dropout,
    Scale: _scale,
    ReLU: _one_operator("Relu"),
    ReLU6: _clip6,
    LeakyReLU: _one_operator("LeakyRelu", lambda layer: {"alpha": layer.negative_slope}),
    ELU: _one_operator("Elu", lambda layer: {"alpha": layer.alpha}),
    HardSwish: _one_operator("HardSwish"),
    Sigmoid: _one_operator("Sigmoid"),
    Tanh: _one_operator("Tanh"),
    SiLU: _silu,
    GELU: _one_operator("Gelu", lambda layer: {"approximate": layer.approximate}),
}
