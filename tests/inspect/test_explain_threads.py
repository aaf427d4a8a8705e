"""Explanations that name the threads that wrote a value."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from gpuconv import backends
from gpuconv.inspect import explain, saliency
from gpuconv.inspect.explain import layer_of
from gpuconv.layers import (
    AdaptiveAvgPool2D,
    Branches,
    Conv2D,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GroupNorm,
    Input,
    LayerNorm,
    Linear,
    Sequential,
    Upsample,
)
from tests import standin
from tests.inspect.deep_net import DEEP_X, deep_net


@pytest.mark.kernels
def test_the_emulator_names_the_thread_that_wrote_a_value():
    net, x = deep_net("emulated"), backends.asarray(DEEP_X, "emulated")
    for name in ("conv1", "tanh1", "residual1", "pool2", "fc1"):
        at = tuple(size // 2 for size in net[name].output_shape)
        explanation = explain(net, x, name, at, locate=True)
        assert [result.by for result in explanation.computed] == ["float64", "numpy", "emulated"]
        assert all(result.error <= result.bound for result in explanation.computed)
        (writer,) = explanation.thread.writers
        assert writer.source.partition(":")[0].endswith((".cu", ".cuh"))
        assert int(writer.source.partition(":")[2]) > 0
        assert writer.warp == writer.thread[0] // 32
        assert any(access.written for access in explanation.thread.touched)
    assert explain(net, x, "conv1", (0, 0, 0), locate=True).thread.algorithm == net["conv1"].algorithms(1)["fprop"]
    shared = [access.name for access in explain(net, x, "conv1", (0, 0, 0), locate=True).thread.touched]
    assert any(name.startswith("shared") for name in shared)
    explanation = explain(net, x, "residual1.conv1", (2, 2, 1), locate=True, backward=True)
    assert "dgrad" in explanation.thread.writers[-1].kernel
    explanation = explain(net, x, "residual1", (2, 2, 1), locate=True, backward=True)
    assert "dgrad" in explanation.thread.writers[-1].kernel  # the shortcut's convolution adds to the body's gradient


@pytest.mark.kernels
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_with_split_k_the_thread_of_the_first_part_is_named_too(dtype):
    net = Sequential([Input((4, 4, 64)), Conv2D(64, 3, padding=1)], seed=1, device="emulated", dtype=dtype)
    x = backends.asarray(np.random.default_rng(0).normal(size=(1, 4, 4, 64)), "emulated", dtype)
    for at in ((0, 0, 0), (2, 1, 35)):
        thread = explain(net, x, "conv1", at, locate=True).thread
        assert [writer.kernel for writer in thread.writers] == ["gemm_reduce_splits"]
        (writer,) = thread.part.writers
        assert writer.kernel.startswith("conv2d_fprop")
        assert writer.source.startswith("gemm")
        touched = {access.name: access for access in thread.part.touched}
        assert any(name.startswith("shared") and touched[name].read for name in touched)
        part = 4 * np.ravel_multi_index(at, (4, 4, 64))  # in bytes: the sums are float32
        assert touched["argument 'partials'"].first <= part <= touched["argument 'partials'"].last
        assert not touched["argument 'partials'"].read
    thread = explain(net, x, "conv1", (2, 1, 35), locate=True, backward=True).thread
    assert thread.part.writers[0].kernel.startswith("conv2d_dgrad")


@pytest.mark.kernels
@pytest.mark.parametrize("device", ["emulated", "cuda, late", "cuda, early"])
def test_a_device_names_the_threads_of_layers_that_run_several_ops(device):
    """The CUDA device is a stand-in, which runs the work of a stream as late or as early as CUDA allows."""
    name, _, schedule = device.partition(", ")
    with standin.installed(["90"], schedule=schedule) if schedule else contextlib.nullcontext():
        row = [ConvTranspose2D(2, 2, stride=2), Branches([[], [LayerNorm(), GroupNorm(1), Dropout(0.5)]]), Upsample(2)]
        net = Sequential([Input((3, 2, 2)), *row, AdaptiveAvgPool2D((3, 2)), Flatten(), Linear(2)]).to(name)
        x = backends.asarray(np.random.default_rng(2).normal(size=(1, 3, 2, 2)), net.device, "float32")
        for layer, kernels in {
            "convt1": ["dgrad", "add"],
            "branches1": ["group_norm"],
            "branches1.branch2.norm1": ["group_norm"],
            "upsample1": ["dgrad"],
            "pool1": ["avg_pool"],
        }.items():
            at = tuple(size - 1 for size in layer_of(net, layer).output_shape)
            explanation = explain(net, x, layer, at, locate=True)
            assert [result.by for result in explanation.computed] == ["float64", "numpy", net.device]
            assert all(result.error <= result.bound for result in explanation.computed), (layer, explanation.computed)
            wrote = [writer.kernel for writer in explanation.thread.writers]
            assert all(any(kernel in name for name in wrote) for kernel in kernels), (layer, wrote)
        assert str(explain(net, x, "branches1", (0, 1, 3))).endswith("the value of branch2 at [0, 1, 1]")
        explanation = explain(net, x, "convt1", (2, 1, 1), locate=True, backward=True)
        assert all(result.error <= result.bound for result in explanation.computed)
        assert "fprop" in explanation.thread.writers[-1].kernel  # the backward pass of ConvTranspose2D runs fprop
        assert saliency(net, x).shape == (3, 2, 2)
