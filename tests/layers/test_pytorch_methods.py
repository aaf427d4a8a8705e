"""Methods of a net that PyTorch users expect."""

import copy
import inspect

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.layers import Conv2D, Dropout, Flatten, Input, Linear, MaxPool2D, ReLU, Residual, Sequential
from gpuconv.summary import summary
from gpuconv.training import Trainer


@pytest.fixture
def net():
    return Sequential(
        [
            Input((6, 6, 2)),
            Conv2D(3, 3, padding=1),
            ReLU(),
            Residual([Conv2D(3, 3, padding=1)], [Conv2D(3, 1)]),
            MaxPool2D(2),
            Dropout(0.5),
            Flatten(),
            Linear(5),
        ]
    )


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype("f4")


def test_a_net_can_be_called(net, x):
    np.testing.assert_array_equal(net(x), net.forward(x))
    y = net(x, training=True)
    assert net.backward(np.ones_like(y)).shape == x.shape


def test_repr_has_a_line_for_each_layer(net):
    assert repr(net).splitlines() == [
        "Sequential([",
        "  input:             Input(shape=(6, 6, 2))                            -> 6 x 6 x 2",
        "  conv1:             Conv2D(out_channels=3, kernel_size=3, padding=1)  -> 6 x 6 x 3",
        "  relu1:             ReLU()                                            -> 6 x 6 x 3",
        "  residual1:         Residual                                          -> 6 x 6 x 3",
        "    conv1:           Conv2D(out_channels=3, kernel_size=3, padding=1)  -> 6 x 6 x 3",
        "    shortcut.conv1:  Conv2D(out_channels=3, kernel_size=1)             -> 6 x 6 x 3",
        "  pool1:             MaxPool2D(kernel_size=2)                          -> 3 x 3 x 3",
        "  dropout1:          Dropout()                                         -> 3 x 3 x 3",
        "  flatten1:          Flatten()                                         -> 27",
        "  fc1:               Linear(out_features=5)                            -> 5",
        "])",
    ]
    lines = ["Sequential([", "  fc1:    Linear(out_features=3)", "  relu1:  ReLU()", "])"]
    assert repr(Sequential([Linear(3), ReLU()])).splitlines() == lines


def test_nets_summaries_and_checks_are_tables_in_notebooks(net):
    net["conv1"].freeze()
    shown = net._repr_html_()
    for cell in ("residual1.shortcut.conv1", "6 x 6 x 3", ">57<", ">frozen<", "parameters"):
        assert cell in shown
    assert "residual1.shortcut.conv1" in summary(net)._repr_html_()
    assert "<table>" in gc.checks.gradient_check(net, samples=2)._repr_html_()
    marked_up = Sequential([Input((2,)), Linear(2, name="<b>")])
    assert "<b>" not in marked_up._repr_html_()


def test_named_parameters_gives_every_parameter(net):
    net["conv1"].frozen = True
    names = [name for name, _ in net.named_parameters()]
    assert names == [key for key in net.state_dict() if not key.startswith("dropout")]
    assert dict(net.named_parameters())["conv1.weight"] is net["conv1"]["weight"]


def test_activations_are_found_by_name(net, x):
    volumes = net.activations(x)
    assert volumes["pool1"].shape == (4, 3, 3, 3)
    assert volumes.keys() == [name for name, _ in volumes]
    np.testing.assert_array_equal(volumes["fc1"], net(x))
    np.testing.assert_array_equal(volumes[-1][1], dict(volumes)["fc1"])
    with pytest.raises(ValueError, match="did you mean 'pool1'"):
        volumes["pool"]


def test_layers_inside_others_are_found_by_name(net, x):
    inner = net["residual1.conv1"]
    assert inner.path == "residual1.conv1"
    assert inner is net["residual1"]["conv1"]
    assert net["residual1.shortcut.conv1"] is net["residual1.shortcut"][0]
    for name, array in net.named_parameters():
        assert net[name] is array
        assert net[name.rpartition(".")[0]].path == name.rpartition(".")[0]
    for wrong, message in (
        ("residual1.conv7", r"unknown layer 'conv7'; did you mean 'conv1'\? \(known: conv1, shortcut\)"),
        ("conv1.wieght", "unknown variable 'wieght'; did you mean 'weight'"),
        ("residual1.", "unknown layer ''"),
    ):
        with pytest.raises(ValueError, match=message):
            net[wrong]
    volumes = net.activations(x)
    np.testing.assert_array_equal(
        volumes["residual1"], volumes["residual1.conv1"] + volumes["residual1.shortcut.conv1"]
    )
    assert not inner.hooks


def test_hooks_reach_layers_inside_others(net, x):
    called = []
    names = ("residual1.conv1", "residual1.shortcut.conv1", "residual1.shortcut", "residual1")
    handles = [net[name].register_forward_hook(lambda layer, x, y: called.append(layer.path)) for name in names]
    handles += [net[name].register_backward_hook(lambda layer, dx, dy: called.append(layer.path)) for name in names]
    net.backward(np.ones_like(net(x, training=True)))
    assert called == [*names, "residual1.conv1", "residual1.shortcut.conv1", "residual1.shortcut", "residual1"]
    called.clear()
    net.fuse()(x)
    assert called == [*names]
    for handle in handles:
        handle.remove()
    net(x)
    assert called == [*names]


def test_sequential_takes_layers_one_by_one_as_in_pytorch():
    assert [layer.name for layer in Sequential(Conv2D(2, 3), ReLU(), Linear(3))] == ["conv1", "relu1", "fc1"]
    assert len(Sequential(Conv2D(2, 3))) == 1
    assert Sequential(Input((4,)), Linear(2), seed=3).output_shape == (2,)
    assert len(Sequential(layer for layer in (ReLU(), ReLU()))) == 2
    assert len(Sequential(layers=[ReLU(), ReLU()])) == 2
    assert [*inspect.signature(Sequential).parameters][:3] == ["layers", "more", "name"]
    part = Sequential([ReLU()])
    assert [type(layer) for layer in Sequential(part, Linear(3))] == [Sequential, Linear]
    for wrong, message in (
        (lambda: Sequential(Conv2D(2, 3), ReLU), r"received the class ReLU; call it: ReLU\(\)"),
        (lambda: Residual(Conv2D(2, 3), ReLU()), r"layers are given as a list, \[Conv2D\(.*\), ...\]"),
        (lambda: Sequential({"a": ReLU()}), "at least one layer, received {'a'"),
        (lambda: Sequential([]), "at least one layer"),
        (lambda: Sequential(3), "at least one layer, received 3"),
    ):
        with pytest.raises(TypeError, match=message):
            wrong()


def test_hooks_see_volumes_until_they_are_removed(net, x):
    calls = []
    forward = net["residual1"].register_forward_hook(lambda layer, x, y: calls.append((layer.name, x.shape, y.shape)))
    backward = net["conv1"].register_backward_hook(lambda layer, dx, dy: calls.append((layer.name, dx, dy.shape)))
    y = net(x, training=True)
    net.backward(np.ones_like(y), input_grad=False)
    assert calls == [("residual1", (4, 6, 6, 3), (4, 6, 6, 3)), ("conv1", None, (4, 6, 6, 3))]
    forward.remove()
    backward.remove()
    net.backward(np.ones_like(net(x, training=True)))
    assert len(calls) == 2
    with net.register_forward_hook(lambda layer, x, y: calls.append(y.shape)):
        net(x)
    net(x)
    assert calls[2:] == [(4, 5)]
    with pytest.raises(TypeError, match=r"a hook is a function of \(layer, x, y\), received str"):
        net.register_forward_hook("print")
    with pytest.raises(TypeError, match=r"a hook is a function of \(layer, dx, dy\), received str"):
        net.register_backward_hook("print")


def test_hooks_are_called_in_a_fused_net_and_not_in_a_copy(net, x):
    seen = []
    with net["conv1"].register_forward_hook(lambda *arguments: seen.append(arguments)):
        net.copy()(x)
        copy.deepcopy(net[1:3]).twin()(x[:1])
        count = len(seen)
        Trainer(net, fuse=True).trained(x)
    assert len(seen) == count + 1


def test_a_state_that_fits_in_part_is_loaded_if_not_strict(net):
    state = {key: np.asarray(value) + 1 for key, value in net.state_dict().items() if not key.startswith("fc1")}
    before = net["fc1"]["weight"].copy()
    missing, unexpected = net.load_state_dict(state | {"head.weight": np.zeros(3)}, strict=False)
    assert missing == ["fc1.weight", "fc1.bias"]
    assert unexpected == ["head.weight"]
    np.testing.assert_array_equal(net["fc1"]["weight"], before)
    np.testing.assert_array_equal(net["conv1"]["weight"], state["conv1.weight"])
    with pytest.raises(ValueError, match=r"missing fc1.weight; missing fc1.bias"):
        net.load_state_dict(state)
    with pytest.raises(ValueError, match=r"conv1.bias has shape"):
        net.load_state_dict({"conv1.bias": np.zeros(7, "f4")}, strict=False)
    assert net.load_state_dict(net.state_dict()) == ([], [])


def test_an_array_in_pytorchs_layout_gets_a_hint(net, x):
    with pytest.raises(ValueError, match=r"received 2 x 6 x 6; that is PyTorch's layout.*x.transpose\(0, 2, 3, 1\)"):
        net(x.transpose(0, 3, 1, 2))
    with pytest.raises(ValueError, match=r"received 6 x 2; the first axis counts the images: x\[None\]"):
        net(x[0])


def test_dtype_takes_short_names_of_precisions():
    net = Sequential([Input((4, 4, 1)), Flatten(), Linear(2)], dtype="fp16")
    assert net.precision == "float16"
    assert net.to(dtype="bf16").precision == "bfloat16"
    with pytest.raises(TypeError, match="received 'fp8'"):
        net.to(dtype="fp8")


def test_short_names_of_precisions_and_of_the_cpu_are_accepted():
    for short_name, name in (("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32"), ("fp64", "float64")):
        assert gc.models.build("seed-net", (8, 8, 3), precision=short_name).precision == name
    assert gc.models.build("seed-net", (8, 8, 3), device="cpu").device == "numpy"
    with pytest.raises(ValueError, match="unknown precision 'bf61'"):
        gc.models.build("seed-net", precision="bf61")


def test_an_object_that_is_not_a_net_or_has_no_shapes_is_named():
    unbuilt = Sequential([Conv2D(3, 3), Flatten(), Linear(2)])
    data = np.zeros((2, 4, 4, 3), np.float32), [0, 1]
    for function in (Trainer, lambda net: gc.evaluate(net, data), summary):
        with pytest.raises(RuntimeError, match=r"no shapes yet: begin it with Input\(...\) or call build"):
            function(unbuilt)
        for wrong, message in (("digits-net", r"gpuconv.models.build\('digits-net'\)"), (None, "received NoneType")):
            with pytest.raises(TypeError, match=message):
                function(wrong)


def test_a_file_is_refused_by_a_net_that_takes_no_images():
    net = Sequential([Input((10,)), Linear(3)])
    for images in ("digit.png", ["digit.png"], [np.zeros(10, np.float32), "digit.png"]):
        with pytest.raises(ValueError, match=r"takes inputs of shape \(10,\), received the image file 'digit.png'"):
            net.predict(images)


def test_predicting_no_images_gives_no_classes(net):
    assert net.predict([], top=1) == []
    assert net.predict(np.zeros((0, 6, 6, 2), np.float32), top=1) == []


def test_volumes_are_printed_as_names_and_shapes(net, x):
    assert repr(net.activations(x)).splitlines()[1] == "conv1: 4 x 6 x 6 x 3"
    assert len(repr(net.activations(x)).splitlines()) == len(net.activations(x))


def test_a_net_contains_its_names_and_its_layers(net, x):
    for name in ("conv1", "residual1.conv1", "residual1.conv1.weight", "conv1.weight"):
        assert name in net
    for name in ("conv2", "residual1.conv9", "conv1.wight", "residual1.conv1.bais"):
        assert name not in net
    assert "conv1.weight" in Sequential([Input((6, 6, 2)), Conv2D(3, 3)], initialize=False)
    assert net[1] in net
    assert Conv2D(3, 3, padding=1) not in net
    volumes = net.activations(x)
    assert "residual1.conv1" in volumes
    assert "conv2" not in volumes


def test_the_shape_of_an_input_is_a_tuple():
    for wrong in (8, "8x8", None):
        with pytest.raises(TypeError, match=r"as \(32, 32, 3\), received"):
            Input(wrong)
