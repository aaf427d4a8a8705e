"""Array arguments of every op: overlapping or read-only outputs, masks, byte order, non-numeric dtypes."""

import inspect
import re
from itertools import combinations

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import backends, interop, losses, ops, verify
from gpuconv.backends import cpu
from gpuconv.backends.cuda import emulator
from gpuconv.data import Dataset, Normalization
from gpuconv.dtypes import as_dtype
from gpuconv.layers import BatchNorm, Dropout, Flatten, Input, Linear, Sequential
from gpuconv.ops import OPS, overlap
from gpuconv.problems import ACTIVATIONS
from gpuconv.training import SGD
from gpuconv.training.running_metrics import Totals
from tests.devices import kernel_devices

ARBITRARY_BYTE = 60  # a float of such bytes is a normal number
RESULTS = ("out", "dw", "db", "dgamma", "dbeta")
IN_PLACE = {  # ops whose `out` may be an input itself, without a copy
    *(name + suffix for name in ACTIVATIONS for suffix in ("", "_backward")),
    "copy",
    "softmax",
    "add",
    "scale",
    "dropout",
    "dropout_backward",
    "batch_norm",
    "batch_norm_backward",
    "group_norm",
    "group_norm_backward",
    "softmax_cross_entropy",
    "svm_hinge",
    "mean_squared_error",
    "huber_loss",
    "binary_cross_entropy",
}
CASES = verify.cases(("odd",))
DEVICES = ["numpy", *(pytest.param(name, marks=pytest.mark.kernels) for name in kernel_devices())]


def slots(op):
    """The op's array arguments."""
    return OPS[op].arrays


def calls(op, count=2):
    """Example calls of an op on host arrays: every argument by name."""
    cases = [case for case in CASES if case.op == op and "few channels" not in case.name][:count]
    for case in cases:
        arrays, options = case.arguments("float32")
        yield dict(zip(slots(op), arrays)) | options


def each_array(call, op):
    """(label, array, function that replaces it) for every array of a call."""
    for name in slots(op):
        value = call.get(name)
        if isinstance(value, list):
            for index, array in enumerate(value):
                yield (
                    f"{name}[{index}]",
                    array,
                    lambda new, name=name, index=index: (
                        call | {name: [*call[name][:index], new, *call[name][index + 1 :]]}
                    ),
                )
        elif value is not None:
            yield name, value, lambda new, name=name: call | {name: new}


def copied(value):
    return [copied(entry) for entry in value] if isinstance(value, list) else getattr(value, "copy", lambda: value)()


def outputs(op, call):
    """Every array that can receive a result of a call, filled with arbitrary values."""
    with np.errstate(all="ignore"):
        returned = getattr(ops, op)(**{name: copied(value) for name, value in call.items()})
    returned = returned if isinstance(returned, tuple) else (returned,)
    like = dict(zip({"conv2d_backward": ("out", "dw")}.get(op, ("out", "dgamma", "dbeta")), returned))
    if OPS[op].family == "loss" and op != "add_metrics":
        like = {"out": returned[1]}
    if "db" in slots(op):
        like["db"] = np.zeros(call["dy"].shape[-1:], np.float32)
    return {name: np.full_like(like[name], 3) for name in slots(op) if name in like and name in RESULTS}


# --- outputs that share memory with an input ---------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", [op for op in ops.__all__ if set(slots(op)) & set(RESULTS)])
def test_an_output_may_overlap_any_input(op, device):
    """The result is the same as without overlap, whether the output starts before, at or after the input."""
    for call in calls(op, 2 if device == "numpy" else 1):
        call |= outputs(op, call)
        for result in set(RESULTS) & call.keys():
            for name in set(slots(op)) - set(RESULTS) - set(OPS[op].changes):
                if call.get(name) is None:
                    continue
                for shift in (-8, 0, 8):
                    x, out = overlapping(call[name], call[result], shift, device)
                    overlapping_call, separate_call = (
                        {key: verify.run.to_device(copied(value), device) for key, value in call.items()}
                        for _ in range(2)
                    )
                    separate_call |= {name: overlap.copy_of(x), result: overlap.copy_of(out)}
                    results = run(op, overlapping_call | {name: x, result: out})
                    assert_same(results, run(op, separate_call), (result, name, shift))


def overlapping(x, out, shift, device):
    """Two arrays of the given shapes on a device, `shift` bytes apart, holding the first one's values."""
    start = 64 + abs(shift)
    memory = gc.asarray(np.full(start + 64 + max(x.nbytes, out.nbytes), ARBITRARY_BYTE, np.uint8), device)
    views = [
        memory[at : at + array.nbytes].view(array.dtype).reshape(array.shape)
        for array, at in ((x, start), (out, start + shift))
    ]
    views[0][...] = gc.asarray(x, device)
    return views


def run(op, call):
    with np.errstate(all="ignore"):
        returned = getattr(ops, op)(**call)
    written = [call[name] for name in (*RESULTS, *OPS[op].changes) if call.get(name) is not None]
    returned = returned if isinstance(returned, tuple) else (returned,)
    return [gc.to_numpy(array).copy() for array in (*returned, *written)]


def assert_same(results, expected, where):
    for a, b in zip(results, expected, strict=True):
        np.testing.assert_allclose(a.astype(float), b.astype(float), 1e-5, 1e-5, err_msg=str(where))


def test_a_pool_may_write_over_its_input_on_a_device_with_kernels():
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 4), np.float32)
    for device in kernel_devices():
        volume = gc.asarray(x.copy(), device)
        y, _ = ops.max_pool2d(volume, kernel_size=3, stride=1, padding=1, out=volume)
        assert y is volume
        np.testing.assert_array_equal(gc.to_numpy(y), ops.max_pool2d(x, kernel_size=3, stride=1, padding=1)[0])


def written(op, call):
    """The names of the arrays, except lists, that a call writes to."""
    changes = OPS[op].changes if call.get("training", True) else ()
    names = [name for name in slots(op) if name in (*RESULTS, *changes) and not isinstance(call.get(name), list)]
    return [name for name in names if call.get(name) is not None and call[name].size]


def received_by_the_backend(op, call, monkeypatch):
    """The arguments that the backend receives, by name."""
    family, received = getattr(cpu, OPS[op].family), {}
    bind = inspect.signature(getattr(family, op)).bind
    with monkeypatch.context() as patch:
        patch.setattr(family, op, lambda *arrays, **options: received.update(bind(*arrays, **options).arguments))
        getattr(ops, op)(**call)
    return received


@pytest.mark.parametrize("op", ops.__all__)
def test_no_backend_receives_an_input_that_overlaps_an_output(op, monkeypatch):
    """Such an input is copied, even if the current backends would accept it."""
    for call in (*calls(op), *(call | {"training": False} for call in calls(op) if "training" in call)):
        call |= outputs(op, call) if set(slots(op)) & set(RESULTS) else {}
        for output in written(op, call):
            for name in set(slots(op)) - set(written(op, call)):
                if call.get(name) is None or isinstance(call[name], list):
                    continue
                for shift in (-4, 0):
                    x, out = overlapping(call[name], call[output], shift, "numpy")
                    expected, overlaps = x.copy(), np.shares_memory(x, out)
                    received = received_by_the_backend(op, call | {name: x, output: out}, monkeypatch)
                    assert received[output] is out
                    np.testing.assert_array_equal(received[name], expected)
                    if overlaps and not (op in IN_PLACE and output == "out" and overlap.same_memory(x, out)):
                        assert not np.shares_memory(received[name], out), (output, name, shift)
                    else:
                        assert received[name] is x


MATRIX, VOLUME, FILTERS = (np.ones(shape, np.float32) for shape in ((3, 3), (1, 4, 4, 2), (2, 1, 1, 2)))
OUTPUT_SHAPED_AS_FIRST_INPUT = {  # calls whose first array has the shape of the result
    "linear": ([MATRIX, MATRIX], {}),
    "linear_dgrad": ([MATRIX, MATRIX], {}),
    "linear_wgrad": ([MATRIX, MATRIX], {}),
    "conv2d": ([VOLUME, FILTERS], {}),
    "conv2d_relu": ([VOLUME, FILTERS], {}),
    "conv2d_dgrad": ([VOLUME, FILTERS], {"input_shape": VOLUME.shape}),
    "conv2d_backward": ([VOLUME, VOLUME, FILTERS], {}),
    "conv2d_batch_norm": ([VOLUME, FILTERS, None, *np.ones((4, 2), np.float32)], {}),
    "max_pool2d": ([VOLUME], {"kernel_size": 1}),
    "avg_pool2d": ([VOLUME], {"kernel_size": 1}),
    "avg_pool2d_backward": ([VOLUME], {"kernel_size": 1, "input_shape": VOLUME.shape}),
    "global_avg_pool2d": ([VOLUME[:, :1, :1]], {}),
    "global_avg_pool2d_backward": ([VOLUME[:, :1, :1]], {"input_shape": (1, 1, 1, 2)}),
}


@pytest.mark.parametrize("op", OUTPUT_SHAPED_AS_FIRST_INPUT)
def test_an_input_that_is_the_output_is_copied_unless_the_op_works_in_place(op, monkeypatch):
    arrays, options = OUTPUT_SHAPED_AS_FIRST_INPUT[op]
    call = dict(zip(slots(op), arrays)) | options
    name = slots(op)[0]
    received = received_by_the_backend(op, call | {"out": call[name]}, monkeypatch)
    assert received["out"] is call[name]
    assert not np.shares_memory(received[name], call[name])
    np.testing.assert_array_equal(received[name], call[name])


@pytest.mark.parametrize("op", [op for op in ops.__all__ if len(set(slots(op)) & {*RESULTS, *OPS[op].changes}) > 1])
def test_no_two_outputs_may_overlap(op):
    for call in calls(op):
        call |= outputs(op, call) if set(slots(op)) & set(RESULTS) else {}
        for a, b in combinations(written(op, call), 2):
            one, other = overlapping(call[a], call[b], -4, "numpy")
            if np.shares_memory(one, other):
                with pytest.raises(ValueError, match=f"({a} and {b}|{b} and {a}) share memory"):
                    getattr(ops, op)(**call | {a: one, b: other})


def test_ops_that_work_in_place_copy_nothing(monkeypatch):
    monkeypatch.delattr(overlap, "copy_of")
    for op in ("relu", "gelu", "silu_backward", "add", "scale", "dropout", "softmax", "svm_hinge", "batch_norm"):
        (call, *_) = calls(op)
        name = slots(op)[0]
        expected = run(op, {key: copied(value) for key, value in call.items()})
        x = call[name].copy()
        in_place = run(op, call | {name: x, "out": x})
        results = len(expected) - len(OPS[op].changes)
        assert_same(in_place[:results], expected[:results], op)
    rows = np.ones((2, 8), np.float32)
    ops.relu(rows[:1], out=rows[1:])  # neighboring rows share no memory


def test_two_outputs_that_share_memory_are_refused():
    x, w, vector = np.ones((4, 3), np.float32), np.ones((3, 3), np.float32), np.ones(3, np.float32)
    with pytest.raises(ValueError, match="out and db share memory, and both are written to"):
        ops.linear_wgrad(x, x, out=w, db=w[0])
    statistics = [vector, vector, vector, vector]
    with pytest.raises(ValueError, match="running_mean and running_var share memory"):
        ops.batch_norm(x, *statistics, training=True)
    ops.batch_norm(x, *statistics, training=False)
    params, velocities, grads = ([np.ones(3), np.ones(3)] for _ in range(3))
    ops.sgd_step(params, grads, velocities, masters=params, lr=0.0)  # each parameter may be its own master
    with pytest.raises(ValueError, match=r"params\[1\] and masters\[0\] share memory"):
        ops.sgd_step(params, grads, velocities, masters=params[::-1], lr=0.1)
    with pytest.raises(ValueError, match=r"params\[0\] and params\[1\] share memory, and both are written to"):
        ops.sgd_step(params[:1] * 2, grads, lr=1.0)
    with pytest.raises(ValueError, match=r"params\[0\] and velocities\[1\] share memory"):
        ops.sgd_step(params, grads, [velocities[0], params[0]], lr=1.0, momentum=0.9)
    np.testing.assert_array_equal(params, np.ones((2, 3)))


@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_outputs_must_be_writable(device):
    """So must arrays that an op changes in place. Read-only ones are refused by name, before anything changes."""
    refused = 0
    for op in ops.__all__:
        for call in calls(op, 1):
            call |= outputs(op, call) if set(slots(op)) & set(RESULTS) else {}
            if "masters" in slots(op):
                call["masters"] = copied(call["params"])
            call = {name: verify.run.to_device(value, device) for name, value in call.items()}
            before = {label: gc.to_numpy(array).copy() for label, array, _ in each_array(call, op)}
            for label, array, replace in each_array(call, op):
                if label.partition("[")[0] not in (*RESULTS, *OPS[op].changes):
                    continue
                frozen = array[...]
                frozen.flags.writeable = False
                with pytest.raises(ValueError, match=re.escape(f"{label} is written to, and must not be read-only")):
                    getattr(ops, op)(**replace(frozen))
                refused += 1
            for label, array, _ in each_array(call, op):
                np.testing.assert_array_equal(gc.to_numpy(array), before[label], err_msg=f"{op} {label}")
    assert refused > 80


def test_read_only_inputs_and_unchanged_statistics_are_accepted():
    x = np.broadcast_to(np.float32(2), (3, 4))
    np.testing.assert_array_equal(ops.relu(x), x)
    ops.batch_norm(x, *[np.broadcast_to(np.float32(1), (4,))] * 4, training=False)


# --- refused arrays, and subclasses treated as plain arrays ------------------------------------

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
def test_every_op_refuses_an_unsupported_array_by_name(kind):
    """The unsupported array takes the place of each of the op's arrays in turn."""
    strange, words = UNSUPPORTED[kind]
    refused = 0
    for op in ops.__all__:
        for call in calls(op, 1):
            call |= outputs(op, call) if set(slots(op)) & set(RESULTS) else {}
            for label, array, replace in each_array(call, op):
                if kind == "the other byte order" and array.dtype.itemsize == 1:
                    continue
                expected = re.escape(words.format(label, dtype=array.dtype.name))
                with pytest.raises(TypeError, match=f"^{expected}"):
                    getattr(ops, op)(**replace(strange(array)))
                refused += 1
    assert refused > 150


def test_a_device_array_in_the_other_byte_order_is_refused():
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
    np.testing.assert_array_equal(ops.bias_grad(x.view(kind)), ops.bias_grad(x))  # a matrix keeps its axes
    out = np.zeros((3, 3), np.float32).view(kind)
    assert ops.linear(x, w, out=out) is out
    np.testing.assert_array_equal(out.view(np.ndarray), x @ w.T)
    param = np.zeros((3, 3), np.float32)
    ops.sgd_step([param.view(kind)], [x.view(kind)], lr=1.0)
    np.testing.assert_array_equal(param, -x)


# --- asarray and similar functions -------------------------------------------------------------


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


# --- numbers ------------------------------------------------------------------------------------

INTEGER_TYPES = {"int", "int | None", "Size", "Size | None", "Padding", "Sequence[int]"}
INTEGER_SCALARS = {"step", "offset", "start"}  # each a number, or an array of one element


def integer_options(op):
    parameters = inspect.signature(getattr(ops, op)).parameters.values()
    return [
        parameter.name
        for parameter in parameters
        if parameter.annotation in INTEGER_TYPES or parameter.name in INTEGER_SCALARS
    ]


@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_every_integer_option_refuses_floats_text_and_numbers_beyond_64_bits(device):
    tried = set()
    for op in ops.__all__:
        for name in integer_options(op):
            (call, *_) = calls(op, 1)
            arguments = {key: verify.run.to_device(copied(value), device) for key, value in call.items()}
            for value, error in (
                (2**64, ValueError),
                (10**20, ValueError),
                (10**5000, ValueError),
                (-(2**63) - 1, ValueError),
                (True, TypeError),
                (2.5, TypeError),
                (np.float64(2), TypeError),
                ("2", (TypeError, ValueError)),
            ):
                argument = (2, value, 3, 3) if name == "input_shape" else value
                with pytest.raises(error, match=name):
                    getattr(ops, op)(**arguments | {name: argument})
                tried.add((op, name))
    assert len(tried) > 60


# --- other functions that take arrays -----------------------------------------------------------

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


@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_bad_indices_are_refused_where_the_host_can_read_them(device):
    images, labels, ones = (gc.asarray(array, device) for array in (IMAGES, LABELS, np.ones(3, np.float32)))
    for indices, more, words in (
        ([0, 4], {}, "indices must lie in [0, 4), received 4 at index 1"),
        ([-1], {}, "indices must lie in [0, 4), received -1 at index 0"),
        ([0, 1], {"start": 1, "count": 2}, "a batch of 2 from 1 on does not fit"),
        ([0, 1], {"start": 2**62, "count": 2**62}, "does not fit"),
        ([0, 1], {"start": gc.asarray(np.array([1]), device), "count": 2}, "a batch of 2 from 1 on does not fit"),
        ([0, 1], {"start": gc.asarray(np.array([-1]), device), "count": 1}, "a batch of 1 from -1 on does not fit"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            ops.load_batch(images, labels, gc.asarray(np.array(indices), device), mean=ones, std=ones, **more)


def test_strides_too_large_for_the_kernels_are_refused():
    x, w = (gc.asarray(np.ones((1, side, side, 1), np.float32), "emulated") for side in (4, 2))
    with pytest.raises(ValueError, match="the product of both strides is at most"):
        ops.conv2d(x, w, stride=2**31 - 1)
