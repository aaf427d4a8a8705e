"""A call of an op recorded during training: compared with the oracle, stored, and replayed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from gpuconv import checkpoint, layers, ops
from gpuconv.checkpoint import Checkpoint, CheckpointError
from gpuconv.layers import AvgPool2D, BatchNorm, Conv2D, Dropout, Flatten, Input, Linear, MaxPool2D, ReLU, Residual
from gpuconv.training import Trainer
from gpuconv.verify.call import Call, recording


def net(precision="float32", device="numpy"):
    block = Residual([Conv2D(4, 3, padding=1, bias=False), BatchNorm(), layers.GELU()])
    rows = [
        Input((8, 8, 2)),
        *[Conv2D(4, 3, padding=1), ReLU(), MaxPool2D(2), block, AvgPool2D(2)],
        *[Conv2D(3, 1), layers.Tanh(), Flatten(), Dropout(0.3), Linear(3)],
    ]
    return layers.Sequential(rows, seed=2, precision=precision, device=device)


def calls_of_an_epoch(device="numpy", precision="float32", **trainer):
    rng = np.random.default_rng(0)
    run = Trainer(net(precision, device), trainer.pop("optimizer", "adam"), lr=0.01, **trainer)
    data = rng.integers(0, 256, (6, 8, 8, 2)).astype(np.uint8), rng.integers(0, 3, 6)
    calls: list[Call] = []
    with recording(calls.append):
        run.fit(data, epochs=1, batch_size=3, progress=False)
    return calls


def assert_within_bound(call):
    worst = call.compare()
    assert worst.share <= 1, (call.op, worst.text)


def with_changed_result(call, name, change):
    """A copy of the call with `change` added to one of its results."""
    return replace(call, results=call.results | {name: call.results[name] + change})


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_every_op_of_training_is_within_its_bound(precision):
    calls = calls_of_an_epoch(precision=precision, fuse=True)
    assert {"conv2d_relu", "conv2d_batch_norm", "conv2d_backward", "adam_step"} <= {call.op for call in calls}
    for call in calls:
        if call.checkable:
            assert_within_bound(call)
    if precision != "float16":  # in float16 the loss scale skips the first steps
        assert all(call.checkable for call in calls)


def test_an_infinite_result_is_right_only_where_the_value_may_be_rounded_to_infinity():
    calls: list[Call] = []
    with recording(calls.append):
        ops.scale(np.array([60000, -60000, 3], np.float16), factor=2)
        ops.scale(np.array([65504], np.float16), factor=0.9999)  # 65504 is the largest float16
    assert calls[0].compare().share <= 1
    for index, wrong in ((2, np.inf), (0, -np.inf)):
        changed = with_changed_result(calls[0], "result", np.float16(0))
        changed.results["result"][index] = wrong
        assert changed.compare().share > 1
    calls[1].results["result"][0] = np.inf
    assert calls[1].compare().share <= 1


def test_accumulated_results_and_the_bias_gradient_are_compared():
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(2, 6, 6, 4)), rng.normal(size=(4, 3, 3, 2))
    y, mask = ops.conv2d_relu(x, w, groups=2, pool=2)
    dy = rng.normal(size=y.shape)
    for accumulate, accumulate_dx in ((False, False), (False, True), (True, False), (True, True)):
        out, dw, db, calls = np.full_like(x, 3.0), np.ones_like(w), np.full(4, 2.0), []
        options = dict(groups=2, mask=mask, pool=2, out=out, dw=dw, db=db, accumulate=accumulate)
        options |= dict(accumulate_dx=accumulate_dx)
        with recording(calls.append):
            ops.conv2d_backward(dy, x, w, **options)
        assert set(calls[0].results) == {"result", "result 1", "db"}
        assert calls[0].compare().share <= 1
        for name in calls[0].results:  # an error in any result is found
            assert with_changed_result(calls[0], name, 1e-9).compare().share > 1, name
    calls = []
    with recording(calls.append):
        ops.conv2d_dgrad(dy, w, input_shape=x.shape, groups=2, mask=mask, pool=2, out=np.ones_like(x), accumulate=True)
    assert calls[0].compare().share <= 1


@pytest.mark.parametrize("op", ["sgd_step", "adam_step", "muon_step"])
def test_a_step_that_the_loss_scale_skips_must_change_nothing(op):
    grad, param = np.ones((3, 4), np.float16), np.ones((3, 4), np.float16)
    states = [[np.zeros((3, 4), np.float32)] for _ in range(2 if op == "adam_step" else 1)]
    options = {"lr": 0.1} | ({"step": 1} if op == "adam_step" else {"momentum": 0.9})
    calls: list[Call] = []
    with recording(calls.append):
        scaling = np.array([1024.0, 0.0, 0.0, 1.0])
        getattr(ops, op)([param], [grad], *states, [param.astype(np.float32)], scaling, **options)
    worst = calls[0].compare()
    assert (worst.error, worst.bound) == (0.0, 0.0)
    for name in calls[0].results:
        assert with_changed_result(calls[0], name, np.float16(1e-3)).compare().wrong, name


@pytest.mark.parametrize("given", [{"precision": "bfloat16"}, {"tf32": True}])
def test_a_skipped_muon_step_in_a_lower_precision_must_change_nothing(given):
    calls: list[Call] = []
    with recording(calls.append):
        arrays = [np.ones((3, 4), np.float32) for _ in range(3)]
        ops.muon_step(*([array] for array in arrays), scaling=np.array([1024.0, 0.0, 0.0, 1.0]), lr=0.1, **given)
    worst = calls[0].compare()
    assert (worst.error, worst.bound) == (0.0, 0.0)


ROWS, CHANNELS = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, np.float32)
VOLUME = np.arange(64, dtype=np.float32).reshape(1, 4, 4, 4)


@pytest.mark.parametrize(
    "run",
    [
        lambda: ops.batch_norm_backward(ROWS, ROWS, CHANNELS, CHANNELS, CHANNELS, beta=CHANNELS),
        lambda: ops.digest(ROWS),
        lambda: ops.add(np.array(1, np.float32), np.array(2, np.float32)),
        lambda: ops.softmax(np.ones((2, 0), np.float32)),
        lambda: ops.sgd_step([], [], lr=0.1),
        lambda: ops.avg_pool2d(VOLUME, np.int64(2), stride=(np.int64(2), 2), count_include_pad=np.bool_(False)),
        lambda: ops.avg_pool2d(VOLUME, [2, 1], padding=[[0, 1], [0, 0]]),
        lambda: ops.dropout(ROWS, p=np.float64(0.5), seed=np.uint64(3), offset=np.int64(2)),
    ],
    ids=[
        *["beta without an activation", "digest without before", "no axes", "no classes", "no parameters"],
        *["NumPy's numbers of a pool", "lists of a pool", "NumPy's numbers of dropout"],
    ],
)
def test_a_call_of_an_unusual_form_can_be_checked_stored_and_replayed(run):
    calls: list[Call] = []
    with recording(calls.append):
        run()
    loaded = Call.read("x.safetensors", calls[0].stored())
    assert loaded.compare() == calls[0].compare()
    assert loaded.compare().share <= 1
    assert loaded.on("numpy").results.keys() == calls[0].results.keys()


def test_a_call_with_tuples_of_arrays_is_checked_like_one_with_lists():
    calls: list[Call] = []
    with recording(calls.append):
        for made in (tuple, list):
            ops.sgd_step(made([np.ones((3, 4), np.float32)]), made([np.ones((3, 4), np.float32)]), lr=0.1)
    assert calls[0].compare() == calls[1].compare()
    assert calls[0].on("numpy").results.keys() == calls[1].results.keys()


def test_muon_of_a_gradient_of_zeros_is_within_its_bound():
    calls: list[Call] = []
    with recording(calls.append):
        zero = np.zeros((3, 4), np.float32)
        ops.muon_step([np.ones((3, 4), np.float32)], [zero], [zero.copy()], lr=0.1, momentum=0.9)
    assert calls[0].compare().share <= 1


def test_ops_that_the_recorder_itself_runs_are_not_recorded():
    calls: list[Call] = []

    def keep_and_run_an_op(call):
        calls.append(call)
        ops.add(np.ones(3), np.ones(3))

    with recording(keep_and_run_an_op):
        ops.scale(np.ones(3), factor=2)
    assert [call.op for call in calls] == ["scale"]


def test_ops_of_another_thread_are_not_recorded():
    calls: list[Call] = []
    with recording(calls.append), ThreadPoolExecutor(1) as thread:
        thread.submit(ops.scale, np.ones(3), factor=2).result()
        ops.add(np.ones(3), np.ones(3))
    assert [call.op for call in calls] == ["add"]


def test_a_stored_call_can_be_replayed(tmp_path):
    for number, call in enumerate(calls_of_an_epoch()):
        path = tmp_path / f"{number}.safetensors"
        checkpoint.save(path, call.stored(step=3))
        loaded = Call.read(path, checkpoint.load(path))
        assert loaded.op == call.op
        assert loaded.compare() == call.compare()
        repeated = loaded.on("numpy")
        for name, value in call.results.items():
            np.testing.assert_array_equal(repeated.results[name], value)


def test_a_call_stored_under_the_former_name_of_its_op_can_be_replayed():
    call = next(call for call in calls_of_an_epoch() if call.op == "advance_step_counter")
    stored = call.stored()
    stored.state["call"] = "advance_clock"
    again = Call.read("x.safetensors", stored)
    assert again.compare() == call.compare()
    assert again.on("numpy").results.keys() == call.results.keys()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lion", "filters -> muon; * -> sgd"])
def test_a_call_stored_without_the_newest_array_of_its_op_can_be_replayed(optimizer):
    for call in calls_of_an_epoch(optimizer=optimizer):
        if call.op.endswith("_step") or call.op == "add_metrics":
            stored = call.stored()
            assert stored.state["arrays"].pop() == {"value": None}
            loaded = Call.read("x.safetensors", stored)
            assert loaded.compare() == call.compare()
            assert loaded.arrays[-1] is None
            assert loaded.on("numpy").results.keys() == call.results.keys()


def test_files_without_a_call_and_nested_recordings_are_refused(tmp_path):
    for state in (
        {},
        {"call": "conv3d"},
        {"call": "conv2d", "arrays": 3},
        {"call": "add", "arrays": [{"tensor": "x"}]},
    ):
        with pytest.raises(CheckpointError, match="holds no call of an op"):
            Call.read("x.safetensors", Checkpoint({}, state))
    with recording(print), pytest.raises(RuntimeError, match="watched already"), recording(print):
        pass


@pytest.mark.kernels
def test_every_op_of_training_on_the_emulated_device_is_within_its_bound():
    calls = calls_of_an_epoch("emulated", optimizer="sgd", momentum=0.9)
    for call in calls:
        assert_within_bound(call)
