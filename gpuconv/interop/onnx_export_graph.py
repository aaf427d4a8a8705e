"""An ONNX graph in the making: its nodes, its weights, its input and its output."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from gpuconv import backends
from gpuconv.dtypes import converted
from gpuconv.interop.onnx_library import METADATA, TO_NCHW, TO_NHWC, onnx
from gpuconv.layers import Input, Layer
from gpuconv.layers.saving import notes
from gpuconv.types import Array, Shape
from gpuconv.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

    Form = Callable[["ExportedGraph", Any, str], str]

OPSET, IR_VERSION = 21, 10  # both of ONNX 1.16


class ExportedGraph:
    """The nodes and initializers so far. forms: for each class of layers, a function that adds such a layer.
    `flattened_shape`: the shape (H, W, C) of a volume that a Flatten has flattened and that a Linear will read. The
    Linear reorders its columns by this shape and resets it to None. `open_size`: whether the height and width of the
    input are variable."""

    def __init__(self, net: Layer, dtype: np.dtype, forms: Mapping[type, Form]) -> None:
        self.onnx = onnx()
        self.net, self.dtype, self.forms = net, dtype, forms
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
        """Add an initializer, by default in the model's dtype. Raises ValueError for a number out of its range."""
        array = np.array(converted(name, np.asarray(value), np.dtype(dtype or self.dtype)), order="C")
        self.initializers.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def weight(self, layer: Layer, name: str, value: Array | None = None, dtype: DTypeLike | None = None) -> str:
        """Add a layer's variable under its key in the state dict."""
        return self.constant(_join(layer.path, name), values(layer, name) if value is None else value, dtype)

    def own_name(self, name: str) -> str:
        """A unique name for a node or constant that belongs to no layer."""
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name

    def export(self, layer: Layer, x: str) -> str:
        """Add a layer that reads `x`; returns the name of its output."""
        form = self.forms.get(type(layer))
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
            name = self.node("Transpose", [name], self.own_name("input.nchw"), perm=TO_NCHW)
        return self._normalized(name) if normalization else name

    def _normalized(self, x: str) -> str:
        """(x - mean) * (1 / std) in float32, as in `gpuconv.data.Normalization`."""
        found: Any = self.net.normalization
        x = self.node("Cast", [x], self.own_name("input.float32"), to=self.onnx.TensorProto.FLOAT)
        for op, name, value in (("Sub", "mean", found.mean), ("Mul", "inverse_std", 1 / found.std)):
            name = self.own_name(f"input.{name}")
            value = value.reshape(1, -1, 1, 1) if value.ndim == 1 else value[None].transpose(TO_NCHW)
            x = self.node(op, [x, self.constant(name, value, np.float32)], self.own_name(f"input.{op.lower()}"))
        if self.dtype != np.float32:
            kind = self.onnx.helper.np_dtype_to_tensor_dtype(self.dtype)
            x = self.node("Cast", [x], self.own_name(f"input.{self.dtype.name}"), to=kind)
        return x

    def end(self, y: str, layout: str) -> ModelProto:
        """Declare `y` as the output; returns the checked model."""
        if layout == "NHWC" and len(self.net.output_shape or ()) == 3:
            y = self.node("Transpose", [y], self.own_name("output"), perm=TO_NHWC)
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

    def _value(self, name: str, shape: Shape | None, dtype: np.dtype, layout: str) -> ValueInfoProto:
        sizes: list[int | str] = [*(shape or ())]
        if len(sizes) == 3:
            if self.open_size:
                sizes[:2] = [f"{name}.height", f"{name}.width"]
            if layout == "NCHW":
                sizes = [sizes[2], *sizes[:2]]
        helper = self.onnx.helper
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), ["N", *sizes])


def values(layer: Layer, name: str) -> np.ndarray:
    return backends.to_numpy(layer[name])


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
