"""gpuconv: a ConvNet library of hand-written CUDA kernels and fast NumPy code, both proved against a plain oracle."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpuconv import ops as ops
    from gpuconv.backends import DeviceError, asarray, device_of, oracle, to_numpy

__version__ = "0.1.0"

_MODULES = (
    "checks", "data", "initializers", "interop", "layers", "losses", "metrics", "models", "ops", "plots", "profiling",
    "random", "training", "verify",
)  # fmt: skip

__all__ = ["DeviceError", "asarray", "device_of", "oracle", "to_numpy", *_MODULES]


def __getattr__(name: str) -> Any:
    """Import a part of the package when it is first named, so that ``import gpuconv`` stays quick."""
    if name in _MODULES:
        return importlib.import_module(f"gpuconv.{name}")
    if name in __all__:
        globals()[name] = found = getattr(importlib.import_module("gpuconv.backends"), name)
        return found
    raise AttributeError(f"module 'gpuconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
