"""A PyTorch user's ResNet in gpuconv: the same scores, then a new head on frozen layers.

Needs PyTorch. The ResNet is written out here; a trained one, or its state dict, is loaded in the same way.
"""

import numpy as np
import torch
from torch import nn

import gpuconv as gc
from gpuconv.layers import BatchNorm, Conv2D, Flatten, GlobalAvgPool2D, Input, Linear, ReLU, Residual


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


def theirs() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16),
        Block(16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def conv() -> Conv2D:
    return Conv2D(16, 3, padding=1, bias=False)


def ours() -> gc.Sequential:
    blocks = [
        layer for _ in range(2) for layer in (Residual([conv(), BatchNorm(), ReLU(), conv(), BatchNorm()]), ReLU())
    ]
    return gc.Sequential(
        [Input((16, 16, 3)), conv(), BatchNorm(), ReLU(), *blocks, GlobalAvgPool2D(), Flatten(), Linear(10)]
    )


def main() -> None:
    module, net = theirs().eval(), ours()
    net.load_state_dict(gc.interop.from_torch(module, net))

    images = torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        expected = module(images).numpy()
    scores = net.predict(images.permute(0, 2, 3, 1).numpy())  # gpuconv's layout is (N, H, W, C)
    print(f"largest difference of the scores {np.abs(scores - expected).max():.1e}")
    assert np.allclose(scores, expected, rtol=1e-4, atol=1e-5)

    new = gc.Sequential([*net[:-1], Linear(2)])  # copies of the layers, and a new head
    new.freeze()
    new["fc1"].unfreeze()
    print("trained:", ", ".join(new.params()))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 64)
    x = rng.normal(size=(64, 16, 16, 3)).astype(np.float32) + labels[:, None, None, None].astype(np.float32)
    trainer = gc.Trainer(new, "adam", lr=0.05)
    history = trainer.fit((x, labels), epochs=5, batch_size=16, progress=False)
    print(f"training accuracy of the new head {history[-1]['train_accuracy']:.0%}")
    assert np.array_equal(new["conv1"]["weight"], net["conv1"]["weight"])


if __name__ == "__main__":
    main()
