"""The onnx package, imported on first use."""

from __future__ import annotations

from types import ModuleType


def onnx() -> ModuleType:
    """The module. Raises ImportError that names the extra if it is not installed."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ImportError("ONNX files need the onnx package: python -m pip install 'gpuconv[onnx]'") from error
    return onnx
