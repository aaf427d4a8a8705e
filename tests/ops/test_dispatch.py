"""Which backend handles a call of an op, and what is refused before the call reaches a backend."""

import re
import types

import numpy as np
import pytest

from gpuconv import devices, ops
from gpuconv.backends import cpu, dispatch
from gpuconv.problems import Pool2dProblem
from tests.python_process import python


class Elsewhere(np.ndarray):
    """An array type that belongs to another device."""


@pytest.fixture
def elsewhere(monkeypatch):
    """Makes arrays on a second device, whose backend answers relu, linear and max_pool2d with its own name and the
    arguments that it received."""
    monkeypatch.setitem(devices.KIND_OF_TYPE, Elsewhere, "elsewhere")
    monkeypatch.setitem(dispatch._PACKAGES, "elsewhere", "elsewhere")
    monkeypatch.setattr(dispatch, "_import_module", lambda name: fake if name == "elsewhere" else cpu)

    def answer(*arrays, **options):
        return "elsewhere", arrays, options

    families = {"activation": "relu", "linear": "linear", "pool": "max_pool2d"}
    fake = types.SimpleNamespace(**{name: types.SimpleNamespace(**{op: answer}) for name, op in families.items()})
    return lambda *shape: np.ones(shape, np.float32).view(Elsewhere)


X, W = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32)


def test_the_arrays_choose_the_backend(elsewhere):
    x = elsewhere(2, 3)
    assert ops.relu(x) == ("elsewhere", (x,), {"out": None})
    assert isinstance(ops.relu(X), np.ndarray)


def test_a_backend_receives_the_problem(elsewhere):
    x = elsewhere(1, 4, 4, 1)
    problem = Pool2dProblem.of(x.shape, 2)
    _, (received_array, received_problem), options = ops.max_pool2d(x, kernel_size=2, padding="valid")
    assert received_array is x
    assert received_problem is problem
    assert options == {"out": None}
    out = elsewhere(1, 2, 2, 1)
    assert ops.max_pool2d(x, kernel_size=2, out=out)[2]["out"] is out


def test_a_backend_is_imported_at_its_first_use():
    code = "import sys, numpy, gpuconv.ops as ops; loaded = lambda: 'gpuconv.backends.cpu' in sys.modules"
    assert python(code + "; print(loaded(), ops.relu(numpy.ones(1)), loaded())") == "False [1.] True"


def test_the_error_for_mixed_devices_names_each_argument(elsewhere):
    words = re.escape("received: x is numpy, w is elsewhere, out is numpy (gpuconv.asarray(x, device=...) moves one)")
    with pytest.raises(TypeError, match=f"all arrays of one call must live on one device, {words}"):
        ops.linear(X, elsewhere(4, 3), out=np.empty((2, 4), np.float32))


def test_the_error_for_mixed_devices_in_lists_and_scalars_names_each_argument(elsewhere):
    with pytest.raises(TypeError, match=re.escape("params[0] is numpy, grads[0] is elsewhere")):
        ops.sgd_step([X], [elsewhere(2, 3)], lr=0.1)
    with pytest.raises(TypeError, match=re.escape("grads[0] is numpy, lr is elsewhere")):
        ops.sgd_step([X], [X], lr=elsewhere(1))
    with pytest.raises(TypeError, match="x is numpy, offset is elsewhere"):
        ops.dropout(X, p=0.5, seed=0, offset=elsewhere(1))
    with pytest.raises(TypeError, match="indices is numpy, mean is elsewhere"):
        ops.load_batch(X, X, X, mean=elsewhere(3), std=X)


@pytest.mark.parametrize("stranger", [[1.0, 2.0], (1.0,), [], 3.0, None, "x", np.float32(3), {"x": 1}], ids=repr)
def test_objects_that_are_not_arrays_are_refused(stranger):
    kind = type(stranger).__name__
    with pytest.raises(TypeError, match=f"x must be an array of NumPy or CuPy, received {kind}; gpuconv.asarray"):
        ops.relu(stranger)
    with pytest.raises(TypeError, match=f"w must be an array of NumPy or CuPy, received {kind}"):
        ops.linear(X, stranger)
    if stranger is not None:
        with pytest.raises(TypeError, match=f"out must be an array of NumPy or CuPy, received {kind}"):
            ops.relu(X, out=stranger)
        with pytest.raises(TypeError, match=f"bias must be an array of NumPy or CuPy, received {kind}"):
            ops.linear(X, W, stranger)


def test_objects_that_are_not_arrays_are_refused_in_lists():
    for params, words in (
        ([X, None], r"params\[1\] must be an array of NumPy or CuPy, received NoneType"),
        ([[X]], r"params\[0\] must be an array of NumPy or CuPy, received list"),
        (None, r"params must be a list of arrays of NumPy or CuPy, received NoneType"),
        ({"w": X}.values(), "params must be a list of arrays of NumPy or CuPy, received dict_values"),
    ):
        with pytest.raises(TypeError, match=words):
            ops.sgd_step(params, [X], lr=0.1)


def test_a_torch_tensor_is_not_moved_silently():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"x must be an array of NumPy or CuPy, received Tensor; gpuconv\.asarray"):
        ops.relu(torch.ones(3))
    with pytest.raises(TypeError, match="w must be an array of NumPy or CuPy, received Tensor"):
        ops.linear(X, torch.ones(4, 3))


def test_optional_arrays_may_be_none():
    np.testing.assert_array_equal(ops.linear(X, W, None), X @ W.T)
    np.testing.assert_array_equal(ops.relu(X, out=None), X)
    ops.sgd_step([X.copy()], [X], None, lr=0.1)


def test_arrays_may_be_keyword_arguments():
    np.testing.assert_array_equal(ops.linear(x=X, w=W), ops.linear(X, W))


def test_wrong_calls_raise_pythons_own_errors():
    for call, words in (
        (lambda: ops.relu(), "missing 1 required positional argument: 'x'"),
        (lambda: ops.relu(X, X), "takes 1 positional argument but 2 were given"),
        (lambda: ops.relu(X, axis=0), "unexpected keyword argument 'axis'"),
        (lambda: ops.max_pool2d(X), "missing 1 required positional argument: 'kernel_size'"),
    ):
        with pytest.raises(TypeError, match=words):
            call()


def test_a_wrong_out_is_refused_before_anything_is_written():
    for out, error in ((np.full((2, 2), 7, np.float32), ValueError), (np.full((2, 3), 7.0), TypeError)):
        with pytest.raises(error, match="out must have"):
            ops.relu(X, out=out)
        assert (out == 7).all()
