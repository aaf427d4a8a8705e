"""Branches: names, shapes, values by hand, fusion, files, what is refused."""

import json
import re

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import ops
from gpuconv.layers import (
    BatchNorm,
    Branches,
    Conv2D,
    Flatten,
    Input,
    Layer,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
)
from gpuconv.summary import rows as summary_rows
from gpuconv.summary import summary
from tests.devices import DEVICES


def inception(**options):
    branches = [[Conv2D(2, 1), ReLU()], [Conv2D(3, 3, padding=1), BatchNorm(), ReLU()], []]
    return Sequential([Input((4, 5, 3)), Branches(branches), Flatten(), Linear(2)], seed=3, **options)


def test_channels_are_concatenated_in_the_order_of_the_branches():
    net = Sequential([Input((1, 2, 1)), Branches([[Conv2D(2, 1, bias=False)], []])], dtype="float64")
    net["branches1.branch1.conv1.weight"][...] = np.array([10.0, 20]).reshape(2, 1, 1, 1)
    x = np.array([1.0, 2]).reshape(1, 1, 2, 1)
    np.testing.assert_array_equal(net(x, True)[0, 0], [[10, 20, 1], [20, 40, 2]])
    dx = net.backward(np.array([[1.0, 1, 5], [0, 2, 7]]).reshape(1, 1, 2, 3))
    np.testing.assert_array_equal(dx.ravel(), [10 + 20 + 5, 40 + 7])
    np.testing.assert_array_equal(net.grads()["branches1.branch1.conv1.weight"].ravel(), [1, 1 + 2 * 2])


@pytest.mark.parametrize("channels", [2, 4])
def test_a_gradient_with_another_number_of_channels_than_the_output_is_refused(channels):
    net = Sequential([Input((1, 2, 1)), Branches([[Conv2D(2, 1)], []])])
    net(np.ones((1, 1, 2, 1), np.float32), True)
    with pytest.raises(ValueError, match=f"dy must have 3 channels, as the output, received {channels}"):
        net.layers[1].backward(np.ones((1, 1, 2, channels), np.float32))


def test_layers_of_branches_are_named_and_summarized_by_their_paths():
    net = inception()
    assert [key for key, _ in net.named_parameters()][:3] == [
        "branches1.branch1.conv1.weight",
        "branches1.branch1.conv1.bias",
        "branches1.branch2.conv1.weight",
    ]
    assert net["branches1"].rows[2] is None  # the third branch is the input itself
    listed = {row.name: row for row in summary_rows(net)}
    assert listed["branches1"].output_shape == (4, 5, 8)
    assert listed["branches1.branch2.norm1"].parameters == 6
    assert "branches1.branch2.conv1" in summary(net)
    assert "  branch2.conv1:" in repr(net)
    assert net.activations(np.ones((4, 5, 3), np.float32))["branches1.branch2.relu1"].shape == (4, 5, 3)


def conv_bias_norm(filters, kernel_size=3, **options):
    return [Conv2D(filters, kernel_size, **options), BatchNorm()]


# The branches, and how many of their gradients backward adds with `ops.add`; convolutions add the others themselves.
SUMS = {
    "conv, conv": ([[*conv_bias_norm(4, padding=1), ReLU()], conv_bias_norm(4, 1)], 0),
    "strides with unread pixels": ([conv_bias_norm(4, 1, stride=3), conv_bias_norm(4, 2, stride=3, fit="cover")], 0),
    "conv, input": ([conv_bias_norm(3, padding=1), []], 1),
    "input, conv, conv": ([[], conv_bias_norm(3, 1), conv_bias_norm(3, padding=1)], 1),
    "norm, conv, conv": ([[BatchNorm(), Conv2D(3, 1)], [Conv2D(3, 1), ReLU()], [Conv2D(3, 1)]], 1),
    "depthwise, frozen": ([[Conv2D(3, 1, groups=3), ReLU()], [Conv2D(3, 3, padding=1, frozen=True)]], 0),
    "branches within, conv": ([[Branches([[Conv2D(3, 1)], []], "add")], [Conv2D(3, 1)]], 2),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fuse", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("name", SUMS)
def test_convolutions_add_their_gradients_to_those_of_earlier_branches(name, fuse, device, monkeypatch):
    branches, additions = SUMS[name]
    layers = [Input((6, 5, 3)), Branches([list(branch) for branch in branches], "add")]
    built = Sequential(layers, seed=3, device=device)
    net = built.fuse() if fuse else built
    x, dy = (
        np.random.default_rng(seed).standard_normal((2, *shape)).astype(np.float32)
        for seed, shape in enumerate((built.input_shape, built.output_shape))
    )
    added, add = [], ops.add
    monkeypatch.setattr(ops, "add", lambda *arrays, **options: added.append(1) or add(*arrays, **options))

    def gradients():
        net.zero_grad()
        net.forward(gc.asarray(x, device), True)
        added.clear()
        dy_on_device = gc.asarray(dy.copy(), device)
        dx = gc.to_numpy(net.backward(dy_on_device)).copy()
        np.testing.assert_array_equal(gc.to_numpy(dy_on_device), dy)
        return [dx, *(gc.to_numpy(grad).copy() for grad in net.grads().values())]

    accumulated = gradients()
    assert len(added) == additions
    monkeypatch.setattr("gpuconv.layers.branches.adds_input_grad", lambda branch: False)
    for one, other in zip(accumulated, gradients(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("hooked", [(0,), (1,), (0, 1)], ids=["first", "second", "both"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_backward_hooks_receive_the_gradient_of_their_own_branch(dtype, hooked):
    """The sum keeps the bits that it has without hooks, even in float16: dgrad still adds its gradient to the sum and
    rounds once. Adding the rounded gradient that a hook receives would round twice."""
    net = Sequential([Input((6, 5, 3)), Residual([Conv2D(4, 3, padding=1)], [Conv2D(4, 1)])], seed=3, dtype=dtype)
    x, dy = (
        np.random.default_rng(seed).standard_normal((1, 6, 5, channels)).astype(dtype)
        for seed, channels in enumerate((3, 4))
    )
    net.forward(x, True)
    expected, seen = net.backward(dy), {}
    paths = [("residual1.conv1", "residual1.shortcut.conv1")[number] for number in hooked]
    for path in paths:
        net[path].register_backward_hook(lambda layer, dx, dy: seen.update({layer.path: dx}))
    net.forward(x, True)
    np.testing.assert_array_equal(net.backward(dy), expected)
    assert [*seen] == paths
    for path, dx in seen.items():
        conv = net[path]
        expected_dx = ops.conv2d_dgrad(dy, conv["weight"], input_shape=x.shape, padding=conv.padding)
        np.testing.assert_allclose(dx, expected_dx, rtol=1e-5 if dtype == "float32" else 2e-3, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_fused_branches_give_the_gradients_of_unfused_ones(device):
    plain, fused = inception(device=device), inception(device=device).fuse()
    assert [type(layer).__name__ for layer in fused["branches1"].rows[1]] == ["ConvNorm"]
    assert fused.state_dict().keys() == plain.state_dict().keys()
    rng = np.random.default_rng(0)
    x, dy = (gc.asarray(rng.normal(size=shape).astype(np.float32), device) for shape in ((3, 4, 5, 3), (3, 2)))
    for net in (plain, fused):
        net.forward(x, True)
    np.testing.assert_allclose(gc.to_numpy(fused.backward(dy)), gc.to_numpy(plain.backward(dy)), rtol=1e-4, atol=1e-5)
    for key, gradient in plain.grads().items():
        np.testing.assert_allclose(gc.to_numpy(fused.grads()[key]), gc.to_numpy(gradient), rtol=1e-4, atol=1e-5)


def test_a_net_with_branches_can_be_rebuilt_saved_and_copied(tmp_path):
    net = inception()
    config = json.loads(json.dumps(net.config()))
    assert Layer.from_config(config).config() == net.config()
    net.save(tmp_path / "net.safetensors")
    x = np.random.default_rng(1).normal(size=(2, 4, 5, 3)).astype(np.float32)
    for again in (gc.load(tmp_path / "net.safetensors"), net.copy(), Sequential([*net])):
        assert again.infer(x).tobytes() == net.infer(x).tobytes()


def test_branches_slide_over_larger_images():
    net = Sequential([Input((4, 4, 2)), Branches([[Conv2D(2, 3)], [Conv2D(3, 3)]]), MaxPool2D(2), Flatten(), Linear(2)])
    images = np.random.default_rng(2).normal(size=(1, 6, 4, 2)).astype(np.float32)
    scores = net.as_convolutional()(images)
    for row in (0, 1):
        window = images[:, 2 * row : 2 * row + 4]
        np.testing.assert_allclose(scores[:, row, 0], net.infer(window), rtol=1e-5, atol=1e-6)


def test_frozen_branches_get_no_gradients():
    net = inception(dtype="float64")
    net["branches1.branch2"].freeze()
    net.forward(np.ones((1, 4, 5, 3)), True)
    assert net.backward(np.ones((1, 2)), input_grad=False) is None
    assert net.grads().keys() == {
        "branches1.branch1.conv1.weight",
        "branches1.branch1.conv1.bias",
        "fc1.weight",
        "fc1.bias",
    }
    assert np.abs(net.grads()["branches1.branch1.conv1.weight"]).max() > 0


def test_frozen_branches_pass_gradients_on():
    trained, frozen = (inception(dtype="float64") for _ in range(2))
    frozen["branches1.branch2"].freeze()
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(3, 4, 5, 3)), rng.normal(size=(3, 2))
    for net in (trained, frozen):
        net.forward(x, True)
    np.testing.assert_allclose(frozen.backward(dy), trained.backward(dy), rtol=1e-12)


def test_branches_that_do_not_fit_together_are_refused():
    conv = Conv2D(2, 1)
    for make, error, words in (
        (
            lambda: Branches([[conv]]),
            ValueError,
            "takes at least two lists of layers, received ((Conv2D(out_channels=2, kernel_size=1),),)",
        ),
        (
            lambda: Branches([conv, ReLU()]),
            TypeError,
            "layers are given as a list, [Conv2D(out_channels=2, kernel_size=1), ...]",
        ),
        (lambda: Branches(conv), ValueError, "takes at least two lists of layers"),
        (lambda: Branches([[conv], [conv]]), ValueError, "a layer occurs in two branches"),
        (lambda: Residual([conv], [conv]), ValueError, "a layer occurs in two branches"),
        (lambda: Residual([]), TypeError, "at least one layer"),
        (lambda: Residual(None), TypeError, "the body of a residual block is a list of layers, received None"),
        (lambda: Branches([[], []], "sum"), ValueError, "unknown merge 'sum' (known: concat, add)"),
        (
            lambda: Branches([[], [MaxPool2D(2)]]).build((4, 4, 3)),
            ValueError,
            "(4, 4, 3), (2, 2, 3), which differ in more",
        ),
        (
            lambda: Branches([[], [conv]], "add").build((4, 4, 3)),
            ValueError,
            "(4, 4, 3), (4, 4, 2), which cannot be added",
        ),
    ):
        with pytest.raises(error, match=re.escape(words)):
            make()


@pytest.mark.parametrize("merge", ["concat", "add"])
def test_the_error_names_the_shapes_of_branches_that_agree_only_at_the_built_size(merge):
    halved = [Conv2D(4, 1), MaxPool2D(2, stride=2)], [Conv2D(4, 3, stride=2, padding=1)]
    net = Sequential([Input((6, 6, 4), larger=True), Branches(halved, merge)])
    assert net.infer(np.ones((1, 8, 8, 4), net.dtype)).shape[1:3] == (4, 4)
    with pytest.raises(ValueError, match=r"the branches give \(4, 4, 4\), \(5, 5, 4\), which"):
        net.infer(np.ones((1, 9, 9, 4), net.dtype))
