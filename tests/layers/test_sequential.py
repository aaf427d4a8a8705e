"""Nets as lists: names, configuration, state, devices, running, hooks."""

import json
import re
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

from gpuconv import backends, losses, ops
from gpuconv.layers import (
    BatchNorm,
    Conv2D,
    Dropout,
    Flatten,
    Input,
    Layer,
    Linear,
    MaxPool2D,
    ReLU,
    Residual,
    Sequential,
    Tanh,
    listen,
)


def net_of(seed=0, **options):
    return Sequential(
        [
            Input((6, 5, 2)),
            Conv2D(4, 3, padding=1),
            ReLU(),
            MaxPool2D(2),
            Residual([Conv2D(6, 3, padding=1), BatchNorm(), ReLU()], [Conv2D(6, 1)]),
            Dropout(0.3),
            Flatten(),
            Linear(5),
        ],
        seed=seed,
        **options,
    )


def images(count=3, dtype="float32"):
    return np.random.default_rng(11).normal(size=(count, 6, 5, 2)).astype(dtype)


def same_state(one, other):
    return one.keys() == other.keys() and all((one[key] == other[key]).all() for key in one)


def test_names_count_by_kind_and_state_keys_are_paths():
    net = net_of()
    assert [name for name, _ in net.children()] == [
        "input",
        "conv1",
        "relu1",
        "pool1",
        "residual1",
        "dropout1",
        "flatten1",
        "fc1",
    ]
    assert list(net.state_dict()) == [
        "conv1.weight",
        "conv1.bias",
        "residual1.conv1.weight",
        "residual1.conv1.bias",
        "residual1.norm1.weight",
        "residual1.norm1.bias",
        "residual1.norm1.running_mean",
        "residual1.norm1.running_var",
        "residual1.shortcut.conv1.weight",
        "residual1.shortcut.conv1.bias",
        "dropout1.offset",
        "fc1.weight",
        "fc1.bias",
    ]
    assert list(net.buffers()) == ["residual1.norm1.running_mean", "residual1.norm1.running_var", "dropout1.offset"]
    assert net.params().keys() | net.buffers().keys() == net.state_dict().keys()
    assert net["conv1"] is net[1]
    assert net[-1].path == "fc1"
    assert net["conv1"].input_shape == (6, 5, 2)
    assert net["conv1"].output_shape == (6, 5, 4)
    assert len(net) == len(list(net)) == 8


def test_given_names_stay_and_automatic_ones_avoid_them():
    net = Sequential([Input((4,)), Linear(3), Linear(3, name="fc1"), Linear(2, name="head")])
    assert [name for name, _ in net.children()] == ["input", "fc2", "fc1", "head"]


def test_two_layers_of_a_kind_without_numbers_get_different_names():
    net = Sequential([Input((4,)), Input((4,)), Input((4,), name="input3"), Input((4,))])
    assert [layer.name for layer in net] == ["input", "input2", "input3", "input4"]
    assert Layer.from_config(net.config()).config() == net.config()


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (lambda: [], TypeError, "at least one layer"),
        (lambda: [Input((3,)), "relu"], TypeError, "list of at least one layer"),
        (lambda: [Linear(3, name="a"), ReLU(name="a")], ValueError, "two layers of one list are named 'a'"),
        (lambda: [layer := ReLU(), layer], ValueError, "occurs twice"),
        (lambda: [Input((4, 4, 1)), Input((4, 3, 1))], ValueError, "takes volumes of 4 x 3 x 1"),
    ],
)
def test_lists_that_make_no_net_are_refused(layers, error, message):
    with pytest.raises(error, match=message):
        Sequential(layers())


def test_the_error_for_an_unknown_layer_name_suggests_the_nearest_one():
    with pytest.raises(ValueError, match="did you mean 'conv1'"):
        net_of()["conv"]


def test_the_config_is_json_and_rebuilds_the_same_net_bit_for_bit():
    net = net_of(seed=12)
    text = json.dumps(net.config())
    twin = Layer.from_config(json.loads(text))
    assert json.dumps(twin.config()) == text
    assert same_state(net.state_dict(), twin.state_dict())
    assert not same_state(net_of(seed=13).params(), net.params())
    x = images()
    np.testing.assert_array_equal(net.forward(x, True), twin.forward(x, True))


def test_a_config_of_an_unknown_layer_or_option_is_refused():
    with pytest.raises(ValueError, match="did you mean 'Conv2D'"):
        Layer.from_config({"layer": "Conv2", "out_channels": 3, "kernel_size": 3})
    with pytest.raises(ValueError, match="did you mean 'stride'"):
        Layer.from_config({"layer": "Conv2D", "out_channels": 3, "kernel_size": 3, "strides": 1})
    with pytest.raises(ValueError, match="entry 'layer'"):
        Layer.from_config({"out_channels": 3})


def test_a_user_defined_layer_works_in_a_net():
    class Doubled(Layer):
        stem = "doubled"

        def forward(self, x, training=False):
            return x + x

    net = Sequential([Input((2,)), Doubled()])
    twin = Layer.from_config(json.loads(json.dumps(net.config())))
    assert twin.forward(np.ones((1, 2), np.float32)).tolist() == [[2, 2]]
    assert twin.output_shape == (2,)


def test_state_is_loaded_in_place_and_across_precisions():
    source, target = net_of(seed=1, dtype="float64"), net_of(seed=2)
    live = target.state_dict()
    target.load_state_dict(source.state_dict())
    assert all(target.state_dict()[key] is array for key, array in live.items())
    for key, value in source.state_dict().items():
        np.testing.assert_array_equal(live[key], value.astype(live[key].dtype))


def test_a_state_that_does_not_fit_is_refused_before_anything_changes():
    net = net_of()
    before = {key: value.copy() for key, value in net.state_dict().items()}
    state = {key: np.ones_like(value) for key, value in before.items()}
    state["conv9.weight"] = state.pop("conv1.weight")
    state["fc1.bias"] = np.ones(6)
    with pytest.raises(ValueError, match=r"missing conv1\.weight") as caught:
        net.load_state_dict(state)
    assert "unexpected conv9.weight" in str(caught.value)
    assert "fc1.bias has shape (6,) where the net has (5,)" in str(caught.value)
    state = dict(before, **{"fc1.bias": np.ones(5, np.int64), "conv1.bias": np.ones(4, np.float32)})
    with pytest.raises(TypeError, match=r"fc1\.bias must be float32, received int64"):
        net.load_state_dict(state)
    state["fc1.bias"] = np.array(["1", "2", "3", "4", "5"])
    with pytest.raises(TypeError, match=r"fc1\.bias must hold numbers of at most 64 bits, received dtype <U1"):
        net.load_state_dict(state)
    assert same_state(net.state_dict(), before)


def test_a_number_out_of_the_range_of_the_nets_dtype_is_refused_before_anything_changes():
    for precision, number in (("float32", 1e39), ("float32", -1e300), ("float16", 65520.0), ("bfloat16", 3.4e38)):
        net = net_of()
        before = {key: value.copy() for key, value in net.state_dict().items()}
        state = before | {"fc1.bias": np.array([0, 0, number, 0, 0])}
        with pytest.raises(ValueError, match=rf"fc1\.bias holds {re.escape(f'{number:g}')}.* range of {precision}"):
            net_of(precision=precision).load_state_dict(state)
        if precision != "float32":
            net["fc1.bias"][2] = number
            before["fc1.bias"][2] = number
            with pytest.raises(ValueError, match=rf"fc1\.bias holds .* range of {precision}"):
                net.to(precision=precision)
        assert net.dtype == np.float32
        assert same_state(net.state_dict(), before)
    state["fc1.bias"][2] = np.inf  # infinite already, so nothing goes out of range
    net.load_state_dict(state)


def test_to_changes_float_dtypes_and_keeps_batch_norm_at_least_float32():
    net = net_of()
    values = {key: value.copy() for key, value in net.state_dict().items()}
    assert net.to(dtype="float16") is net
    dtypes = {key: value.dtype.name for key, value in net.state_dict().items()}
    assert dtypes.pop("dropout1.offset") == "int64"
    assert {dtypes.pop(key) for key in list(dtypes) if "norm" in key} == {"float32"}
    assert set(dtypes.values()) == {"float16"}
    assert net.dtype == np.float16
    assert net.device == "numpy"
    np.testing.assert_array_equal(net["fc1"]["weight"], values["fc1.weight"].astype("float16"))
    assert net.forward(images(dtype="float16"), True).dtype == np.float16
    net.to(dtype="float64")
    assert net.grads()["conv1.weight"].dtype == np.float64


def test_to_without_a_change_keeps_the_arrays():
    net = net_of()
    arrays = net.state_dict()
    net.to("numpy", "float32")
    assert all(net.state_dict()[key] is value for key, value in arrays.items())


def test_an_unknown_device_or_dtype_changes_nothing():
    net = net_of()
    with pytest.raises(ValueError, match="did you mean 'numpy'"):
        net.to("nunpy")
    with pytest.raises(TypeError, match="dtype must be one of"):
        net.to(dtype="int8")
    assert net.device == "numpy"
    assert net.dtype == np.float32


def test_the_emulated_device_gives_the_same_initial_bits():
    try:
        backends.resolve("emulated")
    except backends.DeviceError as error:
        pytest.skip(str(error))
    net = net_of(device="emulated")
    assert net.device == "emulated"
    assert {backends.device_of(value) for value in net.state_dict().values()} == {"emulated"}
    host = {key: backends.to_numpy(value) for key, value in net.state_dict().items()}
    assert same_state(host, net_of().state_dict())
    assert {backends.device_of(value) for value in net.to("numpy").grads().values()} == {"numpy"}


def test_predict_equals_forward_whatever_the_batch_size():
    net = net_of()
    x = images(7)
    expected = net.forward(x)
    net.release()
    for batch_size in (1, 2, 3, 7, 100):
        scores = net.predict(x, batch_size=batch_size)
        assert scores.shape == (7, 5)
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    assert all(layer._saved is None for layer in net.walk())
    np.testing.assert_allclose(net.predict(x, batch_size=4, softmax=True), ops.softmax(expected), rtol=1e-5)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        net.predict(x, batch_size=0)


def test_masked_and_invalid_arrays_are_refused_by_every_method_of_a_net():
    """Masked arrays are refused also within lists. The error for other unusable arrays says what the net accepts."""
    net = net_of()
    net.classes = list("abcde")
    x = images()
    masked = np.ma.masked_greater(x, 0.5)
    u8 = np.ma.masked_greater(np.uint8([[[[1, 2]] * 5] * 6]), 1)
    for method in (net, net.predict, net.activations, partial(net.predict, top=1), partial(net.predict, batch_size=1)):
        lists = [] if method is net else [u8, [masked[0], x[0]]]
        for wrong in (masked, np.ma.masked_array(x, hard_mask=True), *lists):
            with pytest.raises(TypeError, match="must not be a masked array"):
                method(wrong)
        for wrong in (np.float32(1), np.ones((), np.float32), np.ones(2, np.float32), np.ones((1, 1, 6, 5, 2), "f4")):
            with pytest.raises((ValueError, TypeError), match=r"volumes of 6 x 5 x 2|shape \(6, 5, 2\)|received float"):
                method(wrong)
    with pytest.raises(TypeError, match=r"expected an array of NumPy or CuPy, received list"):
        net([x[0]])
    assert net.predict(x[:0], top=2) == []
    np.testing.assert_array_equal(net.predict(x.astype(x.dtype.newbyteorder())), net.predict(x))


def test_activations_are_the_volumes_of_all_layers():
    net = net_of()
    x = images()
    volumes = net.activations(x)
    assert [name for name, _ in volumes if "." not in name] == [name for name, _ in net.children()]
    for name, volume in volumes:
        assert volume.shape == (3, *net[name].output_shape)
    np.testing.assert_array_equal(volumes[0][1], x)
    np.testing.assert_array_equal(volumes[2][1], np.maximum(volumes[1][1], 0))
    np.testing.assert_array_equal(volumes[-1][1], net.infer(x))


def test_a_wrong_image_size_is_refused_at_the_input():
    with pytest.raises(ValueError, match=r"takes volumes of 6 x 5 x 2 .*received 6 x 6 x 2"):
        net_of().forward(np.ones((1, 6, 6, 2), np.float32))


def test_without_an_input_gradient_nothing_is_computed_before_the_first_trained_layer():
    calls = []

    @contextmanager
    def record(layer, direction):
        calls.append((layer.path, direction))
        yield

    net = Sequential([Input((4, 4, 1)), Tanh(), Conv2D(2, 3), ReLU(), Flatten(), Linear(2)])
    y = net.forward(np.ones((2, 4, 4, 1), np.float32), True)
    with listen(record):
        assert net.backward(y, input_grad=False) is None
    assert calls == [(path, "backward") for path in ("fc1", "flatten1", "relu1", "conv1")]
    assert all(layer._saved is None for layer in net.walk())


@pytest.mark.parametrize("flag", ["no", 2, None])
def test_a_flag_that_is_neither_true_nor_false_is_refused_by_a_net_and_by_a_layer(flag):
    net = Sequential([Input((4,)), Linear(3)])
    x, dy = np.ones((2, 4), np.float32), np.ones((2, 3), np.float32)
    for run in (net, net.forward, net.layers[1]):
        with pytest.raises(TypeError, match=f"training must be True or False, received {flag!r}"):
            run(x, training=flag)
    net(x, training=True)
    with pytest.raises(TypeError, match=f"input_grad must be True or False, received {flag!r}"):
        net.backward(dy, input_grad=flag)
    net.backward(dy)  # what forward kept is still there


def test_listeners_see_every_layer_by_path_and_can_be_removed():
    calls = []

    @contextmanager
    def record(layer, direction):
        calls.append(f"{layer.path}.{direction}")
        yield

    net = net_of()
    with listen(record):
        net.infer(images())
    assert calls == [
        f"{path}.forward"
        for path in (
            "input",
            "conv1",
            "relu1",
            "pool1",
            "residual1",
            "residual1.conv1",
            "residual1.norm1",
            "residual1.relu1",
            "residual1.shortcut.conv1",
            "dropout1",
            "flatten1",
            "fc1",
        )
    ]
    calls.clear()
    net.infer(images())
    assert calls == []


def test_a_copy_is_independent_of_the_net():
    net = net_of()
    twin = net.copy()
    assert same_state(net.state_dict(), twin.state_dict())
    twin["fc1"]["bias"][...] = 7
    assert not net["fc1"]["bias"].any()
    assert net.copy(dtype="float64").dtype == np.float64
    with pytest.raises(ValueError, match="nowhere"):
        net.copy(device="nowhere")


def test_a_net_without_an_input_shape_is_built_by_build():
    net = Sequential([Linear(3)])
    assert net.output_shape is None
    assert net.build((4,), seed=5) == (3,)
    assert net.config()["seed"] == 5


def test_build_uses_the_arguments_of_the_constructor():
    net = Sequential([Linear(3)], seed=7, precision="tf32", device="emulated")
    net.build((4,))
    assert (net.seed, net.precision, net.device) == (7, "tf32", "emulated")
    direct = Sequential([Input((4,)), Linear(3)], seed=7, precision="tf32", device="emulated")
    np.testing.assert_array_equal(*(backends.to_numpy(one["fc1"]["weight"]) for one in (net, direct)))
    net = Sequential([Linear(3)], dtype="float64")
    net.build((4,))
    assert net["fc1"]["weight"].dtype == np.float64
    net.build((4,), precision="float16", seed=1)
    assert (net.seed, net["fc1"]["weight"].dtype) == (1, np.float16)
    with pytest.raises(ValueError, match="float23"):
        Sequential([Linear(3)], precision="float23")


def test_a_net_memorizes_twenty_random_images():
    net, loss = net_of(dtype="float64"), losses.get("softmax")
    x, labels = images(20, "float64"), np.arange(20) % 5
    net["dropout1"].p = 0.0
    velocities = [np.zeros_like(value) for value in net.params().values()]
    for _ in range(60):
        value, dscores = loss(net.forward(x, True), labels)
        net.zero_grad()
        net.backward(dscores, input_grad=False)
        ops.sgd_step(list(net.params().values()), list(net.grads().values()), velocities, lr=0.05, momentum=0.9)
    assert value < 0.01
    assert (net.forward(x, True).argmax(1) == labels).all()


def test_nan_passes_through_to_the_loss():
    net = net_of()
    x = images()
    x[1, 2, 2, 0] = np.nan
    value, dscores = losses.get("softmax")(net.forward(x), np.array([0, 1, 2]))
    assert np.isnan(value)
    assert np.isnan(dscores[1]).all()
    assert not np.isnan(dscores[[0, 2]]).any()


def test_a_net_without_input_that_was_built_is_copied_with_its_values():
    net = Sequential([Flatten(), Linear(3)])
    net.build((2, 2, 1))
    copy = net.copy(dtype="float64")
    assert (copy.input_shape, copy.output_shape, copy.dtype) == ((2, 2, 1), (3,), np.float64)
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(copy.state_dict()[key], value.astype(np.float64))
    copy["fc1.weight"][...] = 0
    assert net["fc1.weight"].any()
