"""The former place of `Input`, `Sequential` and `Residual`, under which pickles name them."""

from gpuconv.layers.input import Input
from gpuconv.layers.residual import Residual
from gpuconv.layers.sequential import Sequential

__all__ = ["Input", "Residual", "Sequential"]
