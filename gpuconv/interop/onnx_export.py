"""Nets as ONNX files.

ONNX's volumes are NCHW, so filters become (K, C, R, S). gpuconv's Flatten gives features in (H, W, C) order. If a
Linear reads them, the columns of its weight are reordered; for any other layer, the volume is transposed before the
Flatten. Nodes and their outputs are named by the path of the layer ("residual1.conv1"), and weights by their keys in
the state dict.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from gpuconv import backends, files
from gpuconv.arguments import pair
from gpuconv.interop.onnx_library import onnx
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
from gpuconv.layers.saving import notes
from gpuconv.names import lookup
from gpuconv.problems import Conv2dProblem
from gpuconv.types import Array
from gpuconv.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto


OPSET, IR_VERSION = 21, 10
LAYOUTS = {"NCHW": "NCHW", "NHWC": "NHWC"}
DTYPES = {name: np.dtype(name) for name in ("float32", "float16")}
METADATA = "gpuconv"  # the key of the model's metadata that holds the classes and the normalization, as JSON

_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def to_onnx(
    net: Sequential,
    path: str | PathLike[str],
    *,
    layout: str = "NCHW",
    normalization: bool = False,
    softmax: bool = False,
    dtype: str | None = None,
) -> None:
    """Write a net as an ONNX file of opset 21, for inference on batches of any size. If the net's Input has
    larger=True, the height and width are left open.

    Args:
        net: Built.
        path: The file.
        layout: The layout of volumes at the model's input and output, "NCHW" or, with a transposition inside, "NHWC".
        normalization: Whether the model takes uint8 images and begins with `net.normalization`.
        softmax: Whether the model ends with probabilities.
        dtype: "float32" or "float16"; by default float16 for a float16 net, else float32.

    Raises:
        TypeError: A layer has no ONNX form.
        ValueError: The net is not built or has no normalization, or a layer has no ONNX form for images of any size.
        ImportError: The onnx package is missing.
        OSError: The file cannot be written.
    """
    files.write(path, model(net, layout, normalization, softmax, dtype).SerializeToString())


def model(net: Sequential, layout: str, normalization: bool, softmax: bool, dtype: str | None) -> ModelProto:
    """The ONNX model that `to_onnx` writes."""
    if not isinstance(net, Layer):
        raise TypeError(f"to_onnx takes a net, received {type(net).__name__}")
    if not net.built or any(name not in layer.arrays for layer in net.walk() for name in layer.variables):
        raise ValueError("the net has no weights yet: begin it with Input(...) or call build(input_shape)")
    if normalization and getattr(net, "normalization", None) is None:
        raise ValueError("normalization=True needs net.normalization, and the net was not trained on uint8 images")
    layout = lookup("layout", layout, LAYOUTS)
    graph = Graph(net, lookup("dtype", dtype or _default_dtype(net), DTYPES))
    first = next(net.walk() if not isinstance(net, Sequential) else iter(net.layers))
    x = graph.begin(first, layout, normalization)
    y = graph.export(net, x)
    if softmax:
        y = graph.node("Softmax", [y], "softmax", axis=1)
    return graph.end(y, layout)


def _default_dtype(net: Layer) -> str:
    return "float16" if net.dtype == np.float16 else "float32"


class Graph:
    """The nodes and initializers so far. `flattened_shape`: the shape (H, W, C) of a flattened volume, from
    the Flatten to the Linear whose columns are reordered."""

    def __init__(self, net: Layer, dtype: np.dtype) -> None:
        self.onnx = onnx()
        self.net, self.dtype = net, dtype
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.flattened_shape: tuple[int, ...] | None = None
        self.open_size = any(isinstance(layer, Input) and layer.larger for layer in net.walk())
        self._names: set[str] = {layer.path for layer in net.walk()}

    # --- building blocks -----------------------------------------------------------------------

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
        """Add a node; its name is also the name of its output."""
        self.nodes.append(self.onnx.helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: ArrayLike, dtype: DTypeLike | None = None) -> str:
        """Add an initializer, by default in the model's dtype."""
        array = np.array(value, dtype or self.dtype, order="C")
        self.initializers.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def weight(self, layer: Layer, name: str, value: Array | None = None, dtype: DTypeLike | None = None) -> str:
        """Add a layer's variable under its key in the state dict."""
        return self.constant(_join(layer.path, name), _values(layer, name) if value is None else value, dtype)

    def own_name(self, name: str) -> str:
        """A unique name for a node or constant that belongs to no layer."""
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def export(self, layer: Layer, x: str) -> str:
        """Add a layer that reads `x`; returns the name of its output."""
        form = FORMS.get(type(layer))
        if form is None:
            raise TypeError(f"{layer.path or 'the net'}: the layer {type(layer).__name__} has no ONNX form")
        return form(self, layer, x)

    # --- input and output ---------------------------------------------------------------------------

    def begin(self, first: Layer, layout: str, normalization: bool) -> str:
        """Declare the input; returns the name of the volume that the first layer reads."""
        name = first.path if isinstance(first, Input) else self.own_name("input")
        dtype = np.dtype(np.uint8) if normalization else self.dtype
        self.inputs.append(self._value(name, self.net.input_shape, dtype, layout))
        if layout == "NHWC" and len(self.net.input_shape or ()) == 3:
            name = self.node("Transpose", [name], self.own_name("input.nchw"), perm=_TO_NCHW)
        return self._normalized(name) if normalization else name

    def _normalized(self, x: str) -> str:
        """(x - mean) * (1 / std) in float32, as in `gpuconv.data.Normalization`."""
        found: Any = self.net.normalization
        for op, name, value in (("Sub", "mean", found.mean), ("Mul", "inverse_std", 1 / found.std)):
            if op == "Sub":
                x = self.node("Cast", [x], self.own_name("input.float32"), to=self.onnx.TensorProto.FLOAT)
            name = self.own_name(f"input.{name}")
            value = value.reshape(1, -1, 1, 1) if value.ndim == 1 else value[None].transpose(_TO_NCHW)
            x = self.node(op, [x, self.constant(name, value, np.float32)], self.own_name(f"input.{op.lower()}"))
        if self.dtype != np.float32:
            kind = self.onnx.helper.np_dtype_to_tensor_dtype(self.dtype)
            x = self.node("Cast", [x], self.own_name(f"input.{self.dtype.name}"), to=kind)
        return x

    def end(self, y: str, layout: str) -> ValueInfoProto:
        """Declare `y` as the output; returns the checked model."""
        if layout == "NHWC" and len(self.net.output_shape or ()) == 3:
            y = self.node("Transpose", [y], self.own_name("output"), perm=_TO_NHWC)
        elif not self.nodes:
            y = self.node("Identity", [y], self.own_name("output"))
        helper = self.onnx.helper
        output = self._value(y, self.net.output_shape, self.dtype, layout)
        graph = helper.make_graph(self.nodes, "gpuconv", self.inputs, [output], self.initializers)
        made = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="gpuconv",
            producer_version=__version__,
        )
        helper.set_model_props(made, {METADATA: json.dumps(notes(self.net))})
        self.onnx.checker.check_model(made)
        return made

    def _value(self, name: str, shape: Any, dtype: np.dtype, layout: str) -> ValueInfoProto:
        sizes: list[int | str] = list(shape)
        if len(sizes) == 3:
            if self.open_size:
                sizes[:2] = [f"{name}.height", f"{name}.width"]
            if layout == "NCHW":
                sizes = [sizes[2], *sizes[:2]]
        helper = self.onnx.helper
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), ["N", *sizes])


# --- the layers --------------------------------------------------------------------------------


def _row(graph: Graph, layer: Any, x: str) -> str:
    layers = layer.layers
    for place, each in enumerate(layers):
        if type(each) is Flatten and _flattens_in_other_order(each):
            if _linear_reads(layers[place + 1 :]):
                graph.flattened_shape = each.input_shape
            else:
                x = graph.node("Transpose", [x], f"{each.path}.nhwc", perm=_TO_NHWC)
        x = graph.export(each, x)
    return x


def _flattens_in_other_order(layer: Layer) -> bool:
    """Whether NCHW and NHWC flatten to different orders."""
    shape = layer.input_shape or ()
    return len(shape) == 3 and shape[2] > 1 and shape[0] * shape[1] > 1


def _linear_reads(rest: Sequence[Layer]) -> bool:
    """Whether the first layer that depends on the order of features is a Linear."""
    return any(type(layer) is Linear for layer in [each for each in rest if not isinstance(each, _ORDERLESS)][:1])


_ORDERLESS = (Activation, Dropout, Scale)


def _residual(graph: Graph, layer: Residual, x: str) -> str:
    return graph.node("Add", [graph.export(row, x) if row else x for row in layer.rows], layer.path)


def _branches(graph: Graph, layer: Branches, x: str) -> str:
    outputs = [graph.export(row, x) if row else x for row in layer.rows]
    return (
        graph.node("Sum", outputs, layer.path)
        if layer.merge == "add"
        else graph.node("Concat", outputs, layer.path, axis=1)
    )


def _conv_transpose(graph: Graph, layer: ConvTranspose2D, x: str) -> str:
    inputs = [x, graph.weight(layer, "weight", _values(layer, "weight").transpose(_TO_NCHW))]
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


def _adaptive(graph: Graph, layer: AdaptiveAvgPool2D, x: str) -> str:
    if graph.open_size:
        raise ValueError(f"{layer.path}: an adaptive pool has no ONNX form if the size of the input is variable")
    return graph.node("AveragePool", [x], layer.path, kernel_shape=layer.kernel_size, strides=layer.stride)


def _conv(graph: Graph, layer: Conv2D, x: str) -> str:
    inputs = [x, graph.weight(layer, "weight", _values(layer, "weight").transpose(_TO_NCHW))]
    inputs += [graph.weight(layer, "bias")] if layer.bias else []
    dilations, group = list(layer.problem.dilation), layer.groups
    return graph.node("Conv", inputs, layer.path, dilations=dilations, group=group, **_window(graph, layer))


def _linear(graph: Graph, layer: Linear, x: str) -> str:
    weight, volume = _values(layer, "weight"), graph.flattened_shape
    if volume:
        weight = np.moveaxis(weight.reshape(-1, *volume), -1, 1).reshape(weight.shape)
        graph.flattened_shape = None
    inputs = [x, graph.weight(layer, "weight", weight)]
    inputs += [graph.weight(layer, "bias")] if layer.bias else []
    return graph.node("Gemm", inputs, layer.path, transB=1)


def _norm(graph: Graph, layer: BatchNorm, x: str) -> str:
    dtype = np.float32  # ONNX also keeps the statistics of float16 volumes in float32
    inputs = [x, *(graph.weight(layer, name, dtype=dtype) for name in layer.variables)]
    return graph.node("BatchNormalization", inputs, layer.path, epsilon=layer.eps, momentum=1 - layer.momentum)


def _group_norm(graph: Graph, layer: GroupNorm, x: str) -> str:
    inputs = [x, graph.weight(layer, "weight"), graph.weight(layer, "bias")]
    return graph.node("GroupNormalization", inputs, layer.path, num_groups=layer.groups, epsilon=layer.eps)


def _layer_norm(graph: Graph, layer: LayerNorm, x: str) -> str:
    """ONNX normalizes the last axes, so a volume is transposed to NHWC and back."""
    is_volume = len(layer.input_shape or ()) == 3
    if is_volume:
        x = graph.node("Transpose", [x], f"{layer.path}.nhwc", perm=_TO_NHWC)
    inputs = [x, graph.weight(layer, "weight"), graph.weight(layer, "bias")]
    name = f"{layer.path}.normal" if is_volume else layer.path
    y = graph.node("LayerNormalization", inputs, name, axis=-1, epsilon=layer.eps)
    return graph.node("Transpose", [y], layer.path, perm=_TO_NCHW) if is_volume else y


def _upsample(graph: Graph, layer: Upsample, x: str) -> str:
    scales = graph.constant(f"{layer.path}.scales", [1, 1, *layer.options["stride"]], np.float32)
    if layer.mode == "bilinear":
        modes = dict(mode="linear", coordinate_transformation_mode="half_pixel")
    else:
        modes = dict(mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    return graph.node("Resize", [x, "", scales], layer.path, **modes)


def _max_pool(graph: Graph, layer: MaxPool2D, x: str) -> str:
    return graph.node("MaxPool", [x], layer.path, **_window(graph, layer))


def _avg_pool(graph: Graph, layer: Any, x: str) -> str:
    problem = layer.problem
    # With fit="cover", ONNX would divide by the cells past the padding too; gpuconv's divisor excludes them.
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


def _window(graph: Graph, layer: Any) -> dict[str, Any]:
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


def _padded_sizes(problem: Conv2dProblem) -> list[int]:
    return [size + sum(sides) for size, sides in zip((problem.h, problem.w), problem.padding)]


def _clip6(graph: Graph, layer: Layer, x: str) -> str:
    bounds = [graph.constant(f"{layer.path}.{name}", value) for name, value in (("min", 0), ("max", 6))]
    return graph.node("Clip", [x, *bounds], layer.path)


def _silu(graph: Graph, layer: Layer, x: str) -> str:
    return graph.node("Mul", [x, graph.node("Sigmoid", [x], f"{layer.path}.sigmoid")], layer.path)


def _scale(graph: Graph, layer: Scale, x: str) -> str:
    return graph.node("Mul", [x, graph.constant(f"{layer.path}.factor", layer.factor)], layer.path)


def _dropout(graph: Graph, layer: Dropout, x: str) -> str:
    return graph.node("Dropout", [x, graph.constant(f"{layer.path}.ratio", layer.p, np.float32)], layer.path)


def _one_operator(op: str, attributes: Callable[[Any], dict[str, Any]] = lambda layer: {}) -> Callable[..., str]:
    """The conversion of a layer that is one operator without weights."""

    def form(graph: Graph, layer: Layer, x: str) -> str:
        return graph.node(op, [x], layer.path, **attributes(layer))

    return form


FUSED = (ConvActivation, ConvNorm, ConvPool, ConvReLU, NormActivation, NormChain, ResidualNorm)

FORMS: dict[type, Callable[[Graph, Any, str], str]] = {
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


def _values(layer: Layer, name: str) -> np.ndarray:
    return backends.to_numpy(layer[name])


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
