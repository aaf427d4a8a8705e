"""Converts an ONNX graph to sequences of layers, from its input to its output.

A value that one node reads is the input of that node's layer; a value that two nodes read starts a residual block,
which ends at the Add where both paths meet. ONNX flattens volumes in (C, H, W) order; weights that read such features
are reordered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from gpuconv.interop.onnx_library import METADATA, TO_NCHW, Attributes, onnx
from gpuconv.layers import Flatten, Input, Layer, Residual, Sequential
from gpuconv.layers.saving import take_notes
from gpuconv.text.plain_text import one_line
from gpuconv.types import Shape

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

    Convert = Callable[["Row", NodeProto], Layer | None]


class RefusedError(ValueError):
    """A file that cannot be converted to a net; the message names it."""


def read_net(
    model: ModelProto, file: str, operators: Mapping[str, Convert], input_shape: Shape | None
) -> tuple[Sequential, str]:
    """The net of a model, in float32, and the precision of its file. operators: as in `ImportedGraph`. input_shape: by
    default the model's. Raises RefusedError."""
    try:
        return ImportedGraph(onnx(), model, file, operators).net(input_shape)
    except RefusedError:
        raise
    except Exception as error:  # the checker does not check sizes and values
        raise RefusedError(f"{file} cannot be read as a net: {message_of(error)}") from error


class ImportedGraph:
    """A model's graph: its constants, its nodes, and the nodes that read each value. operators: functions that convert
    a node to a layer, by the node's type."""

    def __init__(self, library: ModuleType, model: ModelProto, path: str, operators: Mapping[str, Convert]) -> None:
        self.onnx, self.model, self.file, self.operators = library, model, path, operators
        self.by_gpuconv = model.producer_name == "gpuconv"
        self.constants = {each.name: self._values(each) for each in model.graph.initializer}
        self.aliases: dict[str, str] = {}
        self.nodes = self._with_swish([node for node in model.graph.node if not self._record_constant_or_alias(node)])
        for node in self.nodes:
            if node.op_type not in operators or node.domain not in ("", "ai.onnx"):
                self.fail(node, f"no layer covers it; these are covered: {', '.join(sorted(operators))}")
        self.readers: dict[str, list[NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                if name and self.resolved(name) not in self.constants:
                    self.readers.setdefault(self.resolved(name), []).append(node)
        self.output = self._only_name("output", [each.name for each in model.graph.output])
        self.given = [each for each in model.graph.input if each.name not in self.constants]

    @property
    def batch(self) -> int:
        """The number of images that the file fixes; 0 if it leaves the number open."""
        dims = self.given[0].type.tensor_type.shape.dim
        return dims[0].dim_value if dims else 0

    def net(self, input_shape: Shape | None) -> tuple[Sequential, str]:
        """The net, in float32, and the precision of the file."""
        name = self._only_name("input", [each.name for each in self.given])
        first = self.readers.get(name, [])
        channels_last = [node.op_type for node in first] == ["Transpose"] and attributes(first[0])["perm"] == TO_NCHW
        shape = input_shape or self._shape(self.given[0], channels_last)
        row, end = Row(self, tuple(shape), channels_last).follow(name)
        if end is not None:
            self.fail(end, "its two inputs do not come from one volume")
        layers = [Input(tuple(shape), name=re.sub(r"\W", "_", name)), *row.layers]
        if row.flattened:
            raise RefusedError(f"{self.file}: the net ends with features in (C, H, W) order, which no layer gives")
        half = self.given[0].type.tensor_type.elem_type == self.onnx.TensorProto.FLOAT16
        net = Sequential(layers, share=True)
        noted = {each.key: each.value for each in self.model.metadata_props}.get(METADATA)
        if noted:
            take_notes(net, json.loads(noted))
        return net, "float16" if half else "float32"

    def fail(self, node: NodeProto, why: str) -> NoReturn:
        raise RefusedError(f"{self.file}: the operator {node.op_type} (node {node.name or node.output[0]!r}): {why}")

    def resolved(self, name: str) -> str:
        while name in self.aliases:
            name = self.aliases[name]
        return name

    def constant(self, name: str) -> np.ndarray | None:
        return self.constants.get(self.resolved(name)) if name else None

    def weight(self, node: NodeProto, index: int) -> np.ndarray | None:
        """A constant input of a node, or None if the node lacks that input. Raises ValueError for a computed one."""
        if index >= len(node.input) or not node.input[index]:
            return None
        if (found := self.constant(node.input[index])) is None:
            self.fail(node, f"its input {node.input[index]!r} is computed, and layers take constants there")
        return found

    def _values(self, tensor: TensorProto) -> np.ndarray:
        try:
            if min(tensor.dims, default=0) < 0:  # to_array would infer such a size, as reshape does
                raise ValueError(f"sizes {[*tensor.dims]} below 0")
            return self.onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # sizes that do not fit the values, types that NumPy lacks
            raise RefusedError(
                f"{self.file}: the constant {tensor.name!r} cannot be read: {message_of(error)}"
            ) from error

    def _record_constant_or_alias(self, node: NodeProto) -> bool:
        """Record a constant or an alias; returns whether the node is one of these."""
        if node.op_type == "Constant":
            ((kind, value),) = attributes(node).items()
            self.constants[node.output[0]] = self._values(value) if kind == "value" else np.array(value)
        elif node.op_type == "Identity":
            self.aliases[node.output[0]] = node.input[0]
        return node.op_type in ("Constant", "Identity")

    def _with_swish(self, nodes: list[NodeProto]) -> list[NodeProto]:
        """The nodes, with each x * sigmoid(x) merged into one, unless another node reads the sigmoid."""
        gates = {node.output[0]: node for node in nodes if node.op_type == "Sigmoid"}
        replaced: dict[str, NodeProto | None] = {}  # by the output's name; None: the node is left out
        for node in (node for node in nodes if node.op_type == "Mul"):
            for x, gate in (node.input, reversed(node.input)):
                is_swish = gate in gates and gates[gate].input[0] == x
                if is_swish and sum(gate in other.input for other in nodes) == 1:
                    replaced[node.output[0]] = self.onnx.helper.make_node("Swish", [x], list(node.output), node.name)
                    replaced[gate] = None
        made = [replaced.get(node.output[0], node) for node in nodes]
        return [node for node in made if node is not None]

    def _only_name(self, what: str, names: list[str]) -> str:
        if len(names) != 1:
            raise RefusedError(f"{self.file}: a net has one {what}, the graph has {len(names)}: {', '.join(names)}")
        return self.resolved(names[0]) if what == "output" else names[0]

    def _shape(self, value: ValueInfoProto, channels_last: bool) -> Shape:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
        if len(sizes) not in (1, 3) or 0 in sizes:
            shape = ", ".join(dim.dim_param or str(dim.dim_value) for dim in value.type.tensor_type.shape.dim)
            raise RefusedError(f"{self.file}: the input is of shape ({shape}); give input_shape=(H, W, C)")
        return tuple(sizes) if len(sizes) == 1 or channels_last else (*sizes[1:], sizes[0])


class Row:
    """A sequence of layers, and the state of its output.

    flattened: the shape (H, W, C) of the volume, if the output is its features in (C, H, W) order; else ().
    channels_last: whether the output is NHWC in the ONNX graph.
    """

    def __init__(self, graph: ImportedGraph, shape: Shape, channels_last: bool = False, flattened: Shape = ()) -> None:
        self.graph, self.shape, self.channels_last, self.flattened = graph, shape, channels_last, flattened
        self.layers: list[Layer] = []
        self.value = ""

    def follow(self, value: str, node: NodeProto | None = None) -> tuple[Row, NodeProto | None]:
        """Add the layers after a value, up to the graph's output or an Add of two volumes. node: the reader to begin
        with, if the value has several. Returns this row, and that Add or, at the output, None."""
        graph, self.value = self.graph, value
        while True:
            readers = [node] if node is not None else graph.readers.get(self.value, [])
            if self.value == graph.output:
                if readers:
                    graph.fail(readers[0], "it reads the output, which must be the end of the net")
                return self, None
            if not readers:
                raise RefusedError(f"{graph.file}: the value {self.value!r} leads nowhere")
            if len(readers) == 1:
                reader = readers[0]
                if reader.op_type == "Add" and not any(graph.constant(name) is not None for name in reader.input):
                    return self, reader
                self.take(reader, graph.operators[reader.op_type])
            else:
                self.branch(readers)
            node = None

    def take(self, node: NodeProto, convert: Convert) -> None:
        """Append the layer of a node, and continue with the node's output."""
        self.value = node.output[0]
        try:
            if (layer := convert(self, node)) is not None:
                layer.name = self._free_name(self._name_of(node))
                self.shape = layer.place("", self.shape)
                self.layers.append(layer)
        except RefusedError:
            raise
        except Exception as error:  # attributes and constants may have any size and value
            self.graph.fail(node, message_of(error))

    def branch(self, readers: list[NodeProto]) -> None:
        """Append the residual block of a value that two nodes read."""
        graph = self.graph
        if len(readers) > 2:
            graph.fail(readers[2], f"it is the third reader of {self.value!r}; a residual block has two paths")
        paths = []
        for reader in readers:
            row = Row(graph, self.shape, self.channels_last, self.flattened)
            paths.append(row.follow(self.value, reader))
        (left, end), (right, other) = paths
        if end is None or end is not other:
            graph.fail(readers[1], "the two paths do not meet in one Add")
        # The body is the path to the Add's first input, unless that path has no layers.
        body, shortcut = sorted((left, right), key=lambda row: graph.resolved(end.input[0]) != row.value)
        if not body.layers:
            body, shortcut = shortcut, body
        if not body.layers or body.flattened != shortcut.flattened or body.channels_last != shortcut.channels_last:
            graph.fail(end, "its inputs must be a path of layers and a bypass of it, with features in the same order")
        self.channels_last, self.flattened = body.channels_last, body.flattened
        self.take(end, lambda *_: Residual(body.layers, shortcut.layers or None))

    def reordered(self, array: np.ndarray) -> np.ndarray:
        """The array. If its last axis indexes the row's features, that axis is reordered to (H, W, C)."""
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


def attributes(node: NodeProto) -> Attributes:
    """A node's attributes, by name."""
    return {each.name: onnx().helper.get_attribute_value(each) for each in node.attribute}


def message_of(error: Exception) -> str:
    """An error's message as one line."""
    return one_line(error)[:500] or type(error).__name__
