"""Concatenation without copies: in forward, branches write into their slices of the output's channels. In backward,
they read their slices of its gradient."""

from itertools import product

import numpy as np
import pytest

from gpuconv.layers import (
    AdaptiveAvgPool2D,
    AvgPool2D,
    BatchNorm,
    Branches,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    GroupNorm,
    Input,
    LayerNorm,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Scale,
    Sequential,
    SiLU,
    Tanh,
    Upsample,
)
from tests.layers.steps import ones, step_bytes

PADDED = dict(padding=1, bias=True)
ENDS = {  # the layers of a branch; its output has 8 channels
    "conv": lambda: [Conv2D(8, 3, **PADDED)],
    "conv-deep": lambda: [Conv2D(256, 1), Conv2D(8, 3, **PADDED)],  # with split-K
    "conv-groups": lambda: [Conv2D(8, 3, groups=2, **PADDED)],
    "conv-depthwise": lambda: [Conv2D(8, 1), Conv2D(8, 3, groups=8, **PADDED)],
    "relu": lambda: [Conv2D(8, 3, **PADDED), ReLU()],
    "silu": lambda: [Conv2D(8, 3, **PADDED), SiLU()],
    "tanh": lambda: [Conv2D(8, 1), Tanh()],
    "norm": lambda: [Conv2D(8, 3, **PADDED), BatchNorm()],
    "norm-relu": lambda: [Conv2D(8, 1), BatchNorm(), ReLU()],
    "max-pool": lambda: [Conv2D(8, 1), MaxPool2D(3, stride=1, padding=1)],
    "avg-pool": lambda: [Conv2D(8, 1), AvgPool2D(3, stride=1, padding=1)],
    "adaptive-pool": lambda: [Conv2D(8, 1), AdaptiveAvgPool2D((4, 5))],
    "global-pool": lambda: [Conv2D(8, 1), GlobalAvgPool2D()],
    "linear": lambda: [Conv2D(2, 1), Flatten(), Linear(8)],
    "group-norm": lambda: [Conv2D(8, 1), GroupNorm(2)],
    "layer-norm": lambda: [Conv2D(8, 1), LayerNorm()],
    "dropout": lambda: [Conv2D(8, 1), Dropout(0.3), Dropout(0.4)],
    "scale": lambda: [Conv2D(8, 1), Scale(0.3)],
    "nearest": lambda: [MaxPool2D((4, 5)), Conv2D(8, 1), Upsample((4, 5))],
    "bilinear": lambda: [MaxPool2D((2, 5)), Conv2D(8, 1), Upsample((2, 5), "bilinear")],
    "transposed": lambda: [MaxPool2D((2, 5)), ConvTranspose2D(8, (2, 5), stride=(2, 3))],
    "residual": lambda: [Conv2D(8, 1), Residual([Conv2D(8, 3, **PADDED)])],
    "shortcut": lambda: [Residual([Conv2D(8, 3, **PADDED)], [Conv2D(8, 1)])],
    "sum": lambda: [Conv2D(8, 1), Branches([[], [], [Conv2D(8, 1), BatchNorm()]], "add")],
    "conv-pool": lambda: [Upsample(2), Conv2D(8, 3, **PADDED), MaxPool2D(2)],
    "pool-norm": lambda: [Upsample(2), Conv2D(8, 3, **PADDED), MaxPool2D(2), BatchNorm()],
    "norm-chain": lambda: [Conv2D(8, 1), BatchNorm(), Conv2D(8, 3, **PADDED)],
    "norm-chain-norm": lambda: [Conv2D(8, 1), BatchNorm(), Conv2D(8, 3, **PADDED), BatchNorm()],
    "skip": lambda: [Conv2D(2, 1), Branches([[Conv2D(6, 1)], []])],
    "nested": lambda: [Branches([[Conv2D(4, 1)], [Conv2D(4, 3, **PADDED), BatchNorm()]])],
}
# The blocks that do copy slices. The values count the copies in forward, in backward, and in forward, backward and
# inference together.
# In "skip" the slice of the input begins after 6 channels, which is no multiple of 16 bytes.
COPIES = {"skip": [2, 0, 4]}


# Ends that change the size of the maps, each with a middle branch that changes it in the same way.
BETWEEN = {
    "global-pool": lambda channels: [GlobalAvgPool2D(), Conv2D(channels, 1)],
    "linear": lambda channels: [Flatten(), Linear(channels)],
}


def block(end, between, device="emulated", dtype="float32"):
    """Three branches. The first and the last have the layers ENDS[end]; the middle one has `between` channels."""
    middle = BETWEEN[end](between) if end in BETWEEN else [Conv2D(between, 1)]
    branches = [ENDS[end](), middle, ENDS[end]()]
    return Sequential([Input((4, 5, 4)), Branches(branches)], seed=1, device=device, dtype=dtype)


@pytest.mark.kernels
@pytest.mark.parametrize("fuse", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("end", ENDS)
def test_only_an_unaligned_skip_copies_a_slice(end, fuse, launches):
    net = block(end, 4).fuse() if fuse else block(end, 4)
    x, dy = ones(net)
    launches.clear()
    net.forward(x, True)
    forward = [*launches]
    net.backward(dy)
    backward = launches[len(forward) :]
    net.infer(x)
    assert ("gemm_reduce_splits" in forward) == (end == "conv-deep")
    copied = [names.count("copy_rows") + names.count("copy_forward") for names in (forward, backward, launches)]
    assert copied == COPIES.get(end, [0, 0, 0])
    assert "assign" not in launches


@pytest.mark.kernels
@pytest.mark.parametrize("fuse", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize(("device", "dtype"), [("emulated", "float32"), ("emulated", "float16"), ("numpy", "float32")])
def test_results_have_the_same_bits_as_with_copies_instead_of_slices(device, dtype, fuse, monkeypatch):
    for end, between in product(ENDS, (8, 3)):  # with 3, the last slice does not begin at a multiple of 16 bytes
        results = []
        for slices in (True, False):
            with monkeypatch.context() as patched:
                if not slices:
                    patched.setattr("gpuconv.layers.branches.writes_slices", lambda row: False)
                    patched.setattr("gpuconv.layers.branches.reads_slices", lambda row: False)
                net = block(end, between, device, dtype)
                results.append(step_bytes(net.fuse() if fuse else net, np.random.default_rng(0)))
        assert results[0] == results[1], (end, between)
