"""Nets from ONNX files: sequences of layers, and residual blocks whose two paths meet in an Add.

The graph is followed from its input. A value read by one node continues with that node's layer; a value read by two
nodes starts a block, which ends at the Add where both paths meet. ONNX flattens volumes in (C, H, W) order; weights
that read such features are reordered.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from gpuconv import files
from gpuconv.dtypes import converted, is_float
from gpuconv.interop.onnx_export import METADATA
from gpuconv.interop.onnx_library import onnx
from gpuconv.layers import (
    ELU,
    GELU,
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    HardSwish,
    Input,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    ReLU6,
    Residual,
    Scale,
    Sequential,
    Sigmoid,
    SiLU,
    Tanh,
)
from gpuconv.layers.saving import take_notes
from gpuconv.types import Shape

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto


LayerT = TypeVar("LayerT", bound=Layer)

_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


def from_onnx(
    path: str | os.PathLike[str],
    *,
    input_shape: Shape | None = None,
    device: str = "numpy",
    precision: str | None = None,
) -> Sequential:
    """The net of an ONNX file, with its weights and names.

    Volumes become NHWC. Layers are named by their weights or nodes, with underscores for dots; a file written by
    `to_onnx` restores the net's names, classes and normalization.

    Args:
        path: The file.
        input_shape: (H, W, C), if the file leaves sizes open.
        device: Where the net lives.
        precision: By default the file's, float32 or float16.

    Raises:
        ValueError: The file is not a net that can be converted; the message names the first operator without a layer,
            or what else is wrong.
        OSError: The file cannot be read.
        ImportError: The onnx package is missing.
    """
    library, file = onnx(), os.fspath(path)
    with files.open_regular(file):  # rejects FIFOs and folders
        pass
    try:
        model = library.load(file)
        for each in (*model.graph.input, *model.graph.output, *model.graph.value_info):
            if each.type.HasField("tensor_type"):
                each.type.tensor_type.shape.SetInParent()  # files may omit shapes, and the checker requires them
        library.checker.check_model(model)  # each node's inputs, outputs and attributes, and their order
    except OSError:
        raise
    except Exception as error:  # protobuf and the checker raise many types of errors
        raise ValueError(f"{file} is not an ONNX file: {_one_line(error)}") from error
    given = None if input_shape is None else Input(input_shape).shape
    try:
        net, stored = _Reader(library, model, file).net(given)
    except _RefusedError:
        raise
    except Exception as error:  # the checker does not check sizes and values
        raise _RefusedError(f"{file} cannot be read as a net: {_one_line(error)}") from error
    return net.to(device, precision=precision or stored)


class _RefusedError(ValueError):
    """A file that cannot be converted to a net; the message names it."""


class _Reader:
    """A model's graph, and how far it has been followed."""

    def __init__(self, library: ModuleType, model: ModelProto, path: str) -> None:
        self.onnx, self.model, self.file = library, model, path
        self.by_gpuconv = model.producer_name == "gpuconv"
        self.constants = {each.name: self._values(each) for each in model.graph.initializer}
        self.aliases: dict[str, str] = {}
        self.nodes = self._with_swish([node for node in model.graph.node if not self._record_constant_or_alias(node)])
        for node in self.nodes:
            if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
                self.fail(node, f"no layer covers it; these are covered: {', '.join(sorted(OPERATORS))}")
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                if name and self.resolved(name) not in self.constants:
                    self.readers.setdefault(self.resolved(name), []).append(node)
        self.output = self._only("output", [each.name for each in model.graph.output])

    def net(self, input_shape: Shape | None) -> tuple[Sequential, str]:
        """The net, in float32, and the precision of the file."""
        given = [each for each in self.model.graph.input if each.name not in self.constants]
        name = self._only("input", [each.name for each in given])
        first = self.readers.get(name, [])
        channels_last = [node.op_type for node in first] == ["Transpose"] and _attributes(first[0])["perm"] == _TO_NCHW
        shape = input_shape or self._shape(given[0], channels_last)
        row, end = _Row(self, tuple(shape), channels_last).follow(name)
        if end is not None:
            self.fail(end, "its two inputs do not come from one volume")
        layers = [Input(tuple(shape), name=re.sub(r"\W", "_", name)), *row.layers]
        if row.flattened:
            raise _RefusedError(f"{self.file}: the net ends with features in (C, H, W) order, which no layer gives")
        half = given[0].type.tensor_type.elem_type == self.onnx.TensorProto.FLOAT16
        net = Sequential(layers, share=True)
        noted = {each.key: each.value for each in self.model.metadata_props}.get(METADATA)
        if noted:
            take_notes(net, json.loads(noted))
        return net, "float16" if half else "float32"

    def fail(self, node: NodeProto, why: str) -> NoReturn:
        raise _RefusedError(f"{self.file}: the operator {node.op_type} (node {node.name or node.output[0]!r}): {why}")

    def resolved(self, name: str) -> str:
        while name in self.aliases:
            name = self.aliases[name]
        return name

    def constant(self, name: str) -> np.ndarray | None:
        return self.constants.get(self.resolved(name)) if name else None

    def weight(self, node: NodeProto, place: int) -> np.ndarray | None:
        """A constant input of a node, or None if the node lacks that input. Raises ValueError for a computed one."""
        if place >= len(node.input) or not node.input[place]:
            return None
        if (found := self.constant(node.input[place])) is None:
            self.fail(node, f"its input {node.input[place]!r} is computed, and layers take constants there")
        return found

    def _values(self, tensor: TensorProto) -> np.ndarray:
        try:
            if min(tensor.dims, default=0) < 0:  # to_array would infer such a size, as reshape does
                raise ValueError(f"sizes {[*tensor.dims]} below 0")
            return self.onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # sizes that do not fit the values, types that NumPy lacks
            raise _RefusedError(
                f"{self.file}: the constant {tensor.name!r} cannot be read: {_one_line(error)}"
            ) from error

    def _record_constant_or_alias(self, node: NodeProto) -> bool:
        """Record a constant or an alias; returns whether the node is one of these."""
        if node.op_type == "Constant":
            ((kind, value),) = _attributes(node).items()
            self.constants[node.output[0]] = self._values(value) if kind == "value" else np.array(value)
        elif node.op_type == "Identity":
            self.aliases[node.output[0]] = node.input[0]
        return node.op_type in ("Constant", "Identity")

    def _with_swish(self, nodes: list[NodeProto]) -> list[NodeProto]:
        """The nodes, with each x * sigmoid(x) merged into one, unless another node reads the sigmoid."""
        gates = {node.output[0]: node for node in nodes if node.op_type == "Sigmoid"}
        found = {}
        for node in nodes:
            for x, gate in (node.input, reversed(node.input)) if node.op_type == "Mul" else ():
                if gate in gates and gates[gate].input[0] == x:
                    readers = sum(gate in other.input for other in nodes)
                    if readers == 1:
                        found[node.output[0]] = self.onnx.helper.make_node("Swish", [x], list(node.output), node.name)
                        found[gate] = None
        made = [found.get(node.output[0], node) for node in nodes]
        return [node for node in made if node is not None]

    def _only(self, what: str, names: list[str]) -> str:
        if len(names) != 1:
            raise _RefusedError(f"{self.file}: a net has one {what}, the graph has {len(names)}: {', '.join(names)}")
        return self.resolved(names[0]) if what == "output" else names[0]

    def _shape(self, value: ValueInfoProto, channels_last: bool) -> Shape:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
        if len(sizes) not in (1, 3) or 0 in sizes:
            shape = ", ".join(dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim)
            raise _RefusedError(f"{self.file}: the input is of shape ({shape}); give input_shape=(H, W, C)")
        return tuple(sizes) if len(sizes) == 1 or channels_last else (*sizes[1:], sizes[0])


class _Row:
    """A sequence of layers, and the state of its output.

    flattened: the shape (H, W, C) of the volume, if the output is its features in (C, H, W) order; else ().
    channels_last: whether the output is NHWC in the ONNX graph.
    """

    def __init__(self, graph: _Reader, shape: Shape, channels_last: bool = False, flattened: Shape = ()) -> None:
        self.graph, self.shape, self.channels_last, self.flattened = graph, shape, channels_last, flattened
        self.layers: list[Layer] = []
        self.value = ""

    def follow(self, value: str, node: NodeProto | None = None) -> tuple[_Row, NodeProto | None]:
        """Add the layers after a value, up to the graph's output or an Add of two volumes. node: the reader of the
        value to begin with, if it has several. Returns this row and that Add, or None at the output."""
        graph, self.value = self.graph, value
        while True:
            readers = [node] if node is not None else graph.readers.get(self.value, [])
            if self.value == graph.output:
                if readers:
                    graph.fail(readers[0], "it reads the output, which must be the end of the net")
                return self, None
            if not readers:
                raise _RefusedError(f"{graph.file}: the value {self.value!r} leads nowhere")
            if len(readers) == 1:
                step = readers[0]
                if step.op_type == "Add" and not any(graph.constant(name) is not None for name in step.input):
                    return self, step
                self.take(step, OPERATORS[step.op_type])
            else:
                self.branch(readers)
            node = None

    def take(self, node: NodeProto, convert: Callable[[_Row, NodeProto], Layer | None]) -> None:
        """Append the layer of a node, and continue with the node's output."""
        self.value = node.output[0]
        try:
            if (layer := convert(self, node)) is not None:
                layer.name = self._free_name(self._name_of(node))
                self.shape = layer.place("", self.shape)
                self.layers.append(layer)
        except _RefusedError:
            raise
        except Exception as error:  # attributes and constants may have any size and value
            self.graph.fail(node, _one_line(error))

    def branch(self, readers: list[NodeProto]) -> None:
        """Append the residual block of a value that two nodes read."""
        graph = self.graph
        if len(readers) > 2:
            graph.fail(readers[2], f"it is the third reader of {self.value!r}; a residual block has two paths")
        paths = []
        for reader in readers:
            row = _Row(graph, self.shape, self.channels_last, self.flattened)
            paths.append(row.follow(self.value, reader))
        (left, end), (right, other) = paths
        if end is None or end is not other:
            graph.fail(readers[1], "the two paths do not meet in one Add")
        body, shortcut = sorted((left, right), key=lambda row: graph.resolved(end.input[0]) != row.value)
        if not body.layers:
            body, shortcut = shortcut, body
        if not body.layers or body.flattened != shortcut.flattened or body.channels_last != shortcut.channels_last:
            graph.fail(end, "its inputs must be a path of layers and a bypass of it, with features in the same order")
        self.channels_last, self.flattened = body.channels_last, body.flattened
        self.take(end, lambda *_: Residual(body.layers, shortcut.layers or None))

    def linear(self, node: NodeProto, weight: np.ndarray, bias: np.ndarray | None) -> Linear:
        """weight: (out_features, in_features)."""
        weight, self.flattened = self.reordered(weight), ()
        layer = Linear(len(weight), bias=bias is not None)
        return _with_arrays(
            layer, weight=weight, **({} if bias is None else {"bias": np.broadcast_to(bias, len(weight))})
        )

    def reordered(self, array: np.ndarray) -> np.ndarray:
        """An array whose last axis indexes the row's features, with that axis in (H, W, C) order."""
        if not self.flattened or array.shape[-1] != np.prod(self.flattened):
            return array
        h, w, c = self.flattened
        return np.moveaxis(array.reshape(*array.shape[:-1], c, h, w), -3, -1).reshape(array.shape)

    def flatten(self) -> Flatten:
        if len(self.shape) == 3 and not self.channels_last and self.shape[2] > 1 and self.shape[0] * self.shape[1] > 1:
            self.flattened = self.shape
        self.channels_last = False
        return Flatten()

    def _name_of(self, node: NodeProto) -> str:
        """The path of a node's module, from the name of its weight or its own name."""
        for name in node.input[1:]:
            if self.graph.constant(name) is not None and (found := re.fullmatch(r"(.+)\.(?:weight|bias)", name)):
                return found[1]
        scopes: list[str] = []
        for scope in (node.name or node.output[0]).strip("/").split("/"):
            if scopes and scope.startswith(f"{scopes[-1]}."):  # PyTorch's "/features/features.0/Relu"
                scopes.pop()
            scopes.append(scope)
        return ".".join(scopes[:-1] or scopes)

    def _free_name(self, path: str) -> str:
        taken = {layer.name for layer in self.layers}
        whole = re.sub(r"\W+", "_", path).strip("_") or "layer"
        names = [path.rpartition(".")[2]] if self.graph.by_gpuconv else []
        names += [whole, *(f"{whole}_{number}" for number in range(2, len(taken) + 3))]
        return next(name for name in names if name not in taken)


# --- the operators -----------------------------------------------------------------------------


def _conv(row: _Row, node: NodeProto) -> Layer:
    found = _attributes(node)
    weight, bias = row.graph.weight(node, 1), row.graph.weight(node, 2)
    assert weight is not None
    if weight.ndim != 4:
        row.graph.fail(node, f"convolutions are over two axes, its filters are of shape {weight.shape}")
    layer = Conv2D(
        len(weight),
        _one_or_pair(weight.shape[2:]),
        stride=_one_or_pair(found.get("strides", (1, 1))),
        padding=_padding(row, node, found),
        dilation=_one_or_pair(found.get("dilations", (1, 1))),
        groups=found.get("group", 1),
        bias=bias is not None,
    )
    return _with_arrays(layer, weight=weight.transpose(0, 2, 3, 1), **({} if bias is None else {"bias": bias}))


def _gemm(row: _Row, node: NodeProto) -> Layer:
    found = _attributes(node)
    weight, bias = row.graph.weight(node, 1), row.graph.weight(node, 2)
    assert weight is not None
    if found.get("transA", 0):
        row.graph.fail(node, "transA=1 has no layer")
    weight = (weight if found.get("transB", 0) else weight.T) * np.asarray(found.get("alpha", 1.0), weight.dtype)
    return row.linear(node, weight, None if bias is None else bias * np.asarray(found.get("beta", 1.0), bias.dtype))


def _matmul(row: _Row, node: NodeProto) -> Layer:
    weight = row.graph.weight(node, 1)
    assert weight is not None
    if weight.ndim != 2 or len(row.shape) != 1:
        row.graph.fail(node, f"a matrix of shape {weight.shape} is not a fully connected layer on {row.shape}")
    return row.linear(node, weight.T, None)


def _add(row: _Row, node: NodeProto) -> None:
    """A constant added after a product becomes its bias."""
    bias = next(found for found in map(row.graph.constant, node.input) if found is not None)
    last = row.layers[-1] if row.layers else None
    if not isinstance(last, Linear) or last.bias or bias.size not in (1, last.out_features):
        row.graph.fail(node, "a constant can only be added after a MatMul")
    last.bias = True
    last.arrays["bias"] = _array("bias", np.broadcast_to(bias.reshape(-1), last.out_features))
    last.place("", last.input_shape or ())


def _norm(row: _Row, node: NodeProto) -> Layer:
    found = _attributes(node)
    values = {}
    for place, name in enumerate(("weight", "bias", "running_mean", "running_var"), 1):
        value = row.graph.weight(node, place)
        assert value is not None
        values[name] = row.reordered(value)
    return _with_arrays(
        BatchNorm(eps=_number(found.get("epsilon", 1e-5)), momentum=_number(1 - found.get("momentum", 0.9))), **values
    )


def _pool(kind: Any) -> Callable[[_Row, NodeProto], Layer]:
    def convert(row: _Row, node: NodeProto) -> Layer:
        found = _attributes(node)
        if len(found["kernel_shape"]) != 2 or {*found.get("dilations", (1,))} != {1}:
            row.graph.fail(node, "pools are over two axes and without dilation")
        options: dict[str, Any] = {"fit": "cover" if found.get("ceil_mode", 0) else "floor"}
        if kind is AvgPool2D:
            options["count_include_pad"] = bool(found.get("count_include_pad", 0))
        stride, padding = _one_or_pair(found.get("strides", (1, 1))), _padding(row, node, found)
        return kind(_one_or_pair(found["kernel_shape"]), stride=stride, padding=padding, **options)

    return convert


def _padding(row: _Row, node: NodeProto, found: dict[str, Any]) -> Any:
    auto = found.get("auto_pad", b"NOTSET").decode()
    if auto not in ("NOTSET", "VALID"):
        row.graph.fail(node, f"auto_pad={auto}; export it with explicit pads")
    if len(pads := found.get("pads") or (0, 0, 0, 0)) != 4:
        row.graph.fail(node, f"pads are four numbers, received {pads}")
    top, left, bottom, right = pads
    return _one_or_pair([top, left]) if (top, left) == (bottom, right) else ((top, bottom), (left, right))


def _clip(row: _Row, node: NodeProto) -> Layer:
    found = _attributes(node)
    low, high = (
        found.get(name) if name in found else row.graph.weight(node, place) for place, name in ((1, "min"), (2, "max"))
    )
    ends = [None if end is None else float(end) for end in (low, high)]
    if ends == [0.0, 6.0]:
        return ReLU6()
    if ends == [0.0, None]:
        return ReLU()
    return row.graph.fail(node, f"clipping to {ends[0]} and {ends[1]} has no layer; 0 and 6 is ReLU6")


def _scale(row: _Row, node: NodeProto) -> Layer:
    factors = [found for found in map(row.graph.constant, node.input) if found is not None]
    if len(factors) != 1 or factors[0].size != 1:
        row.graph.fail(node, "a product has a layer only if one factor is a constant number")
    factor = _number(factors[0].reshape(()))
    if node.op_type == "Div":
        if row.graph.constant(node.input[1]) is None:
            row.graph.fail(node, "it divides a constant by a volume")
        factor = 1 / factor
    return Scale(factor)


def _dropout(row: _Row, node: NodeProto) -> Layer:
    ratio = row.graph.weight(node, 1)
    return Dropout(_number(_attributes(node).get("ratio", 0.5) if ratio is None else ratio.reshape(())))


def _flatten(row: _Row, node: NodeProto) -> Layer:
    if node.op_type == "Reshape":
        expected = row.graph.weight(node, 1)
        if expected is None or len(expected) != 2 or int(expected[1]) not in (-1, int(np.prod(row.shape))):
            row.graph.fail(node, "only a reshape to (N, features) has a layer")
    elif _attributes(node).get("axis", 1) not in (1, -len(row.shape)):
        row.graph.fail(node, "only axis=1 has a layer")
    return row.flatten()


def _mean(row: _Row, node: NodeProto) -> Layer:
    found = _attributes(node)
    axes = found["axes"] if "axes" in found else row.graph.weight(node, 1)
    if axes is None or sorted(int(axis) % 4 for axis in axes) != [2, 3] or not found.get("keepdims", 1):
        row.graph.fail(node, "only the mean over height and width with keepdims=1 has a layer")
    return GlobalAvgPool2D()


def _transpose(row: _Row, node: NodeProto) -> None:
    expected = _TO_NCHW if row.channels_last else _TO_NHWC
    if _attributes(node).get("perm") != expected:
        row.graph.fail(node, f"only perm={expected} is converted here")
    row.channels_last = not row.channels_last


def _gelu(row: _Row, node: NodeProto) -> Layer:
    return GELU(approximate=_attributes(node).get("approximate", b"none").decode())


OPERATORS: dict[str, Callable[[_Row, NodeProto], Layer | None]] = {
    "Add": _add,
    "AveragePool": _pool(AvgPool2D),
    "BatchNormalization": _norm,
    "Clip": _clip,
    "Conv": _conv,
    "Div": _scale,
    "Dropout": _dropout,
    "Elu": lambda row, node: ELU(alpha=_number(_attributes(node).get("alpha", 1.0))),
    "Flatten": _flatten,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda row, node: GlobalAvgPool2D(),
    "HardSwish": lambda row, node: HardSwish(),
    "LeakyRelu": lambda row, node: LeakyReLU(negative_slope=_number(_attributes(node).get("alpha", 0.01))),
    "MatMul": _matmul,
    "MaxPool": _pool(MaxPool2D),
    "Mul": _scale,
    "ReduceMean": _mean,
    "Relu": lambda row, node: ReLU(),
    "Reshape": _flatten,
    "Sigmoid": lambda row, node: Sigmoid(),
    "Swish": lambda row, node: SiLU(),
    "Tanh": lambda row, node: Tanh(),
    "Transpose": _transpose,
}


def _one_or_pair(values: Sequence[int]) -> Any:
    """The sizes of both axes, as one number if they are equal."""
    if len(values) != 2:
        raise ValueError(f"a size is two numbers, received {[*values]}")
    return values[0] if len(set(values)) == 1 else tuple(values)


def _number(value: Any) -> float:
    """The shortest decimal that rounds to a float32: 0.1 rather than 0.10000000149."""
    return float(str(np.float32(value)))


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {each.name: onnx().helper.get_attribute_value(each) for each in node.attribute}


def _with_arrays(layer: LayerT, **values: np.ndarray) -> LayerT:
    layer.arrays = {name: _array(name, value) for name, value in values.items()}
    return layer


def _array(name: str, value: np.ndarray) -> np.ndarray:
    if not is_float(value.dtype):
        raise ValueError(f"weights are floats, received {value.dtype}")
    return np.ascontiguousarray(converted(name, value, np.dtype(np.float32)))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__
