"""gpuconv: a ConvNet library of hand-written CUDA kernels and fast NumPy code, both verified against a plain oracle."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from gpuconv.version import __version__ as __version__

if TYPE_CHECKING:
    from gpuconv import checks as checks
    from gpuconv import data as data
    from gpuconv import initializers as initializers
    from gpuconv import inspect as inspect
    from gpuconv import interop as interop
    from gpuconv import lab as lab
    from gpuconv import layers as layers
    from gpuconv import live as live
    from gpuconv import losses as losses
    from gpuconv import metrics as metrics
    from gpuconv import models as models
    from gpuconv import ops as ops
    from gpuconv import parallel as parallel
    from gpuconv import plots as plots
    from gpuconv import profiling as profiling
    from gpuconv import random as random
    from gpuconv import training as training
    from gpuconv import verify as verify
    from gpuconv.backends import DeviceError, asarray, device_of, oracle, to_numpy
    from gpuconv.layers import Sequential
    from gpuconv.training import Trainer, load
    from gpuconv.training.evaluate import evaluate as evaluate

_MODULES = (
    "checks",
    "data",
    "initializers",
    "inspect",
    "interop",
    "lab",
    "layers",
    "live",
    "losses",
    "metrics",
    "models",
    "ops",
    "parallel",
    "plots",
    "profiling",
    "random",
    "training",
    "verify",
)

_NAMES = {
    "backends": ("DeviceError", "asarray", "device_of", "oracle", "to_numpy"),
    "layers": ("Sequential",),
    "training": ("Trainer", "evaluate", "load"),
}

__all__ = [
    "DeviceError",
    "Sequential",
    "Trainer",
    "asarray",
    "device_of",
    "evaluate",
    "load",
    "oracle",
    "to_numpy",
    *_MODULES,
]


def _import(name: str) -> object:
    """Import a part of the package on first use, so that ``import gpuconv`` stays fast."""
    if name in _MODULES:
        return importlib.import_module(f"gpuconv.{name}")
    for module, names in _NAMES.items():
        if name in names:
            globals()[name] = found = getattr(importlib.import_module(f"gpuconv.{module}"), name)
            return found
    raise AttributeError(f"module 'gpuconv' has no attribute {name!r}")


if not TYPE_CHECKING:  # type checkers that saw __getattr__ would accept every name
    __getattr__ = _import


def __dir__() -> list[str]:
    return sorted(__all__)
