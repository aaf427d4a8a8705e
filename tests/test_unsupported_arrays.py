"""Arrays that ops, data sets, nets and optimizers convert or refuse: other dtypes, byte orders, masks, subclasses."""

import re

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import backends, interop, losses, ops
from gpuconv.backends.cuda import emulator
from gpuconv.data import Dataset, Normalization
from gpuconv.dtypes import as_dtype
from gpuconv.layers import BatchNorm, Dropout, Flatten, Input, Linear, Sequential
from gpuconv.training import SGD
from gpuconv.training.running_metrics import Totals
from tests.ops.example_calls import RESULTS, array_names, calls, each_array, outputs

UNSUPPORTED = {
    "the other byte order": (
        lambda array: array.astype(array.dtype.newbyteorder()),
        "{} must be in this machine's byte order, received {dtype} in the other one",
    ),
    "masked": (np.ma.masked_array, "{} must not be a masked array, as its mask would be lost"),
    "objects": (lambda array: array.astype(object), "{} must hold numbers of at most 64 bits, received dtype object"),
    "text": (lambda array: array.astype("U3"), "{} must hold numbers of at most 64 bits, received dtype <U3"),
    "dates": (lambda array: np.zeros(array.shape, "M8[s]"), "{} must hold numbers of at most 64 bits"),
    "records": (lambda array: np.zeros(array.shape, "f4,i4"), "{} must hold numbers of at most 64 bits"),
    "long doubles": (lambda array: array.astype(np.longdouble), "{} must hold numbers of at most 64 bits"),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_every_op_refuses_an_unsupported_array_and_names_it(kind):
    """The unsupported array takes the place of each of the op's arrays in turn."""
    strange, words = UNSUPPORTED[kind]
    refused = 0
    for op in ops.__all__:
        for call in calls(op, 1):
            call |= outputs(op, call) if set(array_names(op)) & set(RESULTS) else {}
            for label, array, replace in each_array(call, op):
                if kind == "the other byte order" and array.dtype.itemsize == 1:
                    continue
                expected = re.escape(words.format(label, dtype=array.dtype.name))
                with pytest.raises(TypeError, match=f"^{expected}"):
                    getattr(ops, op)(**replace(strange(array)))
                refused += 1
    assert refused > 150


def test_a_device_array_and_a_scalar_in_the_other_byte_order_are_refused():
    x = gc.asarray(np.ones(3, np.float32), "emulated").view(np.dtype(np.float32).newbyteorder())
    with pytest.raises(TypeError, match="x must be in this machine's byte order"):
        ops.relu(x)
    with pytest.raises(TypeError, match="lr must be in this machine's byte order"):
        ops.sgd_step([np.ones(3)], [np.ones(3)], lr=np.ones(1).astype(np.dtype(float).newbyteorder()))


class Subclass(np.ndarray):
    """A subclass of arrays that fails the test if an op computes with it."""

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        raise AssertionError("an op computed with a subclass")


@pytest.mark.parametrize("kind", [Subclass, np.matrix, np.recarray])
def test_subclasses_are_treated_as_plain_arrays(kind):
    x, w = np.random.default_rng(0).standard_normal((2, 3, 3), np.float32)
    for op in (ops.linear, ops.linear_wgrad, ops.add):
        y = op(x.view(kind), w.view(kind))
        assert type(y) is np.ndarray
        np.testing.assert_array_equal(y, op(x, w))
    np.testing.assert_array_equal(ops.bias_grad(x.view(kind)), ops.bias_grad(x))  # a matrix would keep both axes
    out = np.zeros((3, 3), np.float32).view(kind)
    assert ops.linear(x, w, out=out) is out
    np.testing.assert_array_equal(out.view(np.ndarray), x @ w.T)
    param = np.zeros((3, 3), np.float32)
    ops.sgd_step([param.view(kind)], [x.view(kind)], lr=1.0)
    np.testing.assert_array_equal(param, -x)


@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_asarray_converts_or_refuses(device):
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for array in (x.astype(">f4"), x.astype("<f4"), x.view(np.matrix), x.view(Subclass)):
        moved = gc.asarray(array, device)
        assert moved.dtype == np.float32
        assert moved.dtype.isnative
        assert gc.device_of(moved) == device
        np.testing.assert_array_equal(gc.to_numpy(moved), x)
        assert type(gc.to_numpy(array)) is np.ndarray
    assert gc.asarray(x, device, dtype=">f8").dtype.isnative
    np.testing.assert_array_equal(gc.to_numpy(gc.asarray(np.array([1, 2], ">i8"), device, "float32")), [1, 2])
    refusals = [np.array([object(), "a"]), ["a", "b"], np.array([1, 2], "M8[s]"), np.zeros(3, "f4,i4"), [2**70], None]
    for refused in refusals:
        with pytest.raises(TypeError, match="the array must hold numbers of at most 64 bits"):
            gc.asarray(refused, device)
        with pytest.raises(TypeError, match="the array must hold numbers of at most 64 bits"):
            gc.to_numpy(refused)
    for call in (gc.asarray, gc.to_numpy, gc.device_of):
        with pytest.raises(TypeError, match="must not be a masked array"):
            call(np.ma.ones(3))
    for rows in ([np.ones(3), np.ma.ones(3)], [[np.ones(3)], (np.ma.ones(3),)]):
        with pytest.raises(TypeError, match="must not be a masked array"):
            gc.asarray(rows, device)
    with pytest.raises(TypeError, match="dtype must hold numbers"):
        gc.asarray(x, device, dtype=object)
    for make in (backends.empty, backends.zeros):
        assert make((2,), ">f4", device).dtype.isnative
        with pytest.raises(TypeError, match="must hold numbers"):
            make((2,), object, device)


def test_a_dtype_in_the_other_byte_order_means_the_native_one():
    swapped = np.dtype(np.float32).newbyteorder()
    assert as_dtype(swapped).isnative
    net = Sequential([Input((2, 2, 3)), Flatten(), Linear(2)], dtype=swapped)
    assert all(array.dtype.isnative for array in net.state_dict().values())
    ones = np.ones(3, np.float32)
    x, _ = ops.load_batch(IMAGES, LABELS, np.array([0]), mean=ones, std=ones, dtype=swapped)
    assert ops.relu(x).dtype == np.float32


def test_plain_arrays_and_subclasses_are_not_copied():
    x = np.ones(3)
    assert gc.asarray(x) is x
    assert gc.to_numpy(x) is x
    assert gc.asarray(x, "numpy", np.float64) is x
    viewed = np.ones((2, 2)).view(Subclass)
    assert np.shares_memory(gc.asarray(viewed), viewed)


def test_the_emulated_device_makes_no_arrays_of_objects():
    for make in (emulator.empty, emulator.zeros):
        with pytest.raises(TypeError, match="must hold numbers"):
            make(3, object)
    with pytest.raises(TypeError, match="must hold numbers"):
        emulator.asarray(np.array(["a", None]))
    np.testing.assert_array_equal(gc.to_numpy(emulator.asarray(np.array([1.5], ">f8"))), [1.5])


IMAGES = np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3)
LABELS = np.array([0, 1, 1, 0])


def test_a_data_set_converts_or_refuses_its_arrays():
    swapped = Dataset(IMAGES, LABELS.astype(">i8"), "ab")
    np.testing.assert_array_equal(swapped.labels, LABELS)
    assert swapped.labels.dtype.isnative
    viewed = Dataset(IMAGES.view(Subclass), LABELS.view(Subclass), "ab")
    assert type(viewed.images) is type(viewed.labels) is np.ndarray
    for images, labels, words in (
        (np.ma.masked_array(IMAGES), LABELS, "images of 'images' must not be a masked array"),
        (IMAGES, np.ma.masked_array(LABELS), "labels of 'images' must not be a masked array"),
        (IMAGES, LABELS.astype(object), "labels of 'images' must hold numbers"),
        (IMAGES, LABELS.astype("U1"), "labels of 'images' must hold numbers"),
    ):
        with pytest.raises(TypeError, match=words):
            Dataset(images, labels, "ab")


def test_a_normalization_converts_or_refuses_its_arrays():
    np.testing.assert_array_equal(Normalization(np.ones(3, ">f4"), [1, 2, 3]).mean, np.ones(3))
    with pytest.raises(TypeError, match="mean must not be a masked array"):
        Normalization(np.ma.ones(3), np.ones(3))
    with pytest.raises(TypeError, match="std must hold numbers"):
        Normalization(np.ones(3), ["1", "2", "3"])


def small_net():
    return Sequential([Input((2, 2, 3)), BatchNorm(), Flatten(), Linear(2)])


def test_load_state_dict_converts_or_refuses_arrays():
    net, state = small_net(), small_net().state_dict()
    swapped = {key: value.astype(value.dtype.newbyteorder()) for key, value in state.items()}
    net.load_state_dict(swapped)
    assert all(value.dtype.isnative for value in net.state_dict().values())
    before = {key: value.copy() for key, value in net.state_dict().items()}
    *_, last = state
    for strange, words in (
        (np.ma.masked_array(state[last]), "must not be a masked array"),
        (state[last].astype(object), "must hold numbers"),
        (state[last].astype(complex), "must be float32, received complex128"),
    ):
        changed = {key: value + 1 for key, value in state.items()} | {last: strange}
        with pytest.raises(TypeError, match=f"^{re.escape(last)} {words}"):
            net.load_state_dict(changed)
        for key, value in net.state_dict().items():
            np.testing.assert_array_equal(value, before[key])
    with pytest.raises(ValueError, match=r"^fc1.bias holds 1e\+300, which is out of the range of float32"):
        net.load_state_dict(before | {last: np.full(2, 1e300)})


def test_from_torch_converts_or_refuses_arrays():
    net = small_net()
    state = interop.to_torch(net)
    *_, last = state
    swapped = interop.from_torch({key: value.astype(value.dtype.newbyteorder()) for key, value in state.items()}, net)
    assert all(value.dtype.isnative for value in swapped.values())
    with pytest.raises(TypeError, match=f"^{re.escape(last)} must not be a masked array"):
        interop.from_torch(state | {last: np.ma.masked_array(state[last])}, net)


def test_an_optimizer_converts_or_refuses_the_arrays_of_its_state():
    optimizer = SGD(momentum=0.9)
    optimizer.build({"w": np.zeros(3, np.float32)})
    state = optimizer.state_dict()
    changed = {key: value + 1 for key, value in state.items()}
    optimizer.load_state_dict({key: value.astype(value.dtype.newbyteorder()) for key, value in changed.items()})
    assert optimizer.state_dict()["velocity.w"].tolist() == [1, 1, 1]
    assert optimizer.steps == 1
    for key, value in state.items():
        with pytest.raises(TypeError, match=f"^{key} must not be a masked array"):
            optimizer.load_state_dict(changed | {key: np.ma.masked_array(value)})


def test_integers_of_a_loaded_state_must_fit_in_int64():
    net = Sequential([Input((2, 2, 3)), Dropout(0.5)])
    ((key, offset),) = net.state_dict().items()
    net.load_state_dict({key: np.array([5], ">u8")})
    with pytest.raises(ValueError, match=f"{re.escape(key)} holds integers that int64 cannot, received uint64"):
        net.load_state_dict({key: np.array([2**63], np.uint64)})
    assert offset.tolist() == [5]


def test_a_net_converts_or_refuses_its_input_and_weights():
    net, x = small_net(), np.random.default_rng(0).standard_normal((4, 2, 2, 3), np.float32)
    expected = net.infer(x)
    np.testing.assert_array_equal(net.infer(x.view(Subclass)), expected)
    for strange, words in ((np.ma.masked_array(x), "x must not be a masked"), (x.astype(">f4"), "x must be in this")):
        with pytest.raises(TypeError, match=words):
            net.forward(strange)
    net.layers[1].arrays["running_var"].flags.writeable = False
    with pytest.raises(ValueError, match="running_var is written to, and must not be read-only"):
        net.forward(x, training=True)
    np.testing.assert_array_equal(net.infer(x), expected)


def test_metrics_and_losses_refuse_unsupported_labels_and_read_only_totals():
    scores, loss = np.zeros((4, 2), np.float32), np.zeros((), np.float32)
    totals = Totals("numpy")
    for labels in (LABELS.astype(">i8"), np.ma.masked_array(LABELS), LABELS.astype(object)):
        with pytest.raises(TypeError, match=r"^labels must"):
            totals.add(loss, scores, labels)
        with pytest.raises(TypeError, match=r"^labels must"):
            losses.SVMHinge()(scores, labels)
    totals.array.flags.writeable = False
    with pytest.raises(ValueError, match="totals is written to"):
        totals.add(loss, scores, LABELS)
    assert totals.read().samples == 0
