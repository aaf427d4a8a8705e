"""Activations, normalization, losses and optimizer steps against PyTorch on the CPU, where it is installed."""

import numpy as np
import pytest

from gpuconv import ops

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")


def signed(shape, seed=0, scale=1.0):
    return np.random.default_rng(seed).normal(size=shape) * scale


def leaf(x):
    return torch.from_numpy(x.copy()).requires_grad_()


# --- activations -------------------------------------------------------------------------------

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


# --- batch normalization -----------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(7, 3), (3, 5, 7, 2), (2, 1, 1, 5)], ids=str)
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


# --- losses ------------------------------------------------------------------------------------


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
def test_softmax_cross_entropy_agrees_with_torch(label_smoothing):
    logits, labels = signed((13, 7), scale=4), np.random.default_rng(1).integers(0, 7, 13)
    tensor = leaf(logits)
    expected = F.cross_entropy(tensor, torch.from_numpy(labels), label_smoothing=label_smoothing)
    expected.backward()
    loss, dlogits = ops.softmax_cross_entropy(logits, labels, label_smoothing=label_smoothing)
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-13)
    np.testing.assert_allclose(dlogits, tensor.grad.numpy(), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
def test_softmax_cross_entropy_with_soft_targets_agrees_with_torch(label_smoothing):
    logits = signed((13, 7), scale=4)
    distributions, unnormalized = np.random.default_rng(1).dirichlet(np.ones(7), 13), np.abs(signed((13, 7), 2))
    for targets in (distributions, unnormalized):
        tensor = leaf(logits)
        expected = F.cross_entropy(tensor, torch.from_numpy(targets), label_smoothing=label_smoothing)
        expected.backward()
        loss, dlogits = ops.softmax_cross_entropy(logits, targets, label_smoothing=label_smoothing)
        np.testing.assert_allclose(loss, expected.item(), rtol=1e-13)
        np.testing.assert_allclose(dlogits, tensor.grad.numpy(), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("ignore_index", [None, -100, 2])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_softmax_cross_entropy_with_weights_and_ignored_labels_agrees_with_torch(
    weighted, label_smoothing, ignore_index
):
    rng = np.random.default_rng(1)
    logits, labels = signed((23, 7), scale=4), rng.integers(0, 7, 23)
    if ignore_index is not None:
        labels[::3] = ignore_index
    weight = rng.random(7) + 0.1 if weighted else None
    options = {"label_smoothing": label_smoothing} | ({} if ignore_index is None else {"ignore_index": ignore_index})
    tensor, theirs = leaf(logits), None if weight is None else torch.from_numpy(weight)
    expected = F.cross_entropy(tensor, torch.from_numpy(labels), theirs, **options)
    expected.backward()
    loss, dlogits = ops.softmax_cross_entropy(logits, labels, weight, **options)
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-13)
    np.testing.assert_allclose(dlogits, tensor.grad.numpy(), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_softmax_cross_entropy_with_weights_and_soft_targets_agrees_with_torch(label_smoothing):
    rng = np.random.default_rng(1)
    logits, targets, weight = signed((13, 7), scale=4), rng.dirichlet(np.ones(7), 13), rng.random(7)
    tensor = leaf(logits)
    expected = F.cross_entropy(
        tensor, torch.from_numpy(targets), torch.from_numpy(weight), label_smoothing=label_smoothing
    )
    expected.backward()
    loss, dlogits = ops.softmax_cross_entropy(logits, targets, weight, label_smoothing=label_smoothing)
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-13)
    np.testing.assert_allclose(dlogits, tensor.grad.numpy(), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize(
    ("loss", "theirs", "options"),
    [
        (ops.mean_squared_error, F.mse_loss, {}),
        (ops.huber_loss, F.huber_loss, {"delta": 0.75}),
        (ops.huber_loss, F.smooth_l1_loss, {}),
        (ops.binary_cross_entropy, F.binary_cross_entropy_with_logits, {}),
        (ops.binary_cross_entropy, F.binary_cross_entropy_with_logits, {"pos_weight": np.linspace(0.2, 3, 7)}),
    ],
    ids=["mse", "huber", "smooth-l1", "bce", "bce-weighted"],
)
def test_elementwise_losses_agree_with_torch(loss, theirs, options):
    scores, targets = signed((5, 3, 7), scale=3), np.random.default_rng(1).random((5, 3, 7))
    in_torch = {name: torch.from_numpy(value) if name == "pos_weight" else value for name, value in options.items()}
    tensor = leaf(scores)
    expected = theirs(tensor, torch.from_numpy(targets), **in_torch)
    expected.backward()
    value, dscores = loss(scores, targets, **options)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-13)
    np.testing.assert_allclose(dscores, tensor.grad.numpy(), rtol=1e-10, atol=1e-15)


def test_svm_hinge_agrees_with_torch():
    """multi_margin_loss also divides by the number of classes."""
    scores, labels = signed((13, 7), scale=2), np.random.default_rng(1).integers(0, 7, 13)
    tensor = leaf(scores)
    expected = F.multi_margin_loss(tensor, torch.from_numpy(labels), margin=0.75) * 7
    expected.backward()
    loss, dscores = ops.svm_hinge(scores, labels, delta=0.75)
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-13)
    np.testing.assert_allclose(dscores, tensor.grad.numpy(), rtol=1e-12, atol=1e-15)


# --- optimizer steps ---------------------------------------------------------------------------

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
