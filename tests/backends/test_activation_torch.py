"""Activations and softmax agree with PyTorch on the CPU."""

import numpy as np
import pytest

from gpuconv import ops
from tests.backends.torch_tensors import leaf
from tests.random_arrays import signed

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")

ACTIVATIONS = {
    "relu": ({}, F.relu),
    "relu6": ({}, F.relu6),
    "leaky_relu": ({"negative_slope": 0.2}, lambda x: F.leaky_relu(x, 0.2)),
    "elu": ({"alpha": 0.7}, lambda x: F.elu(x, 0.7)),
    "sigmoid": ({}, torch.sigmoid),
    "tanh": ({}, torch.tanh),
    "silu": ({}, F.silu),
    "hard_swish": ({}, F.hardswish),
    "gelu": ({}, F.gelu),
    "gelu, tanh form": ({"approximate": "tanh"}, lambda x: F.gelu(x, approximate="tanh")),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_agree_with_torch(name):
    options, theirs = ACTIVATIONS[name]
    op = name.partition(",")[0]
    x, dy = signed((3, 5, 7, 2), scale=3), signed((3, 5, 7, 2), 1)
    tensor = leaf(x)
    expected = theirs(tensor)
    expected.backward(torch.from_numpy(dy))
    y = getattr(ops, op)(x, **options)
    # The absolute tolerance is for GELU, which PyTorch computes from 1 + erf(x / sqrt(2)): that cancels for negative x.
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-13, atol=1e-14)
    saved = x if op in ("gelu", "silu", "hard_swish") else y
    dx = getattr(ops, f"{op}_backward")(dy, saved, **options)
    np.testing.assert_allclose(dx, tensor.grad.numpy(), rtol=1e-12, atol=1e-13)


def test_softmax_agrees_with_torch():
    x = signed((11, 7), scale=5)
    np.testing.assert_allclose(ops.softmax(x), torch.softmax(torch.from_numpy(x), 1).numpy(), rtol=1e-13)
