"""User-defined layers: how they are found by name, which are refused when built, and which layer an error names."""

import json
import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import layers
from gpuconv.layers import LAYERS, Conv2D, Flatten, Input, Layer, Linear, Sequential
from gpuconv.layers.activation import Activation
from gpuconv.training import Trainer, compare_settings


def define(module, name="Swish", **attributes):
    """A layer class as a module of the given name would define it."""

    def forward(self, x, training=False):
        return x

    return type(name, (Layer,), {"forward": forward, "__module__": module, "__qualname__": name} | attributes)


@pytest.fixture(autouse=True)
def layers_defined_by_a_test_are_forgotten():
    before = dict(LAYERS)
    yield
    LAYERS.clear()
    LAYERS.update(before)


def rebuilt(layer):
    return Layer.from_config(json.loads(json.dumps(layer.config())))


def test_a_layer_with_the_name_of_one_of_ours_does_not_replace_it(tmp_path):
    own = define("mynet", "ReLU")
    net = Sequential([Input((3,)), layers.ReLU(), own(), Linear(2)])
    net.save(tmp_path / "x.safetensors")
    for twin in (rebuilt(net), net.copy(), gc.load(tmp_path / "x.safetensors")):
        assert [type(layer) for layer in twin] == [Input, layers.ReLU, own, Linear]
    assert net.config()["layers"][2]["layer"] == "mynet.ReLU"


def test_two_modules_may_use_the_same_name():
    one, two = define("one"), define("two")
    assert type(rebuilt(one())) is one
    assert type(rebuilt(two())) is two
    with pytest.raises(ValueError, match=r"several layers named 'Swish': one\.Swish, two\.Swish; received 'Swish'"):
        Layer.from_config({"layer": "Swish"})


def test_a_class_is_found_after_it_moved_and_under_the_name_in_older_runs():
    own = define("mynet")
    for name in ("Swish", "__main__.Swish", "mynet.Swish"):
        assert type(Layer.from_config({"layer": name})) is own
        assert compare_settings.in_current_form({"layer": name})["layer"] == "mynet.Swish"
    newer = define("mynet")  # as when a notebook's cell is run a second time
    assert type(Layer.from_config({"layer": "mynet.Swish"})) is newer
    with pytest.raises(ValueError, match=r"'mynet.Mish' is not defined here: import the module that defines it"):
        Layer.from_config({"layer": "mynet.Mish"})
    with pytest.raises(ValueError, match="did you mean 'ReLU'"):
        Layer.from_config({"layer": "ReLo"})


def init_without_fields(self, beta, **options):
    Layer.__init__(self, **options)
    self.beta = beta


@dataclass(eq=False, repr=False)
class Gate(Layer):
    beta: float = 1.0
    widths: tuple[int, ...] = field(default=(1, 2))

    def forward(self, x, training=False):
        self.stash(x)
        return x / (1 + np.exp(-self.beta * x))


@dataclass(eq=False, repr=False)
class HoldsAnything(Layer):
    content: object = None

    def forward(self, x, training=False):
        return x


class Doubling(Gate):
    """Changes its setting every time it is constructed."""

    def __post_init__(self):
        super().__post_init__()
        self.beta *= 2


def test_a_layer_that_cannot_be_saved_is_refused_when_it_is_built():
    own = define("mynet", __init__=init_without_fields)
    for layer, reason in (
        (own(2.0), r"its argument 'beta' is not a field"),
        (HoldsAnything(print), "not JSON serializable"),
        (Doubling(3.0), "creates a layer with another config"),
        (define("mynet", "Bare", __init__=lambda self: Layer.__init__(self))(), "unexpected keyword argument"),
    ):
        for build in (lambda layer=layer: Sequential([Input((3,)), layer]), lambda layer=layer: layer.build((3,))):
            with pytest.raises(
                TypeError, match=rf"(?s)cannot be saved or copied.*{reason}.*@dataclass.*docs/layers.md"
            ):
                build()
    with pytest.raises(TypeError, match=r"must call super\(\).__init__\(\) first"):
        define("mynet", "Uninitialized", __init__=lambda self: None)().place("", (3,))
    with pytest.raises(TypeError, match=r"Uninitialized cannot be saved or copied"):
        Sequential([Input((3,)), define("mynet", "Uninitialized", __init__=lambda self: None)()])


@dataclass(eq=False, repr=False)
class Tagged(Sequential):
    tag: str = ""


class Plain(Sequential):
    pass


class WithOptions(Sequential):
    def __init__(self, layers, **options):
        super().__init__(layers, **options)


def test_a_subclass_of_sequential_is_refused_in_one_line_when_it_is_built():
    for kind in (Tagged, Plain, WithOptions):
        inner = kind([Linear(2)])
        for build in (
            lambda kind=kind: kind([Input((3,)), Linear(2)]).build((3,)),
            lambda inner=inner: inner.build((3,)),
            lambda inner=inner: Sequential([Input((3,)), inner]),
        ):
            with pytest.raises(TypeError, match=rf"^{kind.__name__} cannot .* derives from Seq") as message:
                build()
            assert str(message.value).count("cannot be saved") == 1
            assert "\n" not in str(message.value)


def test_layers_that_can_be_saved_are_built():
    for layer in (Gate(2.5), Gate(widths=(3, (4, 5))), HoldsAnything(Linear(2)), define("mynet")()):
        net = Sequential([Input((3,)), layer])
        assert rebuilt(net).config() == net.config()


def test_a_dictionary_among_the_settings_is_kept_and_is_rebuilt_from_the_config():
    options = {"size": np.float32(0.5), "taps": [{"layer": "conv1", "at": 2}]}
    layer = HoldsAnything(options)
    assert layer.content is options
    assert rebuilt(layer).content == options


class ComputesInFloat64(Layer):
    """Its results are float64, whatever the net's dtype."""

    def forward(self, x, training=False):
        y = np.tanh(x.astype(np.float64))
        self.stash(y)
        return y

    def backward(self, dy, *, input_grad=True):
        (y,) = self.unstash()
        return dy * (1 - y * y) if input_grad else None


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "float64"])
def test_a_layer_may_compute_in_another_float_dtype(precision):
    images, labels = np.random.default_rng(0).normal(size=(8, 4, 4, 1)), np.arange(8) % 2
    rows = [
        Input((4, 4, 1)),
        layers.Conv2D(2, 3),
        ComputesInFloat64(),
        layers.Flatten(),
        Linear(2),
        ComputesInFloat64(),
    ]
    net = Sequential(rows, precision=precision)
    gc.Trainer(net, lr=0.1).fit((images, labels), epochs=1, progress=False)
    scores = net.predict(images)
    assert scores.dtype == net.dtype
    twin = net.copy(precision="float64").predict(images)
    np.testing.assert_allclose(scores.astype(float), twin, atol=0.02)


def test_a_layer_that_returns_no_array_is_named():
    net = Sequential([Input((3,)), define("mynet", forward=lambda self, x, training=False: None)(), Linear(2)])
    with pytest.raises(TypeError, match=r"Swish.forward must return an array, returned NoneType"):
        net(np.ones((1, 3), np.float32))


def test_a_plan_may_return_a_list_and_one_that_returns_no_shape_is_named():
    listed = define("mynet", "Listed", plan=lambda self, input_shape: [*input_shape])()
    assert Sequential([Input((3,)), listed, Linear(2)])[1].output_shape == (3,)
    for returned, error, message in (
        (None, TypeError, "plan's result must be a shape without N, .* received None"),
        (3, TypeError, "plan's result must be a shape without N, .* received 3"),
        ((1.5,), TypeError, r"plan's result\[0\] must be an integer, received 1.5"),
        ((2, 0), ValueError, r"plan's result\[1\] must be at least 1, received 0"),
    ):
        wrong = define("mynet", "Wrong", plan=lambda self, input_shape, returned=returned: returned)(name="wrong")
        with pytest.raises(error, match=f"wrong: {message}"):
            Sequential([Input((3,)), wrong, Linear(2)])


class UsesOldNames(Layer):
    """Calls `stash` and `unstash` by the names they had before nets were saved with `save(path)`."""

    def forward(self, x, training=False):
        y = np.tanh(x)
        self.save(y, x)
        return y

    def backward(self, dy, *, input_grad=True):
        y, _ = self.take()
        return dy * (1 - y * y)


def test_the_old_names_of_stash_work_and_warn(tmp_path):
    layer, x = UsesOldNames(), np.array([[0.5, -2.0]], np.float32)
    with pytest.warns(DeprecationWarning, match=r"calls save\(...\), which is called stash\(...\) now") as warned:
        y = layer.forward(x)
    assert warned[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"calls take\(\), which is called unstash\(\) now") as warned:
        np.testing.assert_array_equal(layer.backward(np.ones_like(x)), 1 - y * y)
    assert warned[0].filename == __file__
    net = Sequential([Input((2,)), UsesOldNames()])
    with pytest.raises(TypeError, match="received no path"):
        net.save()
    with warnings.catch_warnings(action="error"):
        net.save(tmp_path / "net.safetensors")


def test_a_result_of_the_wrong_shape_names_the_layer():
    class DropsARow(Layer):
        def forward(self, x, training=False):
            return x[:, 1:]

        def backward(self, dy, *, input_grad=True):
            return dy

    class DropsHalfOfTheGradient(Layer):
        def forward(self, x, training=False):
            return x

        def backward(self, dy, *, input_grad=True):
            return dy[:, :, ::2]

    x = np.ones((2, 4, 4, 1), np.float32)
    net = Sequential([Input((4, 4, 1)), DropsARow(), Flatten(), Linear(2)])
    for forward in (net, net.infer):
        with pytest.raises(
            ValueError, match=r"DropsARow.forward must return .*\(N, 4, 4, 1\), .*returned \(2, 3, 4, 1\)"
        ):
            forward(x)
    net = Sequential([Input((4, 4, 1)), Conv2D(1, 1), DropsHalfOfTheGradient(), Flatten(), Linear(2)])
    with pytest.raises(
        ValueError, match=r"DropsHalfOfTheGradient.backward must return .*\(N, 4, 4, 1\), .*returned \(2, 4, 2, 1\)"
    ):
        net.backward(net(x))


def test_an_error_names_the_layer_that_lacks_forward_or_backward():
    class WithoutBackward(Layer):
        def forward(self, x, training=False):
            return x

    net = Sequential([Input((3,)), Linear(3), WithoutBackward(), Linear(2)])
    scores = net(np.ones((2, 3), np.float32))
    with pytest.raises(NotImplementedError, match="WithoutBackward has no backward"):
        net.backward(scores)
    with pytest.raises(NotImplementedError, match="WithoutForward has no forward"):
        Sequential([Input((3,)), define("mynet", "WithoutForward", forward=Layer.forward)()])(
            np.ones((2, 3), np.float32)
        )


def test_a_user_defined_layer_works_in_a_net():
    class Doubled(Layer):
        stem = "doubled"

        def forward(self, x, training=False):
            return x + x

    net = Sequential([Input((2,)), Doubled()])
    twin = Layer.from_config(json.loads(json.dumps(net.config())))
    assert twin.forward(np.ones((1, 2), np.float32)).tolist() == [[2, 2]]
    assert twin.output_shape == (2,)


def test_a_net_with_a_user_defined_layer_may_take_one_number_per_image():
    class Powers(Layer):
        def plan(self, input_shape):
            return (*input_shape, 3)

        def forward(self, x, training=False):
            return np.stack([x, x**2, x**3], -1)

        def backward(self, dy):
            return dy.sum(-1)

    x = np.linspace(-1, 1, 8, dtype=np.float32)
    for net in (Sequential([Input(()), Powers(), Linear(2)]), Sequential([Powers(), Linear(2)])):
        net.build(())
        Trainer(net, "sgd", lr=0.1).fit([(x, (x > 0).astype(np.int64))], epochs=1, progress=False)
        assert net(x).shape == (8, 2)


def test_a_plain_subclass_of_an_activation_trains_with_its_own_forward():
    class Noisy(gc.layers.ReLU):
        def forward(self, x, training=False, *, out=None):
            return 2 * super().forward(x, training)

    assert (Noisy.stem, Noisy.op, Noisy.keeps_output) == ("relu", "relu", True)
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32)
    for fuse in (False, True):
        net = gc.Sequential([gc.layers.Input((4, 4, 3)), gc.layers.Conv2D(2, 1), Noisy(), gc.layers.Flatten()], seed=1)
        expected = 2 * np.maximum(net[:2].infer(x), 0)
        net = net.fuse() if fuse else net
        np.testing.assert_array_equal(net.forward(x, True), expected.reshape(2, -1))
        gc.Trainer(net, lr=0.1, fuse=fuse).fit((x, np.array([0, 1])), epochs=1, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"op": "swish"}, "unknown activation 'swish'"),
        ({}, r"class Refused needs the name of its op: class Refused\(Activation, op=...\)"),
    ],
)
def test_a_refused_activation_class_is_no_layer(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        type("Refused", (Activation,), {}, **options)
    assert not [name for name in LAYERS if "Refused" in name]


def test_the_op_of_an_activation_class_ignores_case():
    class Named(Activation, op="ReLU"):
        pass

    assert Named.op == Named.stem == "relu"
    assert Named.keeps_output
