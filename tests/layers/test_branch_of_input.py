"""Branches, one of them the input itself, as in a DenseNet. The layer before the branches writes this input straight
into a slice of the concatenated channels, so the input is not copied. The other branches read that slice."""

import numpy as np
import pytest

from gpuconv.inspect.profile import profile
from gpuconv.layers import (
    AdaptiveAvgPool2D,
    AvgPool2D,
    BatchNorm,
    Branches,
    Conv2D,
    ConvTranspose2D,
    Flatten,
    GlobalAvgPool2D,
    GroupNorm,
    Input,
    Layer,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Scale,
    Sequential,
    SiLU,
    Upsample,
)
from gpuconv.layers.layer_call import in_place_runs
from gpuconv.summary import summary
from tests.layers.steps import ones, step_bytes

PADDED = dict(padding=1, bias=True)


def conv(filters, size=3):
    return [Conv2D(filters, size, padding=size // 2), BatchNorm(), ReLU()]


def dense(*branch):
    return Branches([[], list(branch)])


NETS = {  # (H, W, C) of the input is (4, 6, 3)
    "conv": lambda: [Conv2D(8, 3, **PADDED), dense(Conv2D(8, 3, **PADDED))],
    "deep": lambda: [Conv2D(256, 1), dense(Conv2D(8, 3, **PADDED))],  # with split-K
    "depthwise": lambda: [Conv2D(8, 1), Conv2D(8, 3, groups=8, **PADDED), dense(Conv2D(8, 3, groups=8, **PADDED))],
    "norm": lambda: [Conv2D(8, 1), BatchNorm(), dense(BatchNorm(), ReLU(), Conv2D(8, 3, **PADDED))],
    "relu": lambda: [*conv(8), dense(ReLU(), Conv2D(8, 1))],
    "silu": lambda: [Conv2D(8, 1), SiLU(), dense(SiLU(), *conv(8, 1))],
    "chain": lambda: [*conv(16), *(dense(BatchNorm(), ReLU(), Conv2D(8, 3, padding=1)) for _ in range(3)), *conv(3, 1)],
    "post-activation": lambda: [*conv(8), *(dense(*conv(8)) for _ in range(3))],
    "readers": lambda: [*conv(8), Branches([conv(8, 1), [], conv(8), [Residual(conv(8)), *conv(8, 1)]]), BatchNorm()],
    "nested": lambda: [*conv(8), Branches([[], [Conv2D(8, 1), dense(*conv(8, 1))]])],
    "inner": lambda: [*conv(8), Branches([conv(8, 1), [*conv(8), dense(*conv(8)), dense(*conv(8, 1))]])],
    "u-net": lambda: [*conv(8), dense(MaxPool2D(2), *conv(16), ConvTranspose2D(8, 2, stride=2))],
    "pools": lambda: [*conv(8), MaxPool2D(1), Branches([[], [AvgPool2D(3, stride=1, padding=1)], [Scale(2.0)]])],
    "global": lambda: [*conv(8), Branches([[GlobalAvgPool2D(), Upsample((4, 6))], [], [AdaptiveAvgPool2D((4, 6))]])],
    "transposed": lambda: [Conv2D(8, 1), dense(ConvTranspose2D(8, (2, 1), stride=(2, 1)), MaxPool2D((2, 1)))],
    "upsampled": lambda: [Conv2D(8, 1), dense(Upsample(2), MaxPool2D(2)), dense(Upsample(2, "bilinear"), AvgPool2D(2))],
    "residual": lambda: [Conv2D(8, 1), Residual(conv(8)), dense(Residual(conv(8)), *conv(8))],
}
COPIED = {  # nets in which the input of the branches is still copied, and why
    "few-channels": lambda: [Conv2D(4, 1), dense(Conv2D(4, 3, **PADDED))],  # Conv2D of few channels reads no slices
    "unaligned": lambda: [*conv(6), dense(*conv(8))],  # the input's slice does not end at a multiple of 16 bytes
    "other-reader": lambda: [*conv(8), dense(UserLayer(), *conv(8, 1))],  # a user's layer cannot read slices
    "group-norm": lambda: [*conv(8), dense(GroupNorm(2), *conv(8, 1))],  # GroupNorm cannot read slices
    "net-input": lambda: [Branches([[], conv(8)])],  # no layer writes the input of the net
    "twice": lambda: [*conv(8), Branches([[], conv(8), []])],  # the output has the input twice
}


class UserLayer(Layer):
    def forward(self, x, training=False):
        return x

    def backward(self, dy, *, input_grad=True):
        return dy


def net_of(layers, device="emulated", dtype="float32", channels=3):
    return Sequential([Input((4, 6, channels)), *layers()], seed=1, device=device, dtype=dtype)


def copied_volumes(net, launches):
    """How many volumes are copied in a forward and a backward."""
    x, dy = ones(net)
    launches.clear()
    net.forward(x, True)
    net.backward(dy)
    return sum(launches.count(name) for name in ("copy_forward", "copy_rows", "assign"))


@pytest.mark.kernels
@pytest.mark.parametrize("fuse", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", NETS)
def test_the_input_is_not_copied_into_the_concatenation(name, fuse, launches, monkeypatch):
    monkeypatch.delattr("gpuconv.ops.overlap.copy_of")  # no op may copy an input: slices of one volume do not overlap
    net = net_of(NETS[name])
    assert copied_volumes(net.fuse() if fuse else net, launches) == 0


@pytest.mark.kernels
def test_an_input_that_cannot_be_written_into_the_concatenation_is_copied_once(launches):
    assert {name: copied_volumes(net_of(COPIED[name]), launches) for name in COPIED} == {
        "few-channels": 1,
        "unaligned": 1,
        "other-reader": 1,
        "group-norm": 1,
        "net-input": 1,
        "twice": 1,
    }


@pytest.mark.kernels
@pytest.mark.parametrize("fuse", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize(("device", "dtype"), [("emulated", "float32"), ("emulated", "float16"), ("numpy", "float32")])
def test_results_have_the_same_bits_as_with_a_copied_input(device, dtype, fuse, monkeypatch):
    for name, layers in {**NETS, **COPIED}.items():
        results = []
        for in_place in (True, False):
            with monkeypatch.context() as patched:
                if not in_place:
                    patched.setattr(Branches, "holds_input", False)
                net = net_of(layers, device, dtype)
                results.append(step_bytes(net.fuse() if fuse else net, np.random.default_rng(0)))
        assert results[0] == results[1], name


def test_a_chain_of_branches_writes_into_one_volume():
    net = net_of(NETS["chain"], "numpy")
    assert [len(run) for run in in_place_runs(net.layers)] == [1, 1, 1, 4, 1, 1, 1]
    seen = []
    for layer in net.layers[3:7]:
        layer.register_forward_hook(lambda layer, x, y: seen.append(y))
    net.forward(np.ones((2, 4, 6, 3), np.float32), True)
    volume = seen[-1]
    assert volume.flags.c_contiguous
    assert volume.shape[-1] == 16 + 3 * 8
    assert {(y.ctypes.data, y.strides) for y in seen} == {(volume.ctypes.data, volume.strides)}


def test_the_summary_tells_whether_the_input_is_copied():
    in_place, copied = (summary(net_of(layers, "numpy")) for layers in (NETS["chain"], COPIED["unaligned"]))
    assert "concatenated in branches1 and 2 more: in place branch1, branch2" in in_place
    assert "concatenated in branches1: in place branch2; copied forward branch1" in copied


@pytest.mark.parametrize(
    ("layers", "volumes"), [(NETS["chain"], 0), (COPIED["net-input"], 2)], ids=["in place", "copied"]
)
def test_the_profile_counts_the_bytes_of_a_copied_input(layers, volumes):
    net = net_of(lambda: [*layers(), Flatten(), Linear(3)], "numpy", channels=8)
    report = profile(net, 2, steps=1, fuse=False)
    moved = next(row.work.bytes for row in report.rows if (row.name, row.direction) == ("branches1", "forward"))
    images, values_per_image, bytes_per_value = 2, 4 * 6 * 8, 4
    assert moved == volumes * images * values_per_image * bytes_per_value
