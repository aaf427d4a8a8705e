"""Checks of the tensors of a call."""

from __future__ import annotations

from torch import Tensor


def expect_axes(count: int, **tensors: object) -> None:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.ndim != count:
            raise wrong_tensor_error(name, f"with {count} {'axis' if count == 1 else 'axes'}", tensor)


def wrong_tensor_error(name: str, accepted: str, received: object) -> Exception:
    if not isinstance(received, Tensor):
        return TypeError(f"{name} must be a tensor of PyTorch, received {type(received).__name__}")
    return ValueError(f"{name} must be a tensor {accepted}, received shape {tuple(received.shape)}")
