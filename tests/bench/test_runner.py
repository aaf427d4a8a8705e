"""The benchmark's runner.

A side is gpuconv or a peer, such as PyTorch. A side with wrong results is not timed. When a side fails, the other sides
are still timed.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import sys
import types

import numpy as np
import pytest

from bench import runner, suite
from bench.record import Record, fastest_side
from bench.runner import sides_of
from gpuconv import ops
from gpuconv.backends import DeviceError
from gpuconv.profiling.timer import CpuTimer
from tests.bench import fake_sides
from tests.bench.fake_sides import PEER, by_name, entry, record, side, timed, timed_on_cpu

pytestmark = pytest.mark.slow  # sides are really timed


def test_every_side_is_timed_and_the_fastest_peer_counts(tmp_path):
    (row,) = timed(record(tmp_path), side(), side(PEER, "slow", 1e-3), side(PEER, "quick", 2e-4))
    assert fastest_side(row, PEER)["name"] == "quick"
    ours = fastest_side(row, "ours")
    assert 1e-4 <= ours["least"] <= ours["median"]
    assert len(ours["samples"]["wall"]) >= 4 * 3  # at least three calls in each of four rounds
    assert len(ours["timings"]) == 2
    assert ours["error"] == 0
    assert row["floor"] == pytest.approx(1e-5)
    assert row["noise"] == pytest.approx(abs(ours["timings"][0] / ours["timings"][1] - 1))


def test_the_load_of_a_record_is_the_mean_over_its_entries(tmp_path, monkeypatch):
    """An entry that is timed again counts once, with its new load."""
    into = record(tmp_path)
    for load, shape, mean in ((4.0, 8, 4.0), (1.0, 9, 2.5), (2.0, 8, 1.5)):
        monkeypatch.setattr(runner.os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        timed(into, side(), entries=[entry(shape)])
        assert into.data["load"] == mean


@pytest.mark.parametrize("value", [2.01, np.nan])
def test_a_side_with_wrong_results_is_refused_before_timing(tmp_path, value):
    (row,) = timed(record(tmp_path), side(value=value), side(PEER, "right"), side(PEER, "wrong", value=value))
    for name in ("gpuconv", "wrong"):
        assert by_name(row)[name]["status"] == "refused"
        assert "y is off by" in by_name(row)[name]["reason"]
        assert "samples" not in by_name(row)[name]
    assert by_name(row)["right"]["status"] == "timed"
    assert fastest_side(row, "ours") is None


@pytest.mark.parametrize(
    "op", [*suite.DIRECTIONS, "backward dw", "backward db", "max_pool2d", "bias_grad", "batch_norm_backward"]
)
def test_a_fault_in_one_corner_of_our_result_is_found(monkeypatch, op):
    """The planted fault is only in the last element: a partial comparison would miss it."""
    op, _, result = op.partition(" ")
    name = {
        "fprop": "conv2d",
        "fprop_relu": "conv2d",
        "fprop_relu_pool": "conv2d_relu",
        "dgrad": "conv2d_dgrad",
        "wgrad": "conv2d_wgrad",
        "backward": "conv2d_backward",
    }.get(op, op)
    correct = getattr(ops, name)

    def wrong(*arrays, **options):
        results = correct(*arrays, **options)
        outputs = results if isinstance(results, tuple) else (results,)
        planted_in = {"dw": outputs[-1], "db": options.get("db")}.get(result, outputs[0])
        planted_in[(-1,) * planted_in.ndim] += 1 + 2 * abs(planted_in).max()
        return results

    entry = tiny(op)
    row = timed_on_cpu(entry)
    assert by_name(row)["gpuconv"]["error"] < 1e-5
    sides, check = sides_of(entry, "numpy", compiled=False)
    prepared = sides[0].prepare()
    monkeypatch.setattr(ops, name, wrong)
    results = prepared.results()
    monkeypatch.undo()
    with pytest.raises(ArithmeticError, match="off by"):
        runner.check(check(results), "float32", bounded=True)


def tiny(op):
    """A small problem like those of the suite."""
    if op in suite.DIRECTIONS:
        return suite.Entry("convolution", op, "tiny", "float32", suite.conv(5, 6, 5, 7), fake_sides.entry().work)
    return suite.Entry("memory", op, "tiny", "float32", (5, 6, 4, 7), fake_sides.entry().work)


@pytest.mark.parametrize("op", [*suite.DIRECTIONS, *suite.MEMORY])
def test_pytorchs_results_are_within_the_bound(op):
    pytest.importorskip("torch")
    row = timed_on_cpu(tiny(op))
    for name, timing in by_name(row).items():
        expected = "timed"
        if name == "compile":
            expected = "left out"
        elif name == "gpuconv" and op == "bias_relu":
            expected = "absent"  # in gpuconv, the convolution applies bias and ReLU
        assert timing["status"] == expected, timing


def test_a_failing_side_is_recorded_and_the_run_continues(tmp_path):
    secret = RuntimeError("kernel fell over in /home/someone/secret/place.cu\nand more")
    (first, second) = timed(
        record(tmp_path),
        side(),
        side(PEER, "broken", fail=secret),
        side(PEER, "large", fail=MemoryError("out")),
        side(PEER, "missing", fail=ImportError("no torch")),
        entries=[entry(8), entry(9)],
    )
    sides = by_name(first)
    assert {name: side["status"] for name, side in sides.items()} == {
        "gpuconv": "timed",
        "broken": "failed",
        "large": "out of memory",
        "missing": "absent",
    }
    assert sides["broken"]["reason"] == "RuntimeError: kernel fell over in …/place.cu"
    assert fastest_side(first, PEER) is None
    assert by_name(second)["gpuconv"]["status"] == "timed"


def test_a_side_that_fails_during_timing_is_recorded(tmp_path):
    calls = []

    def prepare():
        def call(_):
            calls.append(1)
            if len(calls) > 5:
                raise ValueError("fails at the sixth call")

        return fake_sides.Prepared(call, lambda: [np.full(3, 2.0)])

    (row,) = timed(record(tmp_path), side(), fake_sides.Side(PEER, "failing", prepare))
    assert by_name(row)["failing"]["status"] == "failed"
    assert "samples" not in by_name(row)["failing"]
    assert by_name(row)["gpuconv"]["status"] == "timed"


def test_without_pytorch_gpuconv_is_timed_and_the_peers_are_recorded_as_absent(tmp_path, monkeypatch):
    original = builtins.__import__

    def without_torch(name, *arguments, **options):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    (row,) = timed(record(tmp_path), entries=[tiny("fprop")], make_sides=sides_of)
    assert by_name(row)["gpuconv"]["status"] == "timed"
    for name in ("eager", "channels_last", "compile"):
        assert by_name(row)[name] == {
            "role": "peer",
            "name": name,
            "status": "absent",
            "reason": "No module named 'torch'",
        }


def test_a_side_that_crashes_the_gpu_ends_the_run_and_is_recorded(tmp_path, monkeypatch):
    """After an illegal address every later call in the process fails, so no later entry is timed."""
    calls = []

    class Device(contextlib.nullcontext):
        def __init__(self, index):
            super().__init__()

        def synchronize(self):
            calls.append(1)
            if len(calls) > 1:
                raise RuntimeError("cudaErrorIllegalAddress")

    pool = types.SimpleNamespace(free_all_blocks=lambda: None)
    cupy = types.SimpleNamespace(cuda=types.SimpleNamespace(Device=Device), get_default_memory_pool=lambda: pool)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(
        runner.pytorch, "load", lambda: types.SimpleNamespace(cuda=types.SimpleNamespace(empty_cache=lambda: None))
    )
    into, entries = record(tmp_path), [entry(8), entry(9), entry(10)]
    broken = side(PEER, "broken", fail=RuntimeError("cudaErrorIllegalAddress"))
    rows = runner.run(
        entries, into, "cuda:0", CpuTimer(), fake_sides.CEILINGS, make_sides=lambda *_: ([broken], fake_sides.compare)
    )
    with pytest.raises(DeviceError, match=f"cuda:0 no longer answers after {entries[1].key} .*--missing"):
        list(rows)
    data = Record.load(into.path).data
    assert [e["key"] for e in data["entries"]] == [e.key for e in entries[:2]]
    assert data["not reached"] == [entries[2].key]


def test_a_stopped_run_leaves_a_valid_file(tmp_path):
    into = record(tmp_path)
    entries = [entry(8), entry(9), entry(10)]

    def make_sides(entry, *_):
        if entry is entries[1]:
            raise KeyboardInterrupt
        return [side()], fake_sides.compare

    with pytest.raises(KeyboardInterrupt):
        timed(into, entries=entries, make_sides=make_sides)
    data = Record.load(into.path).data
    assert [e["shape"] for e in data["entries"]] == ["8"]
    assert data["not reached"] == [entries[1].key, entries[2].key]
    assert [path.name for path in into.path.parent.iterdir()] == [into.path.name]


def test_no_entry_is_started_after_the_time_limit(tmp_path):
    into = record(tmp_path)
    entries = [entry(size) for size in range(8, 12)]
    done = timed(into, side(seconds=2e-3), entries=entries, minutes=0.04 / 60)
    assert 0 < len(done) < 4
    assert json.loads(into.path.read_text())["not reached"] == [e.key for e in entries[len(done) :]]
    assert timed(into, side(), entries=entries, minutes=-1.0) == []
    assert json.loads(into.path.read_text())["not reached"] == [e.key for e in entries]
