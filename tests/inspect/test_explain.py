"""The explanation of one value: its window times its filter gives the layer's result."""

from __future__ import annotations

import contextlib
import re
import sys

import numpy as np
import pytest

from gpuconv import backends
from gpuconv.inspect import explain, saliency
from gpuconv.inspect.computed_by import compute_everywhere
from gpuconv.inspect.explain import layer_of
from gpuconv.layers import (
    GELU,
    LAYERS,
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
    Layer,
    LayerNorm,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Tanh,
    Upsample,
)
from gpuconv.layers.base import descendants
from gpuconv.layers.fused import Fused
from gpuconv.layers.registry import name_of
from tests import standin
from tests.layers.layer_cases import CASES, IDS

EVERY_KIND = [
    Conv2D(4, 3, padding=1, stride=2, name="strided"),
    Conv2D(6, (3, 2), padding="same", groups=2, dilation=(1, 2), bias=False, name="grouped"),
    ReLU(name="relu"),
    MaxPool2D(3, stride=2, padding=1, name="pool"),
    Flatten(name="flat"),
    Linear(5, name="fc"),
]


@pytest.fixture
def net():
    return Sequential([Input((9, 8, 2)), *EVERY_KIND], seed=3)


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(1, 9, 8, 2)).astype(np.float32)


def test_the_terms_of_every_value_add_up_to_it(net, x):
    volumes = net.activations(x)
    for name in ("strided", "grouped", "pool", "fc"):
        for at in np.ndindex(*volumes[name].shape[1:]):
            explanation = explain(net, x, name, at)
            assert explanation.value == volumes[name][0][at]
            assert explanation.error <= 1e-5 * max(1.0, abs(explanation.total)), str(explanation)


def test_terms_refer_to_inputs_of_the_layer(net, x):
    volumes = net.activations(x)
    for name, before in (("strided", "input"), ("grouped", "strided"), ("fc", "flat")):
        explanation = explain(net, x, name, tuple(size // 2 for size in volumes[name].shape[1:]))
        for term in explanation.terms:
            inside = all(0 <= i < size for i, size in zip(term.at, volumes[before].shape[1:]))
            assert term.input == (volumes[before][0][term.at] if inside else 0.0)
        magnitudes = [abs(term.product) for term in explanation.terms]
        assert magnitudes == sorted(magnitudes, reverse=True)


def test_a_pool_names_its_winner_and_a_relu_its_input(net, x):
    volumes = net.activations(x)
    pool = explain(net, x, "pool", (1, 1, 3))
    assert volumes["relu"][0][pool.terms[0].at] == pool.value
    relu = explain(net, x, "relu", (2, 1, 3))
    assert relu.terms[0].input == volumes["grouped"][0, 2, 1, 3]
    assert "at the same place" in str(relu)


def test_unknown_layers_positions_outside_and_invalid_arguments_are_refused(net, x):
    for layer, at, message in [
        ("convv", (0, 0, 0), "unknown layer"),
        ("strided", (0, 0), "3 whole numbers from 0 inside 5 x 4 x 4"),
        ("strided", (5, 0, 0), r"received \[5, 0, 0\]"),
        ("strided", (0, 0, -1), "inside 5 x 4 x 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            explain(net, x, layer, at)
    with pytest.raises(ValueError, match="one image, received 2"):
        explain(net, np.concatenate([x, x]), "fc", (0,))
    with pytest.raises(ValueError, match="most must be"):
        explain(net, x, "fc", (0,), most=0)
    with pytest.raises(ValueError, match="from 0 to 4, received 5"):
        explain(net, x, "fc", (0,), backward=True, target=5)
    with pytest.raises(ValueError, match="a position in the input of fc is given by 1 whole number"):
        explain(net, x, "fc", (0, 0), backward=True)


def deep_net(device="numpy"):
    block = Residual([Conv2D(3, 3, padding=1), BatchNorm(), GELU()], [Conv2D(3, 1)])
    row = [Conv2D(2, 3), Tanh(), block, AvgPool2D(3, stride=2, padding=1), MaxPool2D(2, stride=1)]
    net = Sequential([Input((9, 9, 2)), *row, GlobalAvgPool2D(), Flatten(), Dropout(), Linear(4)], seed=4)
    for vector, value in zip(net["residual1.norm1"].vectors, (1.5, 0.3, 0.2, 2.0)):
        vector += value - vector  # so that the norm is not the identity
    return net.to(device)


DEEP_X = np.random.default_rng(5).normal(size=(1, 9, 9, 2)).astype(np.float32)


def test_every_computation_of_a_value_is_within_its_bound_and_the_terms_add_up_to_it():
    net = deep_net()
    for name, volume in net.activations(DEEP_X):
        if name == "residual1.shortcut":
            with pytest.raises(ValueError, match=r"several layers; name one of them: residual1\.shortcut\.conv1$"):
                explain(net, DEEP_X, name, (0, 0, 0))
            continue
        for at in ((0,) * (volume.ndim - 1), tuple(size - 1 for size in volume.shape[1:])):
            explanation = explain(net, DEEP_X, name, at, most=1000)
            assert explanation.value == volume[0][at], name
            assert [result.by for result in explanation.computed] == ["float64", "numpy"]
            assert all(result.error <= result.bound for result in explanation.computed), (name, explanation.computed)
            if explanation.weight is not None:
                total = sum(term.product for term in explanation.terms) + explanation.bias
                assert abs(total - explanation.total) < 1e-12 * (1 + abs(total)), name


def test_a_gradient_is_the_sum_of_contributions_from_outputs():
    net = deep_net()
    for name in [layer.path for layer in descendants(net) if not isinstance(layer, Sequential)]:
        dx: list[np.ndarray] = []
        twin = net.twin()
        with twin[name].register_backward_hook(lambda layer, gradient, dy, dx=dx: dx.append(gradient)):
            twin.forward(DEEP_X)
            twin.backward(np.eye(4, dtype=np.float32)[[2]])
        for at in (np.argmax(np.abs(dx[0])), 0):
            index = tuple(map(int, np.unravel_index(at, dx[0].shape[1:])))
            explanation = explain(net, DEEP_X, name, index, backward=True, target=2, most=1000)
            assert explanation.value == dx[0][(0, *index)], name
            rounding = explanation.computed[-1].bound + 1e-12  # the op received a rounded output
            assert abs(sum(term.product for term in explanation.terms) - explanation.total) < rounding, name
            assert all(result.error <= result.bound for result in explanation.computed), (name, explanation.computed)
    assert not net.grads() or not any(np.any(gradient) for gradient in net.grads().values())


@pytest.mark.parametrize("device", ["numpy", pytest.param("emulated", marks=pytest.mark.kernels)])
def test_gradients_through_branches_are_the_sum_of_those_of_all_branches(device):
    """The net has a block inside a block, a block whose shortcut is the input, and branches concatenated and added."""
    inner = Residual([Conv2D(2, 3, padding=1)])
    outer = Residual([ReLU(), inner], [Conv2D(2, 1)])
    row = [outer, Branches([[], [Conv2D(2, 1)]]), Branches([[], [Conv2D(4, 1)], [Tanh()]], merge="add")]
    net = Sequential([Input((5, 4, 2)), *row, Flatten(), Linear(3)], seed=6).to(device)
    x = backends.asarray(np.random.default_rng(1).normal(size=(1, 5, 4, 2)), device, "float32")
    twin = net.twin()
    gradients: dict[str, np.ndarray] = {}
    with contextlib.ExitStack() as hooks:
        for layer in [layer for layer in descendants(twin) if not isinstance(layer, Sequential)]:

            def keep(layer, dx, dy):
                gradients[layer.path] = backends.to_numpy(dx)

            hooks.enter_context(layer.register_backward_hook(keep))
        twin.forward(x)
        twin.backward(backends.asarray(np.eye(3)[[1]], device, "float32"))
    for name, branches in (("residual1", 2), ("residual1.residual1", 2), ("branches1", 2), ("branches2", 3)):
        explanation = explain(net, x, name, (2, 1, 1), backward=True, target=1)
        assert explanation.value == gradients[name][0, 2, 1, 1], name
        assert len(explanation.terms) == branches
        assert abs(sum(term.product for term in explanation.terms) - explanation.total) < 1e-6, name
        assert all(result.error <= result.bound for result in explanation.computed), name
        assert "the branches contribute" in str(explanation)
    for name in ("residual1.residual1.conv1", "residual1.shortcut.conv1", "branches2.branch2.conv1"):
        assert explain(net, x, name, (2, 1, 1), backward=True, target=1).value == gradients[name][0, 2, 1, 1], name
    added = explain(net, x, "branches2", (2, 1, 1))
    assert "the sum of its branches'" in str(added)
    assert abs(sum(term.product for term in added.terms) - added.total) < 1e-6


@pytest.mark.parametrize("device", ["numpy", pytest.param("emulated", marks=pytest.mark.kernels)])
def test_a_concatenated_value_is_computed_by_the_op_that_wrote_its_slice(device):
    images = np.random.default_rng(0).normal(size=(1, 8, 8, 1)).astype(np.float32)
    for rows in ([[], [Conv2D(3, 1)]], [[Conv2D(2, 1), Tanh()], [Conv2D(3, 1)], []]):
        net = Sequential([Input((8, 8, 1)), Branches(rows), Flatten(), Linear(10)], seed=1).to(device)
        x = backends.asarray(images, device)
        y = backends.to_numpy(net.children()[1][1].infer(x))
        for channel in range(y.shape[-1]):
            explanation = explain(net, x, "branches1", (3, 4, channel))
            assert explanation.computed[-1].by == device
            assert explanation.computed[-1].value == y[0, 3, 4, channel], (rows, channel)
            assert explanation.computed[-1].error <= explanation.computed[-1].bound


def test_a_concatenated_value_of_equal_or_nan_branches_names_the_right_op():
    """Such values do not show which branch they come from."""
    rows = [[Conv2D(2, 1), ReLU()], [Branches([[], [Conv2D(1, 1), Tanh()]])], [Conv2D(2, 1), Tanh()]]
    net = Sequential([Input((2, 2, 1)), Branches(rows), Flatten(), Linear(10)], seed=1)
    for value in (0.0, np.nan):
        for channel, op in enumerate(("relu", "relu", "copy", "tanh", "tanh", "tanh")):
            explanation = explain(net, np.full((1, 2, 2, 1), value, np.float32), "branches1", (0, 1, channel))
            assert np.array_equal(explanation.computed[-1].value, value, equal_nan=True)
            if value == 0.0:  # of it, a ReLU and a copy are exact
                assert (explanation.computed[-1].bound > 0) == (op == "tanh"), channel


def test_a_value_of_the_input_is_computed_by_the_layer_below_that_wrote_it(monkeypatch):
    wrote = []

    def recorded(calls, *arguments):
        wrote.append(calls[-1].op)
        return compute_everywhere(calls, *arguments)

    monkeypatch.setattr(sys.modules[layer_of.__module__], "compute_everywhere", recorded)
    steps = [Branches([[], [Conv2D(4, 1), ReLU()]]) for _ in range(2)]
    inside = Branches([[Conv2D(4, 1)], [Conv2D(4, 1), Tanh(), Branches([[], [Conv2D(4, 1)]])]])
    net = Sequential([Input((3, 3, 2)), Conv2D(4, 1), Tanh(), *steps, inside, Flatten(), Linear(2)], seed=1)
    x = np.random.default_rng(0).normal(size=(1, 3, 3, 2)).astype(np.float32)
    for name, kinds in {
        "branches1": ["tanh", "relu"],
        "branches2": ["tanh", "relu", "relu"],
        "branches3": ["conv2d", "tanh", "conv2d"],
    }.items():
        volume = net.activations(x[0])[name]
        for number, kind in enumerate(kinds):
            explanation = explain(net, x, name, (1, 2, 4 * number))
            assert wrote.pop() == kind, (name, number)
            assert explanation.computed[-1].value == volume[1, 2, 4 * number]
            assert explanation.computed[-1].error <= explanation.computed[-1].bound


def test_a_pool_gives_the_margin_of_its_winner():
    net = Sequential([Input((2, 2, 1)), MaxPool2D(2)])
    explanation = explain(net, np.array([1, 5, 4.5, 2], np.float32).reshape(1, 2, 2, 1), "pool1", (0, 0, 0))
    assert explanation.terms[0].at == (0, 1, 0)
    assert explanation.margin == 0.5
    assert str(explanation).endswith("the largest of 4 inputs, by 0.5")


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
        part = 4 * np.ravel_multi_index(at, (4, 4, 64))  # sums are float32
        assert touched["argument 'partials'"].first <= part <= touched["argument 'partials'"].last
        assert not touched["argument 'partials'"].read
    thread = explain(net, x, "conv1", (2, 1, 35), locate=True, backward=True).thread
    assert thread.part.writers[0].kernel.startswith("conv2d_dgrad")


REFUSED = {  # the message, by the kind of layer
    Sequential: "holds several layers; name one of them: layer1.conv1, layer1.relu1, ",
    Fused: "runs its layers as one op; explain the net as it was before fuse()",
}


def net_around(layer, shape):
    """A net of an input, the layer and an FC layer, with random values in all arrays; and an image for it."""
    layer = Layer.from_config(layer.config() | {"name": "layer1"})
    row = [layer] if isinstance(layer, Input) else [Input(shape), layer]
    net = Sequential([*row, Flatten(), Linear(2)], seed=1)
    random = np.random.default_rng(7)
    for part in descendants(net):
        for name, array in part.arrays.items():
            if not part.variables[name].buffer or name.startswith("running"):
                array[...] = random.uniform(0.2, 1.5, array.shape) * (1 if name == "running_var" else -1)
    return net, random.normal(size=(1, *shape)).astype(np.float32)


@pytest.mark.parametrize(("layer", "shape"), [case[:2] for case in CASES], ids=IDS)
def test_each_kind_of_layer_is_explained_in_both_directions_or_refused(layer, shape):
    """CASES has every kind of layer in the registry, as a test of the layers ensures."""
    net, x = net_around(layer, shape)
    refusal = next((REFUSED[kind] for kind in REFUSED if isinstance(layer, kind)), None)
    for backward in (False, True):
        volume = net["layer1"].input_shape if backward else net["layer1"].output_shape
        if refusal:
            with pytest.raises(ValueError, match=re.escape(refusal)):
                explain(net, x, "layer1", (0,) * len(volume), backward=backward)
            continue
        indices = [np.unravel_index(number, volume) for number in {0, np.prod(volume) // 3, np.prod(volume) - 1}]
        for at in [tuple(map(int, index)) for index in indices]:
            explanation = explain(net, x, "layer1", at, backward=backward, most=10_000)
            value, scale = value_in_the_net(net, x, at, backward)
            assert explanation.value == value, str(explanation)
            assert all(result.error <= result.bound for result in explanation.computed), explanation.computed
            total = explanation.bias + sum(term.product for term in explanation.terms)
            is_sum = explanation.weight is not None and (backward or explanation.kind != "MaxPool2D")
            if is_sum:
                assert abs(total - explanation.total) <= 1e-6 * scale, str(explanation)


def value_in_the_net(net, x, at, backward):
    """The value at a position in layer1's output, or in its input's gradient, and the scale of its rounding errors."""
    twin, volumes = net.twin(), []

    def keep(layer, first, second):
        volumes.append(first if backward else second)

    with twin["layer1"].register_backward_hook(keep) if backward else twin["layer1"].register_forward_hook(keep):
        scores = twin.forward(x)
        if backward:
            twin.backward(np.eye(2, dtype=np.float32)[[int(scores.argmax())]])
    return volumes[0][(0, *at)], max(1.0, float(np.abs(volumes[0]).max()))


def test_user_defined_layers_and_layers_inside_a_fused_one_are_refused():
    class UserLayer(Layer):
        def forward(self, x, training=False):
            return x / 2

    fused = Sequential([Input((4, 4, 1)), Conv2D(2, 3), Tanh(), Flatten(), Linear(2)]).fuse()
    x = np.ones((1, 4, 4, 1), np.float32)
    with pytest.raises(ValueError, match=r"explain the net as it was before fuse\(\)"):
        explain(fused, x, "conv1", (0, 0, 0))
    user_defined = Sequential([Input((4, 4, 1)), UserLayer(name="soft"), Flatten(), Linear(2)])
    with pytest.raises(ValueError, match=r"soft is a .*UserLayer, a kind that explain does not know"):
        explain(user_defined, x, "soft", (0, 0, 0))
    LAYERS.pop(name_of(UserLayer))


@pytest.mark.kernels
@pytest.mark.parametrize("device", ["emulated", "cuda, late", "cuda, early"])
def test_a_device_names_the_threads_of_layers_that_run_several_ops(device):
    """CUDA is the stand-in for CuPy, which runs the work of a stream as late or as early as CUDA allows."""
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
        assert "fprop" in explanation.thread.writers[-1].kernel  # backward, a transposed convolution runs fprop
        assert saliency(net, x).shape == (3, 2, 2)
