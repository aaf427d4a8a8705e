"""Pools against PyTorch on the CPU, where it is installed."""

import numpy as np
import pytest

from gpuconv import ops

torch = pytest.importorskip("torch")
F = torch.nn.functional

# H, W, kernel_size, stride, padding
SHAPES = [
    (8, 6, (2, 2), (2, 2), (0, 0)),
    (7, 11, (3, 2), (2, 3), (1, 0)),
    (5, 7, (3, 3), (1, 1), (1, 1)),
    (11, 13, (4, 3), (3, 2), (2, 1)),
    (7, 5, (2, 2), (5, 4), (1, 1)),
    (6, 9, (5, 4), (2, 4), (2, 2)),
    (1, 1, (1, 1), (1, 1), (0, 0)),
    (3, 4, (2, 2), (3, 3), (1, 1)),
]
FITS = [("floor", False), ("cover", True)]

pytestmark = [
    pytest.mark.usefixtures("oracle_and_numpy"),
    pytest.mark.parametrize(("fit", "ceil_mode"), FITS),
    pytest.mark.parametrize(("h", "w", "kernel_size", "stride", "padding"), SHAPES),
]


def volumes(h, w):
    x = np.random.default_rng(h * w).permutation(2 * h * w * 3).reshape(2, h, w, 3) / 8.0 - 7
    return x, nchw(x)


def nchw(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous().requires_grad_()


def nhwc(tensor):
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def test_max_pool_agrees_with_torch(h, w, kernel_size, stride, padding, fit, ceil_mode):
    x, tensor = volumes(h, w)
    options = dict(kernel_size=kernel_size, stride=stride, padding=padding, fit=fit)
    y, argmax = ops.max_pool2d(x, **options)
    theirs, flat = F.max_pool2d(tensor, kernel_size, stride, padding, ceil_mode=ceil_mode, return_indices=True)
    np.testing.assert_array_equal(y, nhwc(theirs))

    # PyTorch's argmax counts the pixels of the whole map.
    p, q = (np.arange(count) for count in y.shape[1:3])
    row = (p * stride[0] - padding[0])[:, None, None] + argmax // kernel_size[1]
    column = (q * stride[1] - padding[1])[:, None] + argmax % kernel_size[1]
    np.testing.assert_array_equal(row.astype(int) * w + column, nhwc(flat))

    dy = np.random.default_rng(1).normal(size=y.shape)
    theirs.backward(nchw(dy).detach())
    dx = ops.max_pool2d_backward(dy, argmax, input_shape=x.shape, **options)
    np.testing.assert_allclose(dx, nhwc(tensor.grad), atol=1e-14)


@pytest.mark.parametrize("count_include_pad", [True, False])
def test_avg_pool_agrees_with_torch(h, w, kernel_size, stride, padding, fit, ceil_mode, count_include_pad):
    x, tensor = volumes(h, w)
    options = dict(
        kernel_size=kernel_size, stride=stride, padding=padding, fit=fit, count_include_pad=count_include_pad
    )
    y = ops.avg_pool2d(x, **options)
    theirs = F.avg_pool2d(tensor, kernel_size, stride, padding, ceil_mode, count_include_pad)
    np.testing.assert_allclose(y, nhwc(theirs), atol=1e-13)
    dy = np.random.default_rng(1).normal(size=y.shape)
    theirs.backward(nchw(dy).detach())
    np.testing.assert_allclose(
        ops.avg_pool2d_backward(dy, input_shape=x.shape, **options), nhwc(tensor.grad), atol=1e-13
    )
