"""The Python time of a call, on the stand-in for CuPy: the timed ops, their launches and arrays, and the budget."""

import json
import sys
from pathlib import Path

import pytest

import gpuconv
from bench import host_time
from bench.cli import main
from bench.host_calls import calls
from gpuconv.ops.registry import OPS


@pytest.fixture(scope="module")
def timings():
    return {timing.op: timing for timing in host_time.measure(rounds=2, seconds=1e-4)}


def test_launches_and_arrays_are_counted(timings):
    counted = {name: (timing.launches, timing.arrays) for name, timing in timings.items()}
    assert counted["relu"] == counted["conv2d"] == (1, 0)
    assert counted["conv2d_backward"] == (2, 0)
    assert counted["sgd_step"] == (1, 186)
    assert all(0 < timing.least <= timing.median for timing in timings.values())


def test_every_op_is_timed(timings):
    assert {name.partition(",")[0] for name in timings} == set(OPS)


def test_the_budget_follows_from_launches_and_arrays():
    assert host_time.Timing("a", 1, 0, 1.0, 1.0).budget == 15
    assert host_time.Timing("a", 3, 10, 1.0, 1.0).budget == 15 + 2 * 5 + 3


def test_an_op_over_its_budget_is_marked():
    rows = list(
        host_time.table([host_time.Timing("slow", 1, 0, 15.1, 20.0), host_time.Timing("quick", 1, 0, 15.0, 20.0)])
    )
    assert rows[1].endswith("15.0  over")
    assert rows[2].endswith("15.0")


def test_the_command_writes_a_record(tmp_path, capsys, monkeypatch, timings):
    monkeypatch.setattr(host_time, "measure", lambda: iter(timings.values()))
    assert main(["host", "--out", str(tmp_path / "host.json")]) == 0
    assert capsys.readouterr().out.count("\n") == len(timings) + 1
    record = json.loads((tmp_path / "host.json").read_text())
    assert [row["op"] for row in record["calls"]] == list(timings)
    assert record["calls"][0]["budget"] == 15


INSTRUCTIONS = 165  # allowed Python instructions per microsecond of the budget; a 3 GHz core executes about 150


def instructions(call):
    """The number of Python bytecode instructions that a call executes in gpuconv; it does not depend on the load."""
    ours = str(Path(gpuconv.__file__).parent)
    return (monitored if sys.version_info >= (3, 12) else traced)(call, lambda code: code.co_filename.startswith(ours))


def traced(call, counts):
    """The number of instructions of a call in the code for which `counts` is true."""
    count = 0

    def enter(frame, event, _):
        if not counts(frame.f_code):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return count_instruction

    def count_instruction(frame, event, _):
        nonlocal count
        count += event == "opcode"
        return count_instruction

    before = sys.gettrace()
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def monitored(call, counts):
    """The same count as `traced`, for Python 3.12 and later. There, a trace function that sets f_trace_opcodes when a
    frame is called may get no opcode events of that frame."""
    count, monitoring = 0, sys.monitoring
    tool, event = monitoring.PROFILER_ID, monitoring.events.INSTRUCTION

    def count_instruction(code, _):
        nonlocal count
        if not counts(code):
            return monitoring.DISABLE
        count += 1

    monitoring.use_tool_id(tool, "instructions")
    monitoring.register_callback(tool, event, count_instruction)
    monitoring.set_events(tool, event)
    try:
        call()
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)
    return count


def test_no_op_takes_more_instructions_than_its_budget_allows():
    over = {}
    with host_time.gpu() as launched:
        for name, (call, arrays) in calls().items():
            for _ in range(3):
                launched.clear()
                call()
            budget = host_time.Timing(name, len(launched), arrays, 0.0, 0.0).budget
            count = instructions(call)
            assert count > 300  # far more than 0: the count works
            if count > INSTRUCTIONS * budget:
                over[name] = f"{count} instructions, {budget:.1f} us"
    assert not over
