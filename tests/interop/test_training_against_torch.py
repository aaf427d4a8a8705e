"""Nets of branches and MobileNetV2 train as in PyTorch: the losses of five steps, and all weights after them."""

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import interop, models, ops
from gpuconv.layers import (
    BatchNorm,
    Branches,
    Conv2D,
    ConvTranspose2D,
    Flatten,
    GlobalAvgPool2D,
    Input,
    Linear,
    MaxPool2D,
    ReLU,
    Sequential,
)
from tests.interop.torch_layers import TorchBranches
from tests.interop.torchvision_nets import MobileNetV2

torch = pytest.importorskip("torch")
nn = torch.nn

pytestmark = pytest.mark.slow
LR, MOMENTUM, BATCH = 0.02, 0.9, 4
# MobileNetV2 is compared in float64. Some inputs of its 35 ReLU6s lie within 1e-6 of a kink, and float32 may round them
# to the other side. One such unit of a 4 x 4 map changes gradients by a hundredth.
IN_FLOAT64 = ("mobilenet-v2",)


def conv_norm_relu(filters, size=3):
    return [Conv2D(filters, size, padding=size // 2, bias=False), BatchNorm(), ReLU()]


def their_conv_norm_relu(channels, filters, size=3):
    return [nn.Conv2d(channels, filters, size, padding=size // 2, bias=False), nn.BatchNorm2d(filters), nn.ReLU()]


def u_net(filters, depth):
    if not depth:
        return conv_norm_relu(filters)
    below = [MaxPool2D(2), *u_net(2 * filters, depth - 1), ConvTranspose2D(filters, 2, stride=2)]
    return [*conv_norm_relu(filters), Branches([[], below]), *conv_norm_relu(filters)]


def their_u_net(channels, filters, depth):
    if not depth:
        return their_conv_norm_relu(channels, filters)
    below = [
        nn.MaxPool2d(2),
        *their_u_net(filters, 2 * filters, depth - 1),
        nn.ConvTranspose2d(2 * filters, filters, 2, 2),
    ]
    return [
        *their_conv_norm_relu(channels, filters),
        TorchBranches([], below),
        *their_conv_norm_relu(2 * filters, filters),
    ]


def their_dense_branches(channels):
    return TorchBranches([], [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 4, 3, padding=1, bias=False)])


def inception():
    branches = [
        conv_norm_relu(4, 1),
        [*conv_norm_relu(3, 1), *conv_norm_relu(4)],
        [*conv_norm_relu(2, 1), *conv_norm_relu(3, 5)],
        [MaxPool2D(3, stride=1, padding=1), *conv_norm_relu(2, 1)],
    ]
    return Branches(branches)


def head():
    return [GlobalAvgPool2D(), Flatten(), Linear(3)]


# name: our net and PyTorch's module. Scores are (..., 3); the U-Net has them for each pixel.
NETS = {
    "u-net": (
        lambda: Sequential([Input((16, 16, 2)), *u_net(4, 2), Conv2D(3, 1)]),
        lambda: nn.Sequential(*their_u_net(2, 4, 2), nn.Conv2d(4, 3, 1)),
    ),
    "inception": (
        lambda: Sequential([Input((9, 8, 3)), *conv_norm_relu(6), inception(), *head()]),
        lambda: nn.Sequential(
            *their_conv_norm_relu(3, 6),
            TorchBranches(
                their_conv_norm_relu(6, 4, 1),
                [*their_conv_norm_relu(6, 3, 1), *their_conv_norm_relu(3, 4)],
                [*their_conv_norm_relu(6, 2, 1), *their_conv_norm_relu(2, 3, 5)],
                [nn.MaxPool2d(3, 1, 1), *their_conv_norm_relu(6, 2, 1)],
            ),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(13, 3)),
        ),
    ),
    "dense-block": (
        lambda: Sequential(
            [
                Input((8, 7, 3)),
                Conv2D(6, 3, padding=1, bias=False),
                *(Branches([[], [BatchNorm(), ReLU(), Conv2D(4, 3, padding=1, bias=False)]]) for _ in range(4)),
                *head(),
            ]
        ),
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            *(their_dense_branches(channels) for channels in (6, 10, 14, 18)),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(22, 3)),
        ),
    ),
    "mobilenet-v2": (lambda: models.mobilenet_v2((64, 64, 3), 3), lambda: MobileNetV2(3)),
}


def built(name):
    """The two nets, without dropout."""
    torch.manual_seed(0)
    make, make_module = NETS[name]
    net, module = make(), make_module().double()
    for layer in (*net.walk(), *module.modules()):
        if type(layer).__name__ == "Dropout":
            layer.p = 0.0
    return net, module


@pytest.mark.parametrize("device", ["numpy", pytest.param("emulated", marks=pytest.mark.kernels)])
@pytest.mark.parametrize("name", NETS)
def test_five_steps_give_the_losses_and_weights_of_pytorch(name, device):
    dtype = np.dtype("float64" if name in IN_FLOAT64 else "float32")
    net, module = built(name)
    net.to(device, dtype)
    net.load_state_dict(interop.from_torch(module, net))
    training = net.fuse() if device == "emulated" else net
    optimizer = torch.optim.SGD(module.parameters(), lr=LR, momentum=MOMENTUM)
    params = list(net.params().values())
    velocities = [gc.asarray(np.zeros(param.shape, dtype), device) for param in params]
    rng = np.random.default_rng(1)
    for _ in range(5):
        x = rng.normal(size=(BATCH, *net.input_shape)).astype(dtype)
        labels = rng.integers(0, 3, (BATCH, *net.output_shape[:-1]))
        training.zero_grad()
        scores = training.forward(gc.asarray(x, device), True)
        loss, dscores = ops.softmax_cross_entropy(scores.reshape(-1, 3), gc.asarray(labels.ravel(), device))
        training.backward(dscores.reshape(scores.shape), input_grad=False)
        ops.sgd_step(params, list(net.grads().values()), velocities, lr=LR, momentum=MOMENTUM)

        optimizer.zero_grad()
        torch_x = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).double()
        expected = nn.functional.cross_entropy(module(torch_x), torch.from_numpy(labels))
        expected.backward()
        optimizer.step()
        np.testing.assert_allclose(float(gc.to_numpy(loss)), expected.item(), rtol=1e-4)
    state = {key: value.numpy() for key, value in module.state_dict().items()}
    for key, value in interop.to_torch(net, like=state).items():
        if value.dtype.kind == "f":
            # At least 0.01, because a bias that a later norm subtracts has a gradient of zero and stays near zero.
            largest = max(np.abs(state[key]).max(), 0.01)
            np.testing.assert_allclose(value, state[key], rtol=1e-4, atol=1e-4 * largest, err_msg=key)
