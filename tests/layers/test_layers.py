"""Every layer: its gradients against numerical ones, what it keeps, what it refuses."""

import re

import numpy as np
import pytest

from gpuconv import asarray, layers, ops, to_numpy
from gpuconv.layers import (
    ELU,
    GELU,
    LAYERS,
    AdaptiveAvgPool2D,
    AvgPool2D,
    BatchNorm,
    Branches,
    Conv2D,
    ConvActivation,
    ConvNorm,
    ConvReLU,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    GroupNorm,
    HardSwish,
    Input,
    Layer,
    LayerNorm,
    LeakyReLU,
    Linear,
    MaxPool2D,
    NormActivation,
    NormChain,
    ReLU,
    ReLU6,
    Residual,
    ResidualNorm,
    Scale,
    Sequential,
    Sigmoid,
    SiLU,
    Tanh,
    Upsample,
)
from gpuconv.layers.fused import ConvPool
from tests.gradients import assert_gradient

CASES = [
    (Conv2D(3, 3), (5, 7, 2), (3, 5, 3)),
    (Conv2D(4, (3, 2), stride=(2, 3), padding=((1, 0), (2, 1)), dilation=(1, 2), groups=2), (7, 5, 6), (3, 2, 4)),
    (Conv2D(5, 1, stride=3, bias=False, fit="cover"), (5, 4, 1), (2, 2, 5)),
    (Conv2D(2, 3, padding="same"), (1, 1, 3), (1, 1, 2)),
    (ConvReLU([Conv2D(3, 3), ReLU()]), (5, 7, 2), (3, 5, 3)),
    (ConvReLU([Conv2D(4, 3, groups=2, padding=1), ReLU(), MaxPool2D(2)]), (5, 7, 4), (2, 3, 4)),
    (ConvReLU([Conv2D(3, 2, bias=False), MaxPool2D(2), ReLU()]), (6, 7, 2), (2, 3, 3)),
    (ConvActivation([Conv2D(3, 3), Sigmoid()]), (5, 7, 2), (3, 5, 3)),
    (ConvTranspose2D(3, 3), (3, 4, 2), (5, 6, 3)),
    (
        ConvTranspose2D(
            4,
            (3, 2),
            stride=(2, 3),
            padding=((1, 0), (1, 1)),
            output_padding=(1, 2),
            dilation=(1, 2),
            groups=2,
            bias=False,
        ),
        (3, 2, 6),
        (7, 6, 4),
    ),
    (Upsample(2), (3, 2, 3), (6, 4, 3)),
    (Upsample((1, 3)), (2, 3, 1), (2, 9, 1)),
    (Upsample((2, 3), "bilinear"), (3, 2, 2), (6, 6, 2)),
    (Linear(3), (7,), (3,)),
    (Linear(1, bias=False), (1,), (1,)),
    (Flatten(), (3, 2, 5), (30,)),
    (MaxPool2D(2), (5, 7, 3), (2, 3, 3)),
    (MaxPool2D(3, stride=2, padding=1, fit="cover"), (5, 6, 1), (3, 4, 1)),
    (AvgPool2D((2, 3), stride=(1, 2), padding=(0, 1), count_include_pad=False), (3, 5, 2), (2, 3, 2)),
    (AvgPool2D(2), (4, 4, 3), (2, 2, 3)),
    (AdaptiveAvgPool2D((3, 2)), (7, 4, 2), (3, 2, 2)),
    (AdaptiveAvgPool2D(1), (5, 3, 2), (1, 1, 2)),
    (GlobalAvgPool2D(), (3, 5, 2), (1, 1, 2)),
    (ReLU(), (3, 5, 2), (3, 5, 2)),
    (ReLU6(), (3, 5, 2), (3, 5, 2)),
    (LeakyReLU(negative_slope=0.3), (3, 5, 2), (3, 5, 2)),
    (ELU(alpha=0.6), (3, 5, 2), (3, 5, 2)),
    (HardSwish(), (3, 5, 2), (3, 5, 2)),
    (Sigmoid(), (7,), (7,)),
    (Tanh(), (3, 1, 2), (3, 1, 2)),
    (GELU(), (3, 5, 2), (3, 5, 2)),
    (GELU(approximate="tanh"), (3, 5, 2), (3, 5, 2)),
    (SiLU(), (3, 5, 2), (3, 5, 2)),
    (BatchNorm(momentum=0.3, eps=1e-3), (3, 5, 2), (3, 5, 2)),
    (BatchNorm(), (7,), (7,)),
    (GroupNorm(2, eps=1e-3), (3, 2, 6), (3, 2, 6)),
    (GroupNorm(1), (7,), (7,)),
    (LayerNorm(eps=1e-3), (3, 2, 5), (3, 2, 5)),
    (LayerNorm(), (7,), (7,)),
    (ConvPool([Conv2D(3, 3), MaxPool2D(2)]), (6, 7, 2), (2, 2, 3)),
    (ConvNorm([Conv2D(3, 3, bias=False), BatchNorm(momentum=0.3)]), (4, 5, 2), (2, 3, 3)),
    (ConvNorm([Conv2D(3, 3), BatchNorm(), Tanh()]), (4, 5, 2), (2, 3, 3)),
    (NormActivation([BatchNorm(momentum=0.3), ReLU()]), (3, 5, 2), (3, 5, 2)),
    (NormActivation([BatchNorm(), GELU()]), (7,), (7,)),
    (ResidualNorm([Residual([Conv2D(2, 1), BatchNorm()]), Sigmoid()]), (4, 3, 2), (4, 3, 2)),
    (ResidualNorm([Residual([BatchNorm()], [Conv2D(2, 1)])]), (4, 3, 2), (4, 3, 2)),
    (NormChain([NormActivation([BatchNorm(), Tanh()]), Conv2D(3, 2)]), (4, 3, 2), (3, 2, 3)),
    (
        NormChain([ConvNorm([Conv2D(3, 1), BatchNorm()]), ConvNorm([Conv2D(2, 2), BatchNorm(), SiLU()])]),
        (4, 3, 2),
        (3, 2, 2),
    ),
    (Dropout(0.4), (3, 5, 2), (3, 5, 2)),
    (Scale(-0.7), (4,), (4,)),
    (Input((3, 2, 1)), (3, 2, 1), (3, 2, 1)),
    (Residual([Conv2D(3, 3, padding=1), Tanh()]), (3, 5, 3), (3, 5, 3)),
    (
        Residual([ReLU(), Conv2D(4, 3, stride=2, padding=1), BatchNorm()], [Conv2D(4, 1, stride=2), BatchNorm()]),
        (5, 3, 2),
        (3, 2, 4),
    ),
    (Branches([[Conv2D(2, 1)], [MaxPool2D(3, stride=1, padding=1)], []]), (4, 5, 3), (4, 5, 8)),
    (Branches([[Linear(3), Tanh()], [], [Scale(2.0)]], "add"), (3,), (3,)),
    (
        Branches([[], [MaxPool2D(2), Branches([[], [Conv2D(2, 3, padding=1)]]), ConvTranspose2D(2, 2, stride=2)]]),
        (4, 6, 3),
        (4, 6, 5),
    ),
    (Sequential([Conv2D(3, 3), ReLU(), MaxPool2D(2), Flatten(), Linear(4)]), (6, 6, 2), (4,)),
]


def name_of_case(layer):
    """What test names call a layer, such as "GELU(approximate='tanh')" and "ConvNorm of Conv2D+BatchNorm"."""
    kind = type(layer).__name__
    inner = [type(part).__name__ for part in layer.walk() if not part.children() and part is not layer]
    if inner:
        return f"{kind} of {'+'.join(inner)}"
    return repr(layer) if len(repr(layer)) < 40 else kind  # test names stay short


IDS = [f"{name_of_case(layer)} on {'x'.join(map(str, shape))}" for layer, shape, _ in CASES]


def fresh(layer, shape, *, dtype="float64", seed=3):
    twin = Layer.from_config(layer.config())
    twin.build(shape, dtype=dtype, seed=seed)
    return twin


def restore_buffers(layer, before):
    for key, value in layer.buffers().items():
        value[...] = before[key]


def test_every_layer_has_a_case():
    kinds = {type(inner) for layer, shape, _ in CASES for inner in layer.walk()}
    assert kinds == {kind for kind in LAYERS.values() if kind.__module__.startswith("gpuconv.")}


def test_a_config_names_a_layer_that_can_run_and_all_that_it_needs():
    for base in ("Layer", "Activation", "Merging", "Pool2D", "Fused", "FusedConv", "ImageNorm"):
        with pytest.raises(ValueError, match=f"unknown layer '{base}'"):
            Layer.from_config({"layer": base})
    with pytest.raises(ValueError, match="Linear needs the option 'out_features', received none"):
        Layer.from_config({"layer": "Linear"})
    with pytest.raises(ValueError, match=r"Conv2D needs the option 'kernel_size', received \['out_channels'\]"):
        Layer.from_config({"layer": "Conv2D", "out_channels": 4})


@pytest.mark.parametrize(("layer", "shape", "expected"), CASES, ids=IDS)
def test_the_planned_output_shape_is_that_of_forward(layer, shape, expected):
    built = fresh(layer, shape)
    assert built.output_shape == expected
    assert built.input_shape == shape
    assert built.forward(np.ones((2, *shape)), training=True).shape == (2, *expected)


@pytest.mark.usefixtures("oracle_and_numpy")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("layer", "shape", "expected"), CASES, ids=IDS)
def test_gradients_are_the_numerical_ones(layer, shape, expected, training):
    built = fresh(layer, shape)
    rng = np.random.default_rng(5)
    for value in built.params().values():
        value += 0.3 * rng.normal(size=value.shape)
    for key, value in built.buffers().items():
        if "running" in key:
            value += 0.2 + 0.1 * rng.random(size=value.shape)
    before = {key: value.copy() for key, value in built.buffers().items()}
    x, dy = rng.normal(size=(2, *shape)), rng.normal(size=(2, *expected))

    def forward():
        restore_buffers(built, before)
        return built.forward(x, training).copy()  # a copy, for some outputs are views of x

    forward()
    dx = built.backward(dy)
    assert_gradient(dx, forward, x, dy)
    grads = built.grads()
    for key, value in built.params().items():
        assert_gradient(grads[key], forward, value, dy, key)
    assert grads.keys() == built.params().keys()


def test_one_wrong_entry_of_a_gradient_is_found():
    x, dy = np.random.default_rng(0).normal(size=(2, 3, 4, 3, 2))
    gradient = 3 * x**2 * dy
    assert_gradient(gradient, lambda: x**3, x, dy)
    for index in np.ndindex(x.shape):
        wrong = gradient.copy()
        wrong[index] += 0.01
        with pytest.raises(AssertionError):
            assert_gradient(wrong, lambda: x**3, x, dy)


@pytest.mark.parametrize(("layer", "shape", "expected"), CASES, ids=IDS)
def test_backward_adds_to_parameter_gradients_and_frees_what_forward_kept(layer, shape, expected):
    built = fresh(layer, shape)
    x, dy = np.random.default_rng(1).normal(size=(2, *shape)), np.ones((2, *expected))
    before = {key: value.copy() for key, value in built.buffers().items()}
    built.forward(x, True)
    first_dx = built.backward(dy)
    first = {key: value.copy() for key, value in built.grads().items()}
    restore_buffers(built, before)
    built.forward(x, True)
    np.testing.assert_array_equal(built.backward(dy), first_dx)
    for key, value in built.grads().items():
        np.testing.assert_allclose(value, 2 * first[key], rtol=1e-14, atol=1e-14)
    with pytest.raises(RuntimeError, match="needs a forward"):
        built.backward(dy)
    assert all(inner._saved is None for inner in built.walk())
    arrays = built.grads()
    built.zero_grad()
    assert all(built.grads()[key] is array and not array.any() for key, array in arrays.items())


@pytest.mark.parametrize(("layer", "shape", "expected"), CASES, ids=IDS)
def test_parameters_get_the_same_gradients_without_an_input_gradient(layer, shape, expected):
    built, twin = fresh(layer, shape), fresh(layer, shape)
    x, dy = np.random.default_rng(2).normal(size=(2, *shape)), np.ones((2, *expected))
    built.forward(x, True)
    twin.forward(x, True)
    built.backward(dy)
    assert twin.backward(dy, input_grad=False) is None
    for key, value in twin.grads().items():
        np.testing.assert_allclose(value, built.grads()[key], rtol=1e-12, atol=1e-14)  # sums may be in another order
    assert all(inner._saved is None for inner in twin.walk())


@pytest.mark.parametrize(("layer", "shape", "expected"), CASES, ids=IDS)
def test_infer_equals_forward_and_stores_nothing(layer, shape, expected):
    built = fresh(layer, shape)
    x = np.random.default_rng(2).normal(size=(2, *shape))
    np.testing.assert_array_equal(built.infer(x), built.forward(x))
    built.infer(x)
    assert all(inner._saved is None for inner in built.walk())


@pytest.mark.parametrize(("layer", "shape", "expected"), CASES, ids=IDS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_results_and_gradients_have_the_dtype_of_the_net_and_agree_with_float64(layer, shape, expected, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    built, exact = fresh(layer, shape, dtype=dtype), fresh(layer, shape)
    exact.load_state_dict(built.state_dict())
    x = np.random.default_rng(2).normal(size=(4, *shape)).astype(built.dtype)
    y = built.forward(x, True)
    dx = built.backward(np.ones_like(y))
    assert y.dtype == dx.dtype == built.dtype
    assert all(value.dtype == built.params()[key].dtype for key, value in built.grads().items())
    tolerance = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 1e-1}[dtype]
    expected_y = exact.forward(x.astype("float64"), True)
    assert np.abs(y.astype("float64") - expected_y).max() <= tolerance * max(1, np.abs(expected_y).max())


@pytest.mark.parametrize(("layer", "shape", "expected"), CASES, ids=IDS)
def test_an_empty_batch_gives_an_empty_output(layer, shape, expected):
    built = fresh(layer, shape)
    assert built.infer(np.empty((0, *shape))).shape == (0, *expected)


def test_relu_stores_only_its_output_and_conv_its_input():
    relu, conv, pool = fresh(ReLU(), (3, 3, 2)), fresh(Conv2D(2, 3), (3, 3, 2)), fresh(MaxPool2D(3), (3, 3, 2))
    x = np.ones((1, 3, 3, 2))
    assert relu.forward(x) is relu.unstash()[0]
    conv.forward(x)
    assert conv.unstash()[0] is x
    pool.forward(x)
    assert pool.unstash()[0].dtype == np.uint8


def test_dropout_draws_a_new_mask_each_forward_and_reuses_it_backward():
    drop = fresh(Dropout(0.5), (50,))
    x = np.ones((4, 50))
    first, second = drop.forward(x, True), drop.forward(x, True)
    assert (first != second).any()
    np.testing.assert_array_equal(drop.backward(x), second)
    assert drop["offset"].tolist() == [100]
    assert drop["offset"].dtype == np.int64
    np.testing.assert_array_equal(first, ops.dropout(x, p=0.5, seed=3, substream=0, offset=0))
    assert drop.forward(x) is x
    assert drop["offset"].tolist() == [100]


def test_two_masks_share_no_random_word():
    """Four words are drawn at once; the next mask does not use the leftover ones."""
    for size, blocks in {1: 1, 3: 1, 4: 1, 5: 2, 6: 2, 8: 2, 9: 3}.items():
        drop, x = fresh(Dropout(0.5), (size,)), np.ones((1, size))
        drop.forward(x, True)
        second = drop.forward(x, True)
        np.testing.assert_array_equal(second, ops.dropout(x, p=0.5, seed=3, substream=0, offset=blocks))
        assert drop["offset"].tolist() == [2 * blocks]


def test_two_dropouts_of_a_net_have_different_masks():
    net = Sequential([Input((40,)), Dropout(0.5), Dropout(0.5)], seed=7)
    assert net[1].substream != net[2].substream
    assert net[1].seed == net[2].seed == 7


def test_batch_norm_updates_running_statistics_only_in_training():
    norm = fresh(BatchNorm(momentum=0.25), (2,))
    x = np.array([[1.0, -4.0], [3.0, 2.0], [8.0, 5.0]])
    norm.forward(x)
    assert norm["running_mean"].tolist() == [0, 0]
    norm.forward(x, True)
    np.testing.assert_allclose(norm["running_mean"], 0.25 * x.mean(0))
    np.testing.assert_allclose(norm["running_var"], 0.75 + 0.25 * x.var(0, ddof=1))


def test_frozen_variables_are_state_but_not_trained():
    conv = fresh(Conv2D(2, 3, frozen="weight"), (3, 3, 1))
    assert list(conv.params()) == ["bias"]
    assert list(conv.buffers()) == ["weight"]
    assert list(conv.state_dict()) == ["weight", "bias"]
    conv.forward(np.ones((1, 3, 3, 1)))
    conv.backward(np.ones((1, 1, 1, 2)))
    assert list(conv.grads()) == ["bias"]
    assert "weight" not in conv.gradients
    assert conv.parameter_count == 20
    norm = fresh(BatchNorm(frozen=("weight",)), (2,))
    norm.forward(np.array([[1.0, 2.0], [4.0, 3.0]]), True)
    norm.backward(np.ones((2, 2)))
    assert norm.grads()["bias"].tolist() == [2, 2]
    assert list(norm.grads()) == ["bias"]
    with pytest.raises(ValueError, match="did you mean 'weight'"):
        fresh(Conv2D(2, 3, frozen=("wieght",)), (3, 3, 1))


@pytest.mark.parametrize(
    ("make", "shape", "error", "message"),
    [
        (lambda: Conv2D(4, 0), None, ValueError, "kernel_size must be at least 1"),
        (lambda: Conv2D(4, 3, stride=0), None, ValueError, "stride must be at least 1"),
        (lambda: Conv2D(4, 3, dilation=0), None, ValueError, "dilation must be at least 1"),
        (lambda: Conv2D(0, 3), None, ValueError, "out_channels must be at least 1"),
        (lambda: Conv2D(4, 3, groups=0), None, ValueError, "groups must be at least 1"),
        (lambda: Conv2D(4, 3.5), None, TypeError, "kernel_size must be an integer"),
        (lambda: Conv2D(4, 3, padding=-1), None, ValueError, "padding must be at least 0"),
        (lambda: Conv2D(4, 3, groups=3), (5, 5, 4), ValueError, "groups must divide"),
        (lambda: Conv2D(4, 7), (5, 5, 4), ValueError, "spans 7 but the padded input only 5"),
        (lambda: Conv2D(4, 2, stride=2, fit="exact"), (5, 5, 4), ValueError, "sizes that would fit: 4 or 6"),
        (lambda: Conv2D(4, 2, fit="flor"), (5, 5, 4), ValueError, "did you mean 'floor'"),
        (lambda: Conv2D(4, 2, weight_init="he_norml"), (5, 5, 4), ValueError, "did you mean 'he_normal'"),
        (lambda: Conv2D(4, 3), (5,), ValueError, "axes"),
        (lambda: Linear(4), (5, 5, 4), ValueError, "put Flatten"),
        (lambda: Linear(-4), None, ValueError, "out_features must be at least 1"),
        (lambda: MaxPool2D(3), (2, 5, 1), ValueError, "spans 3"),
        (lambda: MaxPool2D(2, padding=2), (5, 5, 1), ValueError, "padding must be smaller"),
        (lambda: GlobalAvgPool2D(), (5,), ValueError, "axes"),
        (lambda: Dropout(1.0), None, ValueError, "p must lie in"),
        (lambda: BatchNorm(momentum=1.5), None, ValueError, "momentum must lie in"),
        (lambda: Scale("x"), None, TypeError, "factor must be a number"),
        (lambda: LeakyReLU(negative_slope=-1), None, ValueError, "negative_slope must lie in"),
        (lambda: ELU(alpha=-1), None, ValueError, "alpha must lie in"),
        (lambda: GELU(approximate="tan"), None, ValueError, "did you mean 'tanh'"),
        (lambda: Input((0, 3, 1)), None, ValueError, "at least 1"),
        (lambda: ReLU(), (3, 0, 2), ValueError, "at least 1"),
        (lambda: ReLU(name="a.b"), None, ValueError, "dot"),
        (lambda: Residual([Conv2D(4, 3)]), (5, 5, 2), ValueError, "cannot be added"),
        (lambda: Residual([]), None, TypeError, "at least one layer"),
    ],
)
def test_bad_options_are_refused_with_a_clear_error(make, shape, error, message):
    with pytest.raises(error, match=message):
        make().build(shape)


def test_flags_must_be_true_or_false():
    net = Sequential([Input((4, 4, 1)), Conv2D(2, 3)])
    state, images = net.state_dict(), np.zeros((1, 4, 4, 1), np.float32)
    for name, call in (
        ("share", lambda wrong: Sequential([ReLU()], share=wrong)),
        ("initialize", lambda wrong: Sequential([ReLU()], initialize=wrong)),
        ("initialize", lambda wrong: Conv2D(2, 3).build((4, 4, 1), initialize=wrong)),
        ("strict", lambda wrong: net.load_state_dict(state, strict=wrong)),
        ("normalize", lambda wrong: net.activations(images, normalize=wrong)),
        ("normalize", lambda wrong: net.predict(images, normalize=wrong)),
        ("softmax", lambda wrong: net.predict(images, softmax=wrong)),
        ("bias", lambda wrong: Conv2D(2, 3, bias=wrong)),
        ("count_include_pad", lambda wrong: layers.AvgPool2D(2, count_include_pad=wrong)),
        ("larger", lambda wrong: Input((4, 4, 1), larger=wrong)),
    ):
        for wrong in ("no", 3, []):
            message = f"{name} must be True or False, received {re.escape(repr(wrong))}"
            with pytest.raises(TypeError, match=message):
                call(wrong)


def test_a_shape_error_names_the_layer_deep_inside():
    row = [Input((8, 8, 3)), Conv2D(4, 3), Residual([Conv2D(4, 3, padding=1), MaxPool2D(9)])]
    with pytest.raises(ValueError, match=r"^residual1\.pool1: the filter spans 9"):
        Sequential(row)


def test_a_runtime_error_has_a_note_that_names_the_layer():
    net = Sequential([Input((4, 4, 1)), Conv2D(2, 3)])
    with pytest.raises(TypeError, match="float32") as caught:
        net.forward(np.ones((1, 4, 4, 1), np.float64))
    assert "conv1.forward" in caught.value.__notes__[0]


def test_forward_without_arrays_is_refused():
    conv = Conv2D(2, 3)
    conv.build((4, 4, 1), initialize=False)
    with pytest.raises(RuntimeError, match="initialize=False"):
        conv.forward(np.ones((1, 4, 4, 1), np.float32))


def test_repr_is_the_constructor_call_without_defaults():
    assert repr(Conv2D(4, 3, padding=1)) == "Conv2D(out_channels=4, kernel_size=3, padding=1)"


def test_moving_a_net_drops_its_stored_activations():
    net = Sequential([Input((3,)), Residual([Linear(3)]), ReLU()])
    for change in ({"dtype": "float64"}, {"precision": "tf32"}, {"device": "emulated"}):
        net.forward(asarray(np.ones((2, 3), net.dtype), net.device), training=True)
        net.to(**change)
        assert all(layer.kept == () for layer in net.walk()), change
        with pytest.raises(RuntimeError, match="needs a forward before it"):
            net.backward(asarray(np.ones((2, 3), net.dtype), net.device))


# --- gradients that count as zero --------------------------------------------------------------


@pytest.mark.parametrize("device", ["numpy", pytest.param("emulated", marks=pytest.mark.kernels)])
def test_after_zero_grad_gradients_read_as_zero_and_backward_assigns_then_adds(device):
    net = Sequential([Input((6, 5, 2)), Conv2D(3, 3), BatchNorm(), Flatten(), Linear(4)], seed=2).to(device)
    x = asarray(np.random.default_rng(0).standard_normal((3, 6, 5, 2)).astype(np.float32), device)
    dy = asarray(np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32), device)

    def backward():
        net.forward(x, training=True)
        net.backward(dy, input_grad=False)
        return {key: np.array(to_numpy(gradient)) for key, gradient in net.grads().items()}

    once, live = backward(), net.grads()
    twice = backward()
    net.zero_grad()
    # Reading all gradients has filled them with zeros, to which the next backward adds.
    assert not any(to_numpy(gradient).any() for gradient in net.grads().values())
    after_all_were_read = backward()
    net.zero_grad()
    norm = next(layer for layer in net.walk() if isinstance(layer, BatchNorm))
    norm.gradient("weight")  # reads one of the norm's two gradients
    after_one_was_read = backward()
    net.zero_grad()
    after_none_was_read = backward()
    for key, gradient in once.items():
        for other in (after_all_were_read, after_one_was_read, after_none_was_read):
            np.testing.assert_array_equal(other[key], gradient, err_msg=key)
        np.testing.assert_allclose(twice[key], 2 * gradient, rtol=1e-5, atol=1e-5, err_msg=key)
        assert net.grads()[key] is live[key]


def test_a_frozen_weight_of_an_fc_layer_leaves_its_bias_to_train():
    built = fresh(Linear(3, frozen=("weight",)), (4,))
    x, dy = np.random.default_rng(2).normal(size=(5, 4)), np.random.default_rng(3).normal(size=(5, 3))
    for times in (1, 2):
        built.forward(x, True)
        np.testing.assert_allclose(built.backward(dy), dy @ built["weight"])
        np.testing.assert_allclose(built.grads()["bias"], times * dy.sum(0))
    assert built.gradients.keys() == {"bias"}


def test_these_layers_are_elementwise():
    named = {name for name, kind in LAYERS.items() if kind.elementwise and kind.__module__.startswith("gpuconv.")}
    assert named == {
        "ReLU",
        "ReLU6",
        "LeakyReLU",
        "Sigmoid",
        "Tanh",
        "ELU",
        "GELU",
        "HardSwish",
        "SiLU",
        "BatchNorm",
        "GroupNorm",
        "LayerNorm",
        "Dropout",
        "Scale",
        "Flatten",
    }


def test_a_convolution_of_one_channel_is_not_depthwise():
    depthwise = {(1, 1): False, (1, 4): False, (4, 4): True, (2, 4): False}
    for (groups, channels), expected in depthwise.items():
        layer = Conv2D(4, 3, groups=groups)
        layer.build((5, 5, channels))
        assert layer.depthwise == expected, (groups, channels)


def test_a_transposed_convolution_gives_the_values_computed_by_hand():
    layer = ConvTranspose2D(1, 2, stride=2)
    layer.build((1, 2, 1), dtype="float64")
    layer["weight"][...] = np.array([[1.0, 2], [3, 4]]).reshape(1, 2, 2, 1)
    layer["bias"][...] = 10
    np.testing.assert_array_equal(
        layer(np.array([1.0, -1]).reshape(1, 1, 2, 1))[0, :, :, 0], [[11, 12, 9, 8], [13, 14, 7, 6]]
    )
    assert layer.mult_adds == 2 * 4
    layer = ConvTranspose2D(8, 3, stride=2, padding=1, output_padding=1)
    assert layer.build((4, 4, 3)) == (8, 8, 8)
    assert layer.algorithms(2, "emulated").keys() == {"fprop", "dgrad", "wgrad"}


def test_upsampling_repeats_pixels_exactly():
    for dtype in ("float32", "float16", "bfloat16", "float64"):
        layer = Upsample((2, 3))
        layer.build((3, 2, 5), dtype=dtype)
        assert layer.parameter_count == 0
        x = np.random.default_rng(0).normal(size=(2, 3, 2, 5)).astype(layer.dtype)
        x[0, 0, 0, 0] = np.nan
        y = layer(x)
        np.testing.assert_array_equal(y.astype(float), x.astype(float).repeat(2, axis=1).repeat(3, axis=2))
        dx = layer.backward(np.ones(y.shape, layer.dtype))
        np.testing.assert_array_equal(dx.astype(float), np.full(x.shape, 6.0))


def test_bilinear_upsampling_gives_the_values_computed_by_hand():
    x = np.array([[0.0, 4.0], [8.0, 0.0]]).reshape(1, 2, 2, 1)
    rows = {2: [0, 1, 3, 4], 3: [0, 0, 4 / 3, 8 / 3, 4, 4]}
    for scale, row in rows.items():
        layer = fresh(Upsample((1, scale), mode="Bilinear"), (2, 2, 1))
        expected = [row, [8 - 2 * value for value in row]]
        np.testing.assert_allclose(layer(x)[0, :, :, 0], expected, rtol=1e-15, atol=1e-15)


@pytest.mark.kernels
def test_bilinear_upsampling_on_the_emulated_device_agrees_with_numpy():
    x = np.random.default_rng(4).normal(size=(2, 3, 4, 3)).astype("float32")
    for scale in ((2, 3), 4):
        results = {}
        for device in ("numpy", "emulated"):
            layer = Upsample(scale, "bilinear")
            layer.build(x.shape[1:], device=device)
            y = layer(asarray(x, device))
            results[device] = [to_numpy(y), to_numpy(layer.backward(y))]
        for one, other in zip(*results.values()):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_an_upsampling_stored_without_a_mode_repeats_pixels():
    config = Upsample(2).config()
    assert config.pop("mode") == "nearest"
    assert Layer.from_config(config).mode == "nearest"


def test_layers_of_images_refuse_impossible_sizes_and_groups():
    for make, words in (
        (
            lambda: ConvTranspose2D(4, 3, stride=2, output_padding=2),
            "output_padding must be less than the stride (2, 2)",
        ),
        (lambda: ConvTranspose2D(4, 3, groups=3), "groups must divide out_channels, received 3 and 4"),
        (lambda: ConvTranspose2D(4, 3, groups=2).build((3, 3, 3)), "groups must divide the channels and the filters"),
        (lambda: ConvTranspose2D(4, 1, padding=2).build((3, 3, 3)), "leaves no output: maps of -1 x -1"),
        (lambda: ConvTranspose2D(4, 0), "kernel_size"),
        (lambda: GroupNorm(0), "groups"),
        (lambda: GroupNorm(4).build((2, 2, 6)), "groups must divide the 6 channels, received 4"),
        (lambda: LayerNorm(eps=-1.0), "eps"),
        (lambda: Upsample(0), "scale must be at least 1"),
        (lambda: Upsample(2, "bilinea"), "did you mean 'bilinear'"),
        (lambda: Upsample(2).build((4,)), "the input must have the axes (N, H, W, C)"),
        (lambda: AdaptiveAvgPool2D(0), "output_size"),
        (
            lambda: AdaptiveAvgPool2D(3).build((8, 6, 1)),
            "3 windows over 8 pixels differ in size or distance; an input of 6 or 9",
        ),
        (
            lambda: AdaptiveAvgPool2D((4, 1)).build((2, 2, 1)),
            "4 windows over 2 pixels differ in size or distance; an input of 4",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            make()
