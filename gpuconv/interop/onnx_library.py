"""The onnx package, imported on first use, and what export and import share."""

from __future__ import annotations

from types import ModuleType
from typing import Any

METADATA = "gpuconv"  # the key of the model's metadata that holds the notes of `layers.saving`, as JSON
TO_NCHW, TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]  # the permutations of a Transpose
Attributes = dict[str, Any]  # an operator's attributes, by name


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
