"""The commands of the gate end at their time limits, with all that they started."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest

from ci.gate import commands
from tests.ci.gate.scripts import shell


def test_a_command_runs_in_the_copy_and_its_output_is_added_to_the_named_log(gate):
    done = gate.run("a.log", shell("echo one; pwd; exit 4"), 10)
    assert (done.code, done.late, done.last) == (4, False, str(gate.home))
    assert "one" in (gate.logs / "a.log").read_text()
    assert gate.run("a.log", shell("echo two"), 10).text == "two\n"
    assert "one" in (gate.logs / "a.log").read_text()  # a later command appends to the log
    assert gate.run("b.log", ["no-such-command"], 10).code == 127


def test_a_command_that_dies_early_does_not_count_as_out_of_time(gate):
    done = gate.run("a.log", shell("kill -9 $$"), 30)
    assert done.code
    assert not done.late


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", ["sleep 60", "trap '' INT; while :; do sleep 1; done"], ids=["ends", "ignores the interrupt"]
)
def test_a_command_out_of_time_is_stopped(gate, script):
    begin = time.monotonic()
    assert gate.run("a.log", shell(script), 1).late
    assert time.monotonic() - begin < 10


def test_processes_that_a_command_left_running_are_ended(gate):
    done = gate.run("a.log", shell("sleep 60 & echo $!"), 10)
    stat = Path("/proc") / done.last / "stat"
    for _ in range(50):
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    raise AssertionError("the process is still running")


def test_a_command_that_cannot_be_killed_is_abandoned(gate, monkeypatch):
    """A process that is blocked in a driver cannot be killed."""
    monkeypatch.setattr(commands, "GRACE", 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(commands, "_signal", lambda process, how: None)
        done = gate.run("a.log", ["sleep", "5"], 1)
    assert done.late
    assert done.seconds < 3
    (process,) = gate._running
    process.kill()
    process.wait()


@pytest.mark.slow
def test_parallel_commands_stop_at_the_time_limit_and_later_ones_are_not_started(gate):
    ended = gate.run_in_parallel({f"{name}.log": shell("sleep 60") for name in "abc"}, 2, 2)
    assert [(name, done.late) for name, done in ended.items()] == [("a.log", True), ("b.log", True)]
    ended = gate.run_in_parallel({f"{name}.log": shell(f"echo {name}") for name in "abc"}, 30, 2)
    assert [done.text for done in ended.values()] == ["a\n", "b\n", "c\n"]


def test_ctrl_c_ends_parallel_commands(gate):
    begin = time.monotonic()
    main = threading.main_thread().ident
    threading.Timer(1.0, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        gate.run_in_parallel({f"{name}.log": shell("sleep 60") for name in "abc"}, 60, 2)
    assert time.monotonic() - begin < 20
    assert not (gate.logs / "c.log").exists()
