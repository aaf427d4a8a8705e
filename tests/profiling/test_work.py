"""The FLOPs and bytes of layers, counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpuconv import models
from gpuconv.layers import BatchNorm, Branches, Conv2D, Flatten, GroupNorm, Input, Linear, ReLU, Residual, Sequential
from gpuconv.profiling import work
from gpuconv.profiling.work import Ceilings, Work, convolution
from gpuconv.verify.conv_problems import conv


def test_a_frozen_weight_has_no_weight_gradient_product():
    net = Sequential([Input((4, 4, 2)), Conv2D(3, 3), Conv2D(3, 1, frozen=("weight",)), Flatten(), Linear(2)])
    conv = net["conv2"]
    forward = work.of_layer(conv, "forward", 1)
    assert work.of_layer(conv, "backward", 1).flops == forward.flops
    assert work.of_layer(net["conv1"], "backward", 1).flops == 2 * work.of_layer(net["conv1"], "forward", 1).flops
    assert work.of_layer(conv, "backward", 1, input_grad=False).flops == 0


def test_a_concatenation_moves_only_what_is_not_written_or_read_in_place():
    branches = Branches([[Conv2D(3, 1)], [Conv2D(5, 1), GroupNorm(1)], []])
    net = Sequential([Input((4, 4, 2)), branches], dtype="float32")
    assert work.of_layer(net["branches1"], "forward", 2) == Work(0.0, 2 * 4 * 2 * 16 * 2)
    # The second branch's dgrad reads the gradient to which it adds; the third branch needs a sum.
    assert work.of_layer(net["branches1"], "backward", 2) == Work(0.0, (1 + 3) * 4 * 2 * 16 * 2)
    flat = Branches([[Flatten(), Linear(3)], [Flatten()]])
    net = Sequential([Input((1, 1, 2)), flat], dtype="float32")
    assert work.of_layer(net["branches1"], "forward", 2) == Work(0.0, 2 * 4 * 2 * 2)
    assert work.of_layer(net["branches1"], "backward", 2) == Work(0.0, (2 + 3) * 4 * 2 * 2)  # a copy and a sum


# For each kind of shortcut, its layers and the volumes that are moved to add the input gradients of both paths.
SHORTCUTS = {"input": (None, 1), "convolution": ([Conv2D(2, 1)], 1), "norm": ([BatchNorm()], 3)}


@pytest.mark.parametrize("name", SHORTCUTS)
def test_an_input_gradient_to_which_dgrad_adds_is_read_once_more(name):
    """Besides the volumes in SHORTCUTS, two are moved for every shortcut: the body's norm reads the output of ReLU, and
    writes the gradient of the sum."""
    shortcut, volumes = SHORTCUTS[name]
    body = [Conv2D(2, 1), BatchNorm()]
    net = Sequential([Input((4, 4, 2)), Residual(body, shortcut), ReLU()], dtype="float32").fuse()
    assert work.of_layer(net[1], "backward", 2) == Work(0.0, (2 + volumes) * 4 * 2 * 16 * 2)


def test_every_named_net_has_work_for_all_its_layers():
    """The FLOPs of its forward pass are twice the mult-adds of the summary."""
    for name in models.MODELS:
        net = models.build(name, initialize=False)
        leaves = [layer for layer in net.walk() if not layer.children()]
        flops = sum(work.of_layer(layer, "forward", 1).flops for layer in leaves)
        assert flops == 2 * sum(layer.mult_adds for layer in leaves) > 0
        for layer in leaves:
            for direction in ("forward", "backward"):
                assert math.isfinite(work.of_layer(layer, direction, 1).bytes)


def test_the_floor_of_work_is_the_longer_of_its_times_for_arithmetic_and_bytes():
    ceilings = Ceilings(10.0, {"float32": 100.0})
    assert Work(1000, 50).floor(ceilings, "float32") == 10
    assert Work(1000, 500).floor(ceilings, "float32") == 50
    assert Work(1000, 50).floor(ceilings, "float16") == 5  # without a known rate only the bytes count
    assert Work(1, 2) + Work(3, 4) == Work(4, 6)


def test_the_work_of_a_convolution_equals_that_counted_by_hand():
    problem = conv(2, 5, 6, 4, 6, (3, 2), stride=(2, 1), padding=((1, 0), (0, 1)), groups=2)
    recorded = convolution(problem, itemsize=2)
    y_size = np.prod(problem.y_shape)
    assert recorded == Work(2 * y_size * 3 * 2 * 2, 2 * (2 * 5 * 6 * 4 + 6 * 3 * 2 * 2 + y_size))
    with pytest.raises(ValueError, match="fprop, dgrad or wgrad"):
        convolution(problem, itemsize=2, direction="forward")
