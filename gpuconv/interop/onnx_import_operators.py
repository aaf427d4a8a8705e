"""The layers of ONNX operators, by the name of the operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from gpuconv.dtypes import converted, is_float
from gpuconv.interop.onnx_import_graph import Row, attributes
from gpuconv.interop.onnx_library import TO_NCHW, TO_NHWC, Attributes
from gpuconv.layers import (
    ELU,
    GELU,
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dropout,
    GlobalAvgPool2D,
    HardSwish,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    ReLU6,
    Scale,
    Sigmoid,
    SiLU,
    Tanh,
)
from gpuconv.types import Options, Padding, Size

if TYPE_CHECKING:
    from onnx import NodeProto

    from gpuconv.interop.onnx_import_graph import Convert

LayerT = TypeVar("LayerT", bound=Layer)


def _conv(row: Row, node: NodeProto) -> Layer:
    found = attributes(node)
    weight, bias = row.graph.weight(node, 1), row.graph.weight(node, 2)
    assert weight is not None
    if weight.ndim != 4:
        row.graph.fail(node, f"convolutions are over two axes, but its filters are of shape {weight.shape}")
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


def _gemm(row: Row, node: NodeProto) -> Layer:
    found = attributes(node)
    weight, bias = row.graph.weight(node, 1), row.graph.weight(node, 2)
    assert weight is not None
    if found.get("transA", 0):
        row.graph.fail(node, "transA=1 has no layer")
    weight = (weight if found.get("transB", 0) else weight.T) * np.asarray(found.get("alpha", 1.0), weight.dtype)
    if bias is not None:
        bias = _bias(row, node, bias * np.asarray(found.get("beta", 1.0), bias.dtype), len(weight))
    return _linear(row, weight, bias)


def _matmul(row: Row, node: NodeProto) -> Layer:
    weight = row.graph.weight(node, 1)
    assert weight is not None
    if weight.ndim != 2 or len(row.shape) != 1:
        row.graph.fail(node, f"a matrix of shape {weight.shape} is not a fully connected layer on {row.shape}")
    return _linear(row, weight.T, None)


def _linear(row: Row, weight: np.ndarray, bias: np.ndarray | None) -> Linear:
    """weight: (out_features, in_features). bias: (out_features,)."""
    weight, row.flattened = row.reordered(weight), ()
    layer = Linear(len(weight), bias=bias is not None)
    return _with_arrays(layer, weight=weight, **({} if bias is None else {"bias": bias}))


def _bias(row: Row, node: NodeProto, value: np.ndarray, features: int) -> np.ndarray:
    """A constant that is added to each row of an (N, features) array, as an array (features,)."""
    if value.shape[:-1] not in ((), (1,)) or value.size not in (1, features):
        row.graph.fail(node, f"a bias has one value for each of the {features} features, received shape {value.shape}")
    return np.broadcast_to(value.reshape(-1), features)


def _add(row: Row, node: NodeProto) -> None:
    """A constant added after a product becomes its bias."""
    bias = next(found for found in map(row.graph.constant, node.input) if found is not None)
    last = row.layers[-1] if row.layers else None
    if not isinstance(last, Linear) or last.bias:
        row.graph.fail(node, "a constant can only be added after a MatMul")
    last.arrays["bias"] = _array("bias", _bias(row, node, bias, last.out_features))
    last.bias = True
    last.place("", last.input_shape or ())


def _norm(row: Row, node: NodeProto) -> Layer:
    found = attributes(node)
    kept = _number(found.get("momentum", 0.9))
    values = {}
    for index, name in enumerate(("weight", "bias", "running_mean", "running_var"), 1):
        value = row.graph.weight(node, index)
        assert value is not None
        values[name] = row.reordered(value)
    return _with_arrays(BatchNorm(eps=_number(found.get("epsilon", 1e-5)), momentum=_number(1 - kept)), **values)


def _pool(kind: type[AvgPool2D | MaxPool2D]) -> Convert:
    def convert(row: Row, node: NodeProto) -> Layer:
        found = attributes(node)
        if len(found["kernel_shape"]) != 2 or {*found.get("dilations", (1,))} != {1}:
            row.graph.fail(node, "pools are over two axes and without dilation")
        options: Options = {"fit": "cover" if found.get("ceil_mode", 0) else "floor"}
        if kind is AvgPool2D:
            options["count_include_pad"] = bool(found.get("count_include_pad", 0))
        stride, padding = _one_or_pair(found.get("strides", (1, 1))), _padding(row, node, found)
        return kind(_one_or_pair(found["kernel_shape"]), stride=stride, padding=padding, **options)

    return convert


def _padding(row: Row, node: NodeProto, found: Attributes) -> Padding:
    auto = found.get("auto_pad", b"NOTSET").decode()
    if auto not in ("NOTSET", "VALID"):
        row.graph.fail(node, f"auto_pad={auto}; export it with explicit pads")
    if len(pads := found.get("pads") or (0, 0, 0, 0)) != 4:
        row.graph.fail(node, f"pads are four numbers, received {pads}")
    top, left, bottom, right = pads
    return _one_or_pair([top, left]) if (top, left) == (bottom, right) else ((top, bottom), (left, right))


def _clip(row: Row, node: NodeProto) -> Layer:
    found = attributes(node)
    low, high = (
        found[name] if name in found else row.graph.weight(node, index) for index, name in ((1, "min"), (2, "max"))
    )
    ends = [None if end is None else float(end) for end in (low, high)]
    if ends == [0.0, 6.0]:
        return ReLU6()
    if ends == [0.0, None]:
        return ReLU()
    return row.graph.fail(node, f"clipping to {ends[0]} and {ends[1]} has no layer; ReLU6 clips to 0 and 6")


def _scale(row: Row, node: NodeProto) -> Layer:
    factors = [found for found in map(row.graph.constant, node.input) if found is not None]
    if len(factors) != 1 or factors[0].size != 1 or factors[0].ndim > 1 + len(row.shape):
        row.graph.fail(node, "it has a layer only if one operand is a constant number")
    factor = _number(factors[0].reshape(()))
    if node.op_type == "Div":
        if row.graph.constant(node.input[1]) is None:
            row.graph.fail(node, "it divides a constant by a volume")
        factor = 1 / factor
    return Scale(factor)


def _dropout(row: Row, node: NodeProto) -> Layer:
    ratio = row.graph.weight(node, 1)
    return Dropout(_number(attributes(node).get("ratio", 0.5) if ratio is None else ratio.reshape(())))


def _flatten(row: Row, node: NodeProto) -> Layer:
    if node.op_type == "Reshape":
        sizes, features = row.graph.weight(node, 1), int(np.prod(row.shape))
        kept = {(0, -1), (0, features), (-1, features), (row.graph.batch, -1), (row.graph.batch, features)}
        if sizes is None or tuple(map(int, sizes)) not in kept:
            row.graph.fail(node, "only a reshape to (N, features) has a layer")
    elif attributes(node).get("axis", 1) not in (1, -len(row.shape)):
        row.graph.fail(node, "only axis=1 has a layer")
    return row.flatten()


def _mean(row: Row, node: NodeProto) -> Layer:
    found = attributes(node)
    axes = found["axes"] if "axes" in found else row.graph.weight(node, 1)
    over = [1, 2] if row.channels_last else [2, 3]
    if axes is None or sorted(int(axis) % 4 for axis in axes) != over:
        row.graph.fail(node, "only the mean over height and width has a layer")
    if found.get("keepdims", 1):
        return GlobalAvgPool2D()
    row.take(node, lambda *_: GlobalAvgPool2D())
    return row.flatten()


def _transpose(row: Row, node: NodeProto) -> None:
    expected = TO_NCHW if row.channels_last else TO_NHWC
    if attributes(node).get("perm") != expected:
        row.graph.fail(node, f"only perm={expected} is converted here")
    row.channels_last = not row.channels_last


def _gelu(row: Row, node: NodeProto) -> Layer:
    return GELU(approximate=attributes(node).get("approximate", b"none").decode())


def _of_nchw(convert: Convert) -> Convert:
    """The conversion of an operator whose axis 1 is the channels: it is refused for a volume that is NHWC in the
    graph."""

    def checked(row: Row, node: NodeProto) -> Layer | None:
        if row.channels_last:
            row.graph.fail(node, f"its input is NHWC, and {node.op_type} reads NCHW")
        return convert(row, node)

    return checked


OPERATORS: dict[str, Convert] = {
    "Add": _add,
    "AveragePool": _of_nchw(_pool(AvgPool2D)),
    "BatchNormalization": _of_nchw(_norm),
    "Clip": _clip,
    "Conv": _of_nchw(_conv),
    "Div": _scale,
    "Dropout": _dropout,
    "Elu": lambda row, node: ELU(alpha=_number(attributes(node).get("alpha", 1.0))),
    "Flatten": _flatten,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _of_nchw(lambda row, node: GlobalAvgPool2D()),
    "HardSwish": lambda row, node: HardSwish(),
    "LeakyRelu": lambda row, node: LeakyReLU(negative_slope=_number(attributes(node).get("alpha", 0.01))),
    "MatMul": _matmul,
    "MaxPool": _of_nchw(_pool(MaxPool2D)),
    "Mul": _scale,
    "ReduceMean": _mean,
    "Relu": lambda row, node: ReLU(),
    "Reshape": _flatten,
    "Sigmoid": lambda row, node: Sigmoid(),
    "Swish": lambda row, node: SiLU(),
    "Tanh": lambda row, node: Tanh(),
    "Transpose": _transpose,
}


def _one_or_pair(values: Sequence[int]) -> Size:
    """The sizes of both axes, as one number if they are equal."""
    if len(values) != 2:
        raise ValueError(f"a size is two numbers, received {[*values]}")
    return values[0] if values[0] == values[1] else (values[0], values[1])


def _number(value: float | np.ndarray) -> float:
    """The shortest decimal with the same float32 value: 0.1 rather than 0.10000000149."""
    return float(str(np.float32(value)))


def _with_arrays(layer: LayerT, **values: np.ndarray) -> LayerT:
    layer.arrays = {name: _array(name, value) for name, value in values.items()}
    return layer


def _array(name: str, value: np.ndarray) -> np.ndarray:
    if not is_float(value.dtype):
        raise ValueError(f"weights are floats, received {value.dtype}")
    return np.ascontiguousarray(converted(name, value, np.dtype(np.float32)))
