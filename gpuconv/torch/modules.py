"""PyTorch's modules with our kernels, and their replacement in a net."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gpuconv.torch.conv import conv2d
from gpuconv.torch.linear import linear


class Conv2d(torch.nn.Conv2d):
    """A `torch.nn.Conv2d` that runs our kernels; its filters are kept in channels_last memory.

    Args:
        arguments, options: Those of `torch.nn.Conv2d`.

    Raises ValueError for a padding_mode other than "zeros".
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        _adopt_module(self)

    def forward(self, input: Tensor) -> Tensor:
        """`conv2d` of `input`, (N, C, H, W), with the module's filters and bias."""
        padding: Any = self.padding
        return conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)  # type: ignore[arg-type]


class Linear(torch.nn.Linear):
    """A `torch.nn.Linear` that runs our kernels.

    Args:
        in_features, out_features, bias, device, dtype: As `torch.nn.Linear` takes them.
    """

    def forward(self, input: Tensor) -> Tensor:
        """`linear` of `input`, (..., in_features), with the module's weight and bias."""
        return linear(input, self.weight, self.bias)


_SWAPS: dict[type, type] = {torch.nn.Conv2d: Conv2d, torch.nn.Linear: Linear}


def replace(module: torch.nn.Module) -> torch.nn.Module:
    """Replace every Conv2d and Linear of a module, or the module itself, by ours, in place.

    Parameters, names and hooks stay; filters move to channels_last memory. Subclasses of `torch.nn.Conv2d` and
    `torch.nn.Linear` are left as they are.

    Args:
        module: Any module of PyTorch.

    Returns:
        The module.

    Raises:
        TypeError: `module` is not a module of PyTorch.
        ValueError: A convolution has a padding_mode other than "zeros"; then nothing has changed.
    """
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"replace takes a module of PyTorch, received {type(module).__name__}")
    found = [each for each in module.modules() if type(each) in _SWAPS]
    for each in found:
        _expect_zeros(each)
    for each in found:
        each.__class__ = _SWAPS[type(each)]
        _adopt_module(each)
    return module


def _adopt_module(module: torch.nn.Module) -> None:
    """Check a module of ours, and move its filters to channels_last memory."""
    _expect_zeros(module)
    if isinstance(module, Conv2d):
        module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)


def _expect_zeros(module: torch.nn.Module) -> None:
    mode = getattr(module, "padding_mode", "zeros")
    if mode != "zeros":
        raise ValueError(f"our convolutions pad with zeros, received padding_mode={mode!r}")
