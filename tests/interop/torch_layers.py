"""Modules for what PyTorch has only as functions (concatenation and sum), or only for channels last (LayerNorm)."""

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a volume whose channels come first, as PyTorch has them."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class TorchBranches(nn.Module):
    """The outputs of branches concatenated along the channels, or added."""

    def __init__(self, *branches, add=False):
        super().__init__()
        self.branches, self.add = nn.ModuleList(nn.Sequential(*branch) for branch in branches), add

    def forward(self, x):
        outputs = [branch(x) for branch in self.branches]
        return sum(outputs) if self.add else torch.cat(outputs, 1)
