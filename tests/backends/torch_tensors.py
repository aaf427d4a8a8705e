"""Random NumPy arrays, and PyTorch's tensors of them."""

import numpy as np


def signed(shape, seed=0, scale=1.0):
    """Normally distributed numbers in float64."""
    return np.random.default_rng(seed).normal(size=shape) * scale


def leaf(x):
    """A tensor with a copy of x, for which PyTorch computes a gradient."""
    import torch

    return torch.from_numpy(x.copy()).requires_grad_()
