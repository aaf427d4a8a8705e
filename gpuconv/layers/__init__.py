"""Layers. A net is a list of them: ``Sequential([Input((32, 32, 3)), Conv2D(12, 3, padding=1), ReLU(), ...])``."""

import sys

from gpuconv.layers import batch_parts, input_gradient
from gpuconv.layers.activation import ELU, GELU, HardSwish, LeakyReLU, ReLU, ReLU6, Sigmoid, SiLU, Tanh
from gpuconv.layers.base import Layer
from gpuconv.layers.branches import Branches
from gpuconv.layers.conv import Conv2D
from gpuconv.layers.conv_transpose import ConvTranspose2D
from gpuconv.layers.dropout import Dropout
from gpuconv.layers.fused import ConvActivation, ConvNorm, ConvReLU, NormActivation
from gpuconv.layers.fused_residual import ResidualNorm
from gpuconv.layers.group_norm import GroupNorm, LayerNorm
from gpuconv.layers.input import Input
from gpuconv.layers.layer_call import listen
from gpuconv.layers.linear import Flatten, Linear
from gpuconv.layers.norm import BatchNorm
from gpuconv.layers.norm_chain import NormChain
from gpuconv.layers.pool import AdaptiveAvgPool2D, AvgPool2D, GlobalAvgPool2D, MaxPool2D
from gpuconv.layers.registry import LAYERS
from gpuconv.layers.residual import Residual
from gpuconv.layers.scale import Scale
from gpuconv.layers.sequential import Sequential
from gpuconv.layers.upsample import Upsample
from gpuconv.layers.variables import Variable

__all__ = [
    "ELU",
    "GELU",
    "LAYERS",
    "AdaptiveAvgPool2D",
    "AvgPool2D",
    "BatchNorm",
    "Branches",
    "Conv2D",
    "ConvActivation",
    "ConvNorm",
    "ConvReLU",
    "ConvTranspose2D",
    "Dropout",
    "Flatten",
    "GlobalAvgPool2D",
    "GroupNorm",
    "HardSwish",
    "Input",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "MaxPool2D",
    "NormActivation",
    "NormChain",
    "ReLU",
    "ReLU6",
    "Residual",
    "ResidualNorm",
    "Scale",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Tanh",
    "Upsample",
    "Variable",
    "listen",
]

# The former names of two modules that authors of layers import.
sys.modules |= {f"{__name__}.part": batch_parts, f"{__name__}.onto": input_gradient}
