"""Conversion of nets to other formats and back: PyTorch's state dicts, ONNX files."""

from gpuconv.interop.onnx_export import to_onnx
from gpuconv.interop.onnx_import import from_onnx
from gpuconv.interop.torch import from_torch, to_torch

__all__ = ["from_onnx", "from_torch", "to_onnx", "to_torch"]
