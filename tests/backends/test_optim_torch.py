"""Optimizer steps and clipping agree with PyTorch on the CPU."""

import numpy as np
import pytest

from gpuconv import ops
from tests.backends.torch_tensors import leaf
from tests.random_arrays import signed

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")

OPTIMIZERS = {
    "sgd": (ops.sgd_step, 0, {}, lambda p: torch.optim.SGD(p, lr=0.05)),
    "sgd, decay": (ops.sgd_step, 0, {"weight_decay": 0.1}, lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1)),
    "momentum": (
        ops.sgd_step,
        1,
        {"momentum": 0.9, "weight_decay": 0.1},
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1),
    ),
    "nesterov": (
        ops.sgd_step,
        1,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    ),
    "adagrad": (
        ops.adagrad_step,
        1,
        {"weight_decay": 0.1},
        lambda p: torch.optim.Adagrad(p, lr=0.05, weight_decay=0.1),
    ),
    "rmsprop": (
        ops.rmsprop_step,
        1,
        {"alpha": 0.8, "weight_decay": 0.1},
        lambda p: torch.optim.RMSprop(p, lr=0.05, alpha=0.8, weight_decay=0.1),
    ),
    "adam": (
        ops.adam_step,
        2,
        {"beta1": 0.8, "beta2": 0.95, "weight_decay": 0.1},
        lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.95), weight_decay=0.1),
    ),
    "adamw": (
        ops.adam_step,
        2,
        {"decoupled": True, "weight_decay": 0.1},
        lambda p: torch.optim.AdamW(p, lr=0.05, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_five_steps_of_an_optimizer_agree_with_torch(name):
    step_op, states, options, build = OPTIMIZERS[name]
    params = [signed((3, 5), 10), signed((7,), 11), signed((2, 3, 1, 4), 12)]
    state = [[np.zeros_like(param) for param in params] for _ in range(states)]
    theirs = [leaf(param) for param in params]
    optimizer = build(theirs)
    for number in range(1, 6):
        grads = [signed(param.shape, 100 * number + i) for i, param in enumerate(params)]
        step_op(params, grads, *state, lr=0.05, **options, **({"step": number} if states == 2 else {}))
        for tensor, grad in zip(theirs, grads):
            tensor.grad = torch.from_numpy(grad)
        optimizer.step()
        for ours, tensor in zip(params, theirs):
            np.testing.assert_allclose(ours, tensor.detach().numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("limit", [1e-3, 1.0, 1e3])
def test_clipping_agrees_with_torch(limit):
    grads = [3 * signed(shape, i) for i, shape in enumerate([(3, 5), (7,), (2, 3, 1, 4)])]

    def theirs(clip):
        tensors = [leaf(np.zeros_like(grad)) for grad in grads]
        for tensor, grad in zip(tensors, grads):
            tensor.grad = torch.from_numpy(grad.copy())
        clip(tensors, limit)
        return [tensor.grad.numpy() for tensor in tensors]

    scaling = np.zeros(4)
    ops.clip_norm(scaling, grads, max_norm=limit)
    for grad, expected in zip(grads, theirs(torch.nn.utils.clip_grad_norm_)):
        np.testing.assert_allclose(grad * scaling[1], expected, rtol=1e-13)
    expected = theirs(torch.nn.utils.clip_grad_value_)
    ops.clip_values(grads, clip_value=limit)
    for gradient, expected_gradient in zip(grads, expected):
        np.testing.assert_array_equal(gradient, expected_gradient)
