"""The parts of the gate, their order and minutes, and the command line that chooses them."""

from __future__ import annotations

import pytest

from ci.gate import __main__ as command_line
from ci.gate import parts
from ci.gate.experiments import QUESTIONS


def test_the_parts_take_28_minutes_and_no_call_exceeds_its_limit():
    names = [part.name for part in parts.PARTS]
    assert names == ["start", "right", "why", "kernels", "questions", "steps", "suite"]
    assert sum(part.minutes for part in parts.PARTS) == parts.AVAILABLE - parts.RESERVE == 28
    assert all(part.minutes <= parts.LONGEST_CALL for part in (*parts.PARTS, *parts.EXTRA))
    assert [name for call in parts.CALLS for name in call] == names
    for call in parts.CALLS:
        assert sum(part.minutes for part in command_line.chosen_parts(call)) <= parts.LONGEST_CALL
    checks = [check.name for part in parts.PARTS for check in part.checks]
    assert len(set(checks)) == len(checks)
    assert [check.name for part in parts.PARTS if part.name == "questions" for check in part.checks] == [*QUESTIONS]


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ([], [part.name for part in parts.PARTS]),
        (["suite", "why"], ["start", "why", "suite"]),
        (["tests"], ["start", "tests"]),
    ],
    ids=["all", "two", "extra"],
)
def test_parts_run_in_order_after_the_check_of_the_environment(named, expected):
    chosen = command_line.chosen_parts(named)
    assert [part.name for part in chosen] == expected
    assert chosen[0].checks[0].name == "environment"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--minutes", "0"], "above 0, received 0"),
        (["--commit", "feature/x"], "--commit must not have a slash, received 'feature/x'"),
        (["--wheels", "nowhere"], "nowhere is not a folder"),
        (["--cubins", "nowhere"], "nowhere is not a file"),
        (["stepps"], "unknown part 'stepps'; did you mean 'steps'?"),
        (None, "--out is needed"),
    ],
    ids=["minutes", "commit", "wheels", "cubins", "part", "out"],
)
def test_bad_usage_ends_with_a_message(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("OUT", raising=False)
    with pytest.raises(SystemExit) as ended:
        command_line.main([] if words is None else [*words, "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
