"""Layers against PyTorch's modules: outputs and all gradients from the same weights."""

import numpy as np
import pytest

from gpuconv import interop
from gpuconv.layers import (
    ELU,
    AdaptiveAvgPool2D,
    BatchNorm,
    Branches,
    Conv2D,
    ConvTranspose2D,
    Flatten,
    GroupNorm,
    HardSwish,
    Input,
    Layer,
    LayerNorm,
    Linear,
    MaxPool2D,
    ReLU,
    ReLU6,
    Sequential,
    Upsample,
)
from tests.interop.torch_layers import ChannelNorm, TorchBranches

torch = pytest.importorskip("torch")
nn = torch.nn


# name: our layers, PyTorch's modules, the shape of the input
PAIRS = {
    "activations": (
        [ELU(alpha=0.5), HardSwish(), ReLU6()],
        lambda: [nn.ELU(0.5), nn.Hardswish(), nn.ReLU6()],
        (3, 4, 2),
    ),
    "adaptive-tiles": ([AdaptiveAvgPool2D((2, 3))], lambda: [nn.AdaptiveAvgPool2d((2, 3))], (4, 9, 3)),
    "adaptive-overlaps": ([AdaptiveAvgPool2D((3, 2))], lambda: [nn.AdaptiveAvgPool2d((3, 2))], (7, 5, 2)),
    "adaptive-one": ([AdaptiveAvgPool2D(1)], lambda: [nn.AdaptiveAvgPool2d(1)], (5, 3, 2)),
    "group-norm": (
        [Conv2D(6, 1), GroupNorm(3, eps=1e-3), ReLU(), GroupNorm(6), GroupNorm(1)],
        lambda: [nn.Conv2d(2, 6, 1), nn.GroupNorm(3, 6, 1e-3), nn.ReLU(), nn.GroupNorm(6, 6), nn.GroupNorm(1, 6)],
        (4, 3, 2),
    ),
    "layer-norm": (
        [LayerNorm(eps=1e-3), Conv2D(4, 2), LayerNorm(), Flatten(), LayerNorm(), Linear(3)],
        lambda: [
            ChannelNorm(3, 1e-3),
            nn.Conv2d(3, 4, 2),
            ChannelNorm(4),
            nn.Flatten(),
            nn.LayerNorm(24),
            nn.Linear(24, 3),
        ],
        (4, 3, 3),
    ),
    "inception": (
        [
            Branches(
                [
                    [Conv2D(3, 1), ReLU()],
                    [Conv2D(2, 1), ReLU(), Conv2D(4, 3, padding=1), ReLU()],
                    [MaxPool2D(3, stride=1, padding=1), Conv2D(2, 1)],
                ]
            )
        ],
        lambda: [
            TorchBranches(
                [nn.Conv2d(3, 3, 1), nn.ReLU()],
                [nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()],
                [nn.MaxPool2d(3, 1, 1), nn.Conv2d(3, 2, 1)],
            )
        ],
        (5, 6, 3),
    ),
    "dense-block": (
        [Branches([[], [BatchNorm(), ReLU(), Conv2D(2, 3, padding=1, bias=False)]]) for _ in range(3)],
        lambda: [
            TorchBranches([], [nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, 2, 3, padding=1, bias=False)])
            for c in (3, 5, 7)
        ],
        (4, 5, 3),
    ),
    "u-net": (
        [
            Conv2D(3, 3, padding=1),
            Branches([[], [MaxPool2D(2), Conv2D(4, 3, padding=1), ReLU(), ConvTranspose2D(3, 2, stride=2)]]),
            Conv2D(2, 1),
        ],
        lambda: [
            nn.Conv2d(1, 3, 3, padding=1),
            TorchBranches(
                [], [nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 3, 2, 2)]
            ),
            nn.Conv2d(6, 2, 1),
        ],
        (4, 6, 1),
    ),
    "three-added": (
        [Branches([[Conv2D(3, 1)], [], [Conv2D(3, 3, padding=1)]], merge="add")],
        lambda: [TorchBranches([nn.Conv2d(3, 3, 1)], [], [nn.Conv2d(3, 3, 3, padding=1)], add=True)],
        (4, 3, 3),
    ),
    "upsample": (
        [Conv2D(4, 1), Upsample((2, 3)), Conv2D(1, 3), Upsample(2)],
        lambda: [nn.Conv2d(2, 4, 1), nn.Upsample(scale_factor=(2, 3)), nn.Conv2d(4, 1, 3), nn.Upsample(scale_factor=2)],
        (3, 4, 2),
    ),
    "upsample-bilinear": (
        [Conv2D(4, 1), *(Upsample(scale, "bilinear") for scale in ((2, 3), (1, 5), (4, 1)))],
        lambda: [
            nn.Conv2d(2, 4, 1),
            *(nn.Upsample(scale_factor=scale, mode="bilinear") for scale in ((2, 3), (1, 5), (4, 1))),
        ],
        (3, 4, 2),
    ),
    "upsample-bilinear-of-a-pixel": (
        [Upsample((2, 5), "bilinear"), Conv2D(1, 1), Upsample(6, "bilinear"), Upsample(1, "bilinear")],
        lambda: [
            nn.Upsample(scale_factor=(2, 5), mode="bilinear"),
            nn.Conv2d(2, 1, 1),
            nn.Upsample(scale_factor=6, mode="bilinear"),
        ],
        (1, 1, 2),
    ),
    "transposed-doubles": (
        [Conv2D(4, 3), ConvTranspose2D(3, 2, stride=2)],
        lambda: [nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 3, 2, 2)],
        (5, 6, 2),
    ),
    "transposed-with-all-options": (
        [ConvTranspose2D(6, (3, 2), stride=(3, 2), padding=(1, 0), output_padding=(2, 1), dilation=(1, 2), groups=2)],
        lambda: [nn.ConvTranspose2d(4, 6, (3, 2), (3, 2), (1, 0), (2, 1), groups=2, dilation=(1, 2))],
        (3, 4, 4),
    ),
    "transposed-depthwise": (
        [ConvTranspose2D(4, 4, stride=2, padding=1, groups=4, bias=False)],
        lambda: [nn.ConvTranspose2d(4, 4, 4, 2, 1, groups=4, bias=False)],
        (3, 5, 4),
    ),
}


def gradients(net, module):
    """(key, our gradient, PyTorch's gradient) of each parameter, in PyTorch's names and layouts."""
    for layer in net.walk():
        layer.arrays |= layer.gradients
    ours = interop.to_torch(net, like=module.state_dict())
    return [(key, ours[key], parameter.grad.numpy()) for key, parameter in module.named_parameters()]


@pytest.mark.usefixtures("oracle_and_numpy")
@pytest.mark.parametrize("name", PAIRS)
def test_outputs_and_gradients_agree(name):
    layers, modules, shape = PAIRS[name]
    torch.manual_seed(1)
    module = nn.Sequential(*modules()).double()
    for parameter in module.parameters():  # norms begin with ones and zeros
        parameter.data += 0.3 * torch.randn_like(parameter)
    net = Sequential([Input(shape), *(Layer.from_config(layer.config()) for layer in layers)], dtype="float64")
    net.load_state_dict(interop.from_torch(module, net))
    x = np.random.default_rng(2).normal(size=(2, *shape))
    torch_x = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1))).requires_grad_()
    expected, y = module(torch_x), net.forward(x, True)
    np.testing.assert_allclose(np.moveaxis(y, -1, 1), expected.detach().numpy(), rtol=1e-11, atol=1e-12)
    dy = np.random.default_rng(3).normal(size=y.shape)
    expected.backward(torch.from_numpy(np.ascontiguousarray(np.moveaxis(dy, -1, 1))))
    np.testing.assert_allclose(np.moveaxis(net.backward(dy), -1, 1), torch_x.grad.numpy(), rtol=1e-11, atol=1e-12)
    for key, ours, theirs in gradients(net, module):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12, err_msg=key)
