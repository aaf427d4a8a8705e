"""Nets from ONNX files: sequences of layers, and residual blocks whose two paths meet in an Add."""

from __future__ import annotations

import os

from gpuconv.interop.onnx_import_graph import message_of, read_net
from gpuconv.interop.onnx_import_operators import OPERATORS
from gpuconv.interop.onnx_library import onnx
from gpuconv.layers import Input, Sequential
from gpuconv.system import files
from gpuconv.types import Shape


def from_onnx(
    path: str | os.PathLike[str],
    *,
    input_shape: Shape | None = None,
    device: str = "numpy",
    precision: str | None = None,
) -> Sequential:
    """The net of an ONNX file, with its weights and names.

    Volumes become NHWC. Layers are named by their weights or nodes, with underscores for dots; a file written by
    `to_onnx` restores the net's names, classes and normalization, if its operators can be read (docs/onnx.md).

    Args:
        path: The file.
        input_shape: (H, W, C), if the file leaves sizes open.
        device: Where the net lives.
        precision: By default the file's, float32 or float16.

    Raises:
        ValueError: The file is not a net that can be converted; the message names the first operator without a layer,
            or what else is wrong. Also for an unknown device or precision.
        TypeError: `input_shape` is not a shape.
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
        library.checker.check_model(model)  # each node's inputs, outputs and attributes, and the order of the nodes
    except OSError:
        raise
    except Exception as error:  # protobuf and the checker raise many types of errors
        raise ValueError(f"{file} is not an ONNX file: {message_of(error)}") from error
    given = None if input_shape is None else Input(input_shape).shape
    net, stored = read_net(model, file, OPERATORS, given)
    return net.to(device, precision=precision or stored)
