"""The module that used to define `Input`, `Sequential` and `Residual`; old pickles refer to them here."""

from gpuconv.layers.input import Input
from gpuconv.layers.residual import Residual
from gpuconv.layers.sequential import Sequential

__all__ = ["Input", "Residual", "Sequential"]
