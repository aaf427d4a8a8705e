"""Losses agree with PyTorch on the CPU."""

import numpy as np
import pytest

from gpuconv import ops
from tests.backends.torch_tensors import leaf
from tests.random_arrays import signed

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")


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
