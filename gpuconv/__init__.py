"""gpuconv: a ConvNet library whose every operation exists twice, in NumPy and as a hand-written CUDA kernel."""

from __future__ import annotations

import importlib
from typing import Any

from gpuconv import ops
from gpuconv.backends import DeviceError, asarray, device_of, to_numpy

__version__ = "0.1.0"

_LAZY = (
    "checks", "data", "initializers", "interop", "layers", "losses", "models", "plots", "profiling", "random",
    "training", "verify",
)  # fmt: skip

__all__ = ["DeviceError", "asarray", "device_of", "ops", "to_numpy", *_LAZY]


def __getattr__(name: str) -> Any:
    """Import a part of the package when it is first named, so that ``import gpuconv`` stays quick."""
    if name in _LAZY:
        return importlib.import_module(f"gpuconv.{name}")
    raise AttributeError(f"module 'gpuconv' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
