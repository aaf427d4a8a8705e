"""The checks of a part: their time, their record, and that a failed check does not affect the others."""

from __future__ import annotations

import json
import zipfile

from ci.gate.results import FAILED, LATE, NOT_REACHED, PASSED, FailedError, NotReachedError, exit_status, table
from ci.gate.run_parts import Check, Part, run_parts
from tests.ci.gate.scripts import shell


def run(gate, minutes: float = 1, **bodies):
    """Run the bodies as the checks of one part."""
    part = Part("part", minutes, tuple(Check(name, 1, body) for name, body in bodies.items()))
    return run_parts([part], gate, 600, lambda _: None)


def test_a_check_that_fails_crashes_or_hangs_does_not_affect_the_others(gate):
    def fails(_, seconds):
        raise FailedError("wrong by 3", error=3)

    def breaks(_, seconds):
        raise KeyError("a fault of the gate")

    def hangs(gate, seconds):
        gate.run("slow.log", shell("echo begun; sleep 60"), min(seconds, 1)).raise_for_status()

    def crashes(gate, seconds):
        gate.run("crash.log", shell("kill -11 $$"), seconds).raise_for_status()

    def missing(_, seconds):
        raise NotReachedError("no ncu")

    def passes(*_):
        return "fine", {"x": 1}

    results = run(gate, fails=fails, breaks=breaks, hangs=hangs, crashes=crashes, missing=missing, passes=passes)
    assert [result.status for result in results] == [FAILED, FAILED, LATE, FAILED, NOT_REACHED, PASSED]
    assert "KeyError" in results[1].reason
    assert results[2].reason.endswith("its last line: begun")
    recorded = json.loads((gate.out / "gate.json").read_text())
    assert (recorded["checks"][0]["details"], recorded["checks"][5]["details"]) == ({"error": 3}, {"x": 1})
    assert exit_status(results, False) == 1
    assert exit_status(results[5:], False) == 0
    text = table(results)
    assert "1 passed, 3 failed, 1 out of time, 1 not reached" in text
    assert "wrong by 3" in text
    with zipfile.ZipFile(gate.out / "logs.zip") as logs:
        assert logs.read("slow.log").endswith(b"begun\n")


def test_the_record_is_complete_after_every_check_and_names_the_running_one(gate):
    def read_record(gate, seconds):
        recorded = json.loads((gate.out / "gate.json").read_text())
        return recorded["running"], {"before": [check["check"] for check in recorded["checks"]]}

    first, second = run(gate, first=read_record, second=read_record)
    assert (first.reason, first.details) == ("part first", {"before": []})
    assert (second.reason, second.details) == ("part second", {"before": ["first"]})
    assert json.loads((gate.out / "gate.json").read_text())["running"] is None


def test_time_left_by_a_check_goes_only_to_later_checks_of_its_part(gate, monkeypatch):
    now, limits = [0.0], []
    monkeypatch.setattr("ci.gate.run_parts.time.monotonic", lambda: now[0])

    def takes(seconds):
        def body(_, limit):
            limits.append(round(limit))
            now[0] += seconds
            return "", {}

        return body

    def part(*seconds):
        checks = tuple(Check(str(length), 1, takes(length)) for length in seconds)
        return Part("p", 1.25, checks)  # 75 s: 60 for the checks, 15 for ending a child that is out of time

    results = run_parts([part(0, 100, 0), part(0, 0)], gate, 600, lambda _: None)
    # Two checks of the first part, whose third check is not reached, and the two checks of the second part.
    assert limits == [20, 30, 30, 60]
    assert results[2].reason == "earlier checks used up the time"
    limits.clear()
    run_parts([part(0)], gate, 45, lambda _: None)
    assert limits == [30], "the time limit of the whole run must count too"


def test_after_ctrl_c_the_stopped_and_unreached_checks_are_recorded(gate):
    def stopped(_, seconds):
        raise KeyboardInterrupt

    results = run(gate, a=stopped, b=lambda *_: ("", {}))
    assert [result.status for result in results] == ["stopped", NOT_REACHED]
    assert exit_status(results, False) == 130
    assert len(json.loads((gate.out / "gate.json").read_text())["checks"]) == 2
