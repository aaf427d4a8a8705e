"""Every layer: its shapes, its dtypes, its gradients against numerical ones, and what it frees after backward."""

import numpy as np
import pytest

from gpuconv.layers import LAYERS
from tests.gradients import assert_gradient
from tests.layers.layer_cases import CASES, IDS, fresh


def restore_buffers(layer, before):
    for key, value in layer.buffers().items():
        value[...] = before[key]


def test_every_layer_has_a_case():
    kinds = {type(inner) for layer, shape, _ in CASES for inner in layer.walk()}
    assert kinds == {kind for kind in LAYERS.values() if kind.__module__.startswith("gpuconv.")}


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
def test_outputs_agree_with_float64_and_gradients_have_the_dtype_of_their_array(layer, shape, expected, dtype):
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
