"""Nets as ONNX files.

ONNX's volumes are NCHW, so filters become (K, C, R, S). gpuconv's Flatten gives features in (H, W, C) order. If a
Linear reads them, the columns of its weight are reordered; otherwise, the volume is transposed before the Flatten.
Nodes and their outputs are named by the path of the layer ("residual1.conv1"), and weights by their keys in the state
dict.
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from gpuconv.arguments import flag
from gpuconv.dtypes import full_name
from gpuconv.interop.onnx_export_graph import ExportedGraph
from gpuconv.interop.onnx_export_layers import FORMS
from gpuconv.layers import Layer, Sequential
from gpuconv.names import lookup
from gpuconv.system import files

if TYPE_CHECKING:
    from onnx import ModelProto


LAYOUTS = {"NCHW": "NCHW", "NHWC": "NHWC"}
DTYPES = {name: np.dtype(name) for name in ("float32", "float16")}


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
        net: A built net, or one built layer.
        path: The file.
        layout: The layout of volumes at the model's input and output, "NCHW" or, with a transposition inside, "NHWC".
        normalization: Whether the model takes uint8 images and begins with `net.normalization`.
        softmax: Whether the model ends with probabilities.
        dtype: "float32" or "float16"; by default float16 for a float16 net, else float32.

    Raises:
        TypeError: A layer has no ONNX form, or an argument has the wrong type.
        ValueError: The net is not built or lacks the requested normalization, the layout or dtype is unknown, a
            layer has no ONNX form for images of any size, or a number is out of the range of the dtype.
        ImportError: The onnx package is missing.
        OSError: The file cannot be written.
    """
    files.write(path, model(net, layout, normalization, softmax, dtype).SerializeToString())


def model(net: Sequential, layout: str, normalization: bool, softmax: bool, dtype: str | None) -> ModelProto:
    """The ONNX model that `to_onnx` writes."""
    if not isinstance(net, Layer):
        raise TypeError(f"to_onnx takes a net, received {type(net).__name__}")
    if not net.built or any(name not in layer.arrays for layer in net.walk() for name in layer.variables):
        raise ValueError("the net has no weights yet: build it with an input shape and without initialize=False")
    if not isinstance(net, Sequential) and not net.path:  # its nodes are named by the path that a layer has in a net
        net = Sequential([net])
    normalization, softmax = flag("normalization", normalization), flag("softmax", softmax)
    if normalization and getattr(net, "normalization", None) is None:
        raise ValueError("normalization=True needs net.normalization, which a net gets by training on uint8 images")
    layout = lookup("layout", layout, LAYOUTS)
    graph = ExportedGraph(net, lookup("dtype", full_name(dtype or _default_dtype(net)), DTYPES), FORMS)
    first = next(net.walk() if not isinstance(net, Sequential) else iter(net.layers))
    x = graph.begin(first, layout, normalization)
    y = graph.export(net, x)
    if softmax:
        y = graph.node("Softmax", [y], graph.own_name("softmax"), axis=1)
    return graph.end(y, layout)


def _default_dtype(net: Layer) -> str:
    return "float16" if net.dtype == np.float16 else "float32"
