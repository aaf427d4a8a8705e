"""For every op: outputs that share memory with an input or with another output, and read-only outputs."""

import inspect
import re
from itertools import combinations

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import ops, verify
from gpuconv.activations import ACTIVATIONS
from gpuconv.backends import cpu
from gpuconv.ops import OPS, overlap
from tests.devices import kernel_devices
from tests.ops.example_calls import RESULTS, array_names, calls, copied, each_array, outputs

ARBITRARY_BYTE = 60  # a float of such bytes is a normal number
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
DEVICES = ["numpy", *(pytest.param(name, marks=pytest.mark.kernels) for name in kernel_devices())]


# --- outputs that share memory with an input ---------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", [op for op in ops.__all__ if set(array_names(op)) & set(RESULTS)])
def test_an_output_may_overlap_any_input(op, device):
    """The result is the same as without overlap, whether the output starts before, at or after the input."""
    for call in calls(op, 2 if device == "numpy" else 1):
        call |= outputs(op, call)
        for result in set(RESULTS) & call.keys():
            for name in set(array_names(op)) - set(RESULTS) - set(OPS[op].changes):
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
    """Two arrays on a device, like x and out. The second begins `shift` bytes after the first, which has x's values."""
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
    names = [name for name in array_names(op) if name in (*RESULTS, *changes) and not isinstance(call.get(name), list)]
    return [name for name in names if call.get(name) is not None and call[name].size]


def received_by_the_backend(op, call, monkeypatch):
    """The arguments that the backend receives, by name."""
    family, received = getattr(cpu, OPS[op].family), {}
    bind = inspect.signature(getattr(family, op)).bind
    with monkeypatch.context() as patch:
        patch.setattr(family, op, lambda *arrays, **options: received.update(bind(*arrays, **options).arguments))
        getattr(ops, op)(**call)
    return received


def inputs(op, call):
    """The names of the arrays, except lists, that a call does not write to."""
    given = (name for name in array_names(op) if call.get(name) is not None and not isinstance(call[name], list))
    return [name for name in given if name not in written(op, call)]


# clip_values is left out, because it writes only to a list.
WITH_INPUTS = [op for op in ops.__all__ if op != "clip_values" and any(inputs(op, call) for call in calls(op))]


@pytest.mark.parametrize("op", WITH_INPUTS)
def test_no_backend_receives_an_input_that_overlaps_an_output(op, monkeypatch):
    """Such an input is copied, even if the current backends would accept it. The exception: an op that
    can work in place, and an `out` that is exactly the input's memory."""
    compared = 0
    for call in (*calls(op), *(call | {"training": False} for call in calls(op) if "training" in call)):
        call |= outputs(op, call) if set(array_names(op)) & set(RESULTS) else {}
        for output in written(op, call):
            for name in inputs(op, call):
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
                    compared += 1
    assert compared


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
def test_an_input_that_is_the_output_is_copied_for_an_op_that_does_not_work_in_place(op, monkeypatch):
    arrays, options = OUTPUT_SHAPED_AS_FIRST_INPUT[op]
    call = dict(zip(array_names(op), arrays)) | options
    name = array_names(op)[0]
    received = received_by_the_backend(op, call | {"out": call[name]}, monkeypatch)
    assert received["out"] is call[name]
    assert not np.shares_memory(received[name], call[name])
    np.testing.assert_array_equal(received[name], call[name])


@pytest.mark.parametrize(
    "op", [op for op in ops.__all__ if len(set(array_names(op)) & {*RESULTS, *OPS[op].changes}) > 1]
)
def test_no_two_outputs_may_overlap(op):
    refused = 0
    for call in calls(op):
        call |= outputs(op, call) if set(array_names(op)) & set(RESULTS) else {}
        for a, b in combinations(written(op, call), 2):
            one, other = overlapping(call[a], call[b], -4, "numpy")
            if np.shares_memory(one, other):
                with pytest.raises(ValueError, match=f"({a} and {b}|{b} and {a}) share memory"):
                    getattr(ops, op)(**call | {a: one, b: other})
                refused += 1
        if "averages" in array_names(op):
            call |= {"averages": copied(call["params"]), "ema": 0.5}
        # In lists, an array that occurs twice is refused; views of one array are not looked for.
        lists = [name for name in OPS[op].changes if isinstance(call.get(name), list)]
        for a, b in set(combinations(lists, 2)) - {("params", "masters")}:  # each parameter may be its own master
            with pytest.raises(ValueError, match=rf"{a}\[0\] and {b}\[0\] share memory"):
                getattr(ops, op)(**call | {b: call[a]})
            refused += 1
    assert refused


def test_ops_that_work_in_place_copy_nothing(monkeypatch):
    monkeypatch.delattr(overlap, "copy_of")
    for op in ("relu", "gelu", "silu_backward", "add", "scale", "dropout", "softmax", "svm_hinge", "batch_norm"):
        (call, *_) = calls(op)
        name = array_names(op)[0]
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
            call |= outputs(op, call) if set(array_names(op)) & set(RESULTS) else {}
            if "masters" in array_names(op):
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
