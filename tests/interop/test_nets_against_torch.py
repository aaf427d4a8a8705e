"""The same nets in PyTorch, if it is installed: outputs, gradients and running statistics agree."""

import numpy as np
import pytest

from gpuconv import interop, losses
from gpuconv.layers import (
    GELU,
    AvgPool2D,
    BatchNorm,
    Conv2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Input,
    LeakyReLU,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Tanh,
)
from tests.interop.torchvision_nets import Basic

torch = pytest.importorskip("torch")
nn = torch.nn


def pair():
    ours = Sequential(
        [
            Input((11, 9, 4)),
            Conv2D(6, (3, 2), stride=2, padding=(1, 2), groups=2),
            BatchNorm(momentum=0.2),
            GELU(),
            MaxPool2D(3, stride=1, padding=1),
            Conv2D(8, 3, dilation=2, padding="same", bias=False),
            SiLU(),
            AvgPool2D(2, stride=1, padding=1),
            LeakyReLU(negative_slope=0.1),
            Conv2D(5, 2),
            Sigmoid(),
            Flatten(),
            Dropout(0.0),
            Linear(7),
            Tanh(),
            Linear(3),
        ],
        dtype="float64",
    )
    theirs = nn.Sequential(
        nn.Conv2d(4, 6, (3, 2), 2, (1, 2), groups=2),
        nn.BatchNorm2d(6, momentum=0.2),
        nn.GELU(),
        nn.MaxPool2d(3, 1, 1),
        nn.Conv2d(6, 8, 3, dilation=2, padding="same", bias=False),
        nn.SiLU(),
        nn.AvgPool2d(2, 1, 1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(8, 5, 2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Dropout(0.0),
        nn.Linear(int(np.prod(ours["flatten1"].input_shape)), 7),
        nn.Tanh(),
        nn.Linear(7, 3),
    ).double()
    return ours, theirs


def nchw(x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


@pytest.mark.usefixtures("oracle_and_numpy")
@pytest.mark.parametrize("loss", ["softmax", "svm"])
def test_loss_gradients_and_running_statistics_of_a_step_agree(loss):
    ours, theirs = pair()
    ours.load_state_dict(interop.from_torch(theirs.state_dict(), ours))
    rng = np.random.default_rng(2)
    x, labels = rng.normal(size=(4, 11, 9, 4)), np.array([2, 0, 1, 1])
    value, dscores = losses.get(loss)(ours.forward(x, True), labels)
    dx = ours.backward(dscores)

    torch_x = nchw(x).requires_grad_()
    scores, target = theirs(torch_x), torch.from_numpy(labels)
    if loss == "softmax":
        expected = nn.functional.cross_entropy(scores, target)
    else:
        expected = nn.functional.multi_margin_loss(scores, target) * scores.shape[1]  # PyTorch divides by this
    expected.backward()
    np.testing.assert_allclose(value, expected.item(), rtol=1e-12)
    np.testing.assert_allclose(dx.transpose(0, 3, 1, 2), torch_x.grad.numpy(), rtol=1e-9, atol=1e-13)

    ours_as_torch = interop.to_torch(ours, like=theirs.state_dict())
    for key in ("1.running_mean", "1.running_var"):
        np.testing.assert_allclose(ours_as_torch[key], theirs.state_dict()[key].numpy(), rtol=1e-12)
    for layer in ours.walk():  # to_torch then permutes the gradients as it permutes the weights
        for name, gradient in layer.gradients.items():
            layer.arrays[name] = gradient
    gradients = interop.to_torch(ours, like=theirs.state_dict())
    for key, parameter in theirs.named_parameters():
        np.testing.assert_allclose(gradients[key], parameter.grad.numpy(), rtol=1e-9, atol=1e-13, err_msg=key)


@pytest.mark.usefixtures("oracle_and_numpy")
def test_a_torchvision_style_residual_net_gives_the_same_scores():
    torch.manual_seed(0)
    theirs = nn.Sequential(Basic(3, 5, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)).double()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    first, second = Conv2D(5, 3, stride=2, padding=1, bias=False), Conv2D(5, 3, padding=1, bias=False)
    body = [first, BatchNorm(), ReLU(), second, BatchNorm()]
    shortcut = [Conv2D(5, 1, stride=2, bias=False), BatchNorm()]
    ours = Sequential(
        [Input((7, 9, 3)), Residual(body, shortcut), ReLU(), GlobalAvgPool2D(), Flatten(), Linear(4)], dtype="float64"
    )
    ours.load_state_dict(interop.from_torch(theirs.state_dict(), ours))
    x = np.random.default_rng(0).normal(size=(3, 7, 9, 3))
    theirs.eval()
    with torch.no_grad():
        expected = theirs(nchw(x)).numpy()
    np.testing.assert_allclose(ours.infer(x), expected, rtol=1e-10, atol=1e-12)
