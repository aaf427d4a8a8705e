"""PyTorch's tensors of NumPy arrays."""


def leaf(x):
    """A tensor with a copy of x, for which PyTorch computes a gradient."""
    import torch

    return torch.from_numpy(x.copy()).requires_grad_()
