"""Batch normalization agrees with PyTorch on the CPU."""

import numpy as np
import pytest

from gpuconv import ops
from tests.backends.torch_tensors import leaf
from tests.random_arrays import signed

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(7, 3), (3, 5, 7, 2), (2, 1, 1, 5)])
def test_batch_norm_agrees_with_torch(shape, training):
    c = shape[-1]
    x, dy = signed(shape, scale=2) + 1, signed(shape, 1)
    gamma, beta, running_mean = signed(c, 2), signed(c, 3), signed(c, 4)
    running_var = np.abs(signed(c, 5)) + 0.5
    tensor, weight, bias = leaf(x), leaf(gamma), leaf(beta)
    their_mean, their_var = torch.from_numpy(running_mean.copy()), torch.from_numpy(running_var.copy())
    y, mean, inv_std = ops.batch_norm(
        x, gamma, beta, running_mean, running_var, training=training, momentum=0.3, eps=1e-3
    )
    channels_second = tensor.movedim(-1, 1)
    expected = F.batch_norm(channels_second, their_mean, their_var, weight, bias, training, 0.3, 1e-3).movedim(1, -1)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(running_mean, their_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(running_var, their_var.numpy(), rtol=1e-12)

    expected.backward(torch.from_numpy(dy))
    gradients = ops.batch_norm_backward(dy, x, gamma, mean, inv_std, training=training)
    for ours, theirs in zip(gradients, (tensor, weight, bias)):
        np.testing.assert_allclose(ours, theirs.grad.numpy(), rtol=1e-9, atol=1e-11)
