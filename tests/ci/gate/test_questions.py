"""Verdicts of experiments. If an experiment hangs, crashes or answers in another form, its question has no answer."""

from __future__ import annotations

import re

import pytest

from ci.gate import questions
from ci.gate.commands import Done
from ci.gate.experiments import QUESTIONS, training
from ci.gate.results import FailedError, NotReachedError, check_result
from ci.gate.tree import ROOT
from ci.gate.verdict import Verdict, read_verdict, verdict_line

QUESTION = "Is it so?"


def answer(answer="yes", seen="so it is", question=QUESTION):
    return verdict_line(Verdict(question, answer, seen))


@pytest.mark.parametrize(
    ("done", "expected", "message"),
    [
        (Done(0, f"work\n{answer()}\n", 1.0), "yes", "so it is"),
        (Done(0, f"{answer('no', 'off by 3')}\n", 1.0), "no", "off by 3"),
        (Done(124, answer(), 1.0, late=True), "unknown", "stopped at its time limit"),
        (Done(-11, answer(), 1.0), "unknown", "ended with status -11"),
        (Done(0, "all is well\n", 1.0), "unknown", "gave 0 verdicts; its last line: all is well"),
        (Done(0, f"{answer()}\n{answer('no')}\n", 1.0), "unknown", "gave 2 verdicts"),
        (Done(0, answer(question="Is it other?"), 1.0), "unknown", "answered another question: Is it other?"),
        (Done(0, answer("maybe"), 1.0), "unknown", "no valid answer with an observation: 'maybe'"),
        (Done(0, answer(seen=" "), 1.0), "unknown", "no valid answer with an observation: 'yes'"),
        (Done(0, "VERDICT yes\n", 1.0), "unknown", "cannot be read"),
        (Done(0, 'VERDICT ["yes"]\n', 1.0), "unknown", "cannot be read"),
        (Done(0, 'VERDICT {"answer": "yes"}\n', 1.0), "unknown", "cannot be read"),
        (Done(0, answer()[:-9], 1.0), "unknown", "cannot be read"),
    ],
    ids=[
        *("yes", "no", "hangs", "crashes", "no verdict", "two verdicts", "another question", "another answer"),
        *("nothing seen", "no JSON", "a list", "only an answer", "cut off"),
    ],
)
def test_a_verdict_needs_one_complete_answer_and_exit_status_0(done, expected, message):
    verdict = read_verdict(QUESTION, done.text, done.code, done.late, done.last)
    assert verdict.answer == expected
    assert message in verdict.seen


@pytest.mark.parametrize(
    ("answer", "error"), [("no", FailedError), ("unknown", NotReachedError)], ids=["no", "unknown"]
)
def test_only_yes_passes(answer, error):
    with pytest.raises(error, match="so it is") as caught:
        check_result(Verdict(QUESTION, answer, "so it is"))
    assert caught.value.details["verdicts"] == [{"question": QUESTION, "answer": answer, "seen": "so it is"}]
    assert check_result(Verdict(QUESTION, "yes", "so it is"))[0] == "so it is"


def test_every_question_has_its_experiment_and_is_asked_in_a_child(prepared):
    for name, question in QUESTIONS.items():
        assert (ROOT / "ci" / "gate" / "experiments" / f"{name}.py").is_file()
        prepared.prepare(experiments=(0, verdict_line(Verdict(question, "yes", "seen"))))
        assert questions.experiment(name)(prepared, 30)[0] == "seen"
        assert prepared.commands_run[0][-5:] == ["-m", "ci.gate.experiments", name, "--device", "cuda"]


@pytest.mark.parametrize(
    ("output", "status", "expected"),
    [
        ("run\ntest accuracy 96.49%\n", 0, ("no", "at least 96.5")),
        ("no device", 2, ("no", "status 2: no device")),
        ("done", 0, ("no", "not an accuracy: done")),
        ("test accuracy 96.50%\n\n", 0, ("yes", "96.50%")),
        ("test accuracy nan%", 0, ("no", "not an accuracy")),
    ],
    ids=["too low", "failed", "silent", "enough", "nan"],
)
def test_training_is_judged_by_its_last_line(output, status, expected):
    verdict, seen = training.judge(output, status)
    assert verdict == expected[0]
    assert expected[1] in seen


def test_training_that_was_not_captured_does_not_pass():
    """Such a run only prints a warning, and may reach its accuracy."""
    from gpuconv.training.step_graphs import Replay, UncapturedWarning

    with pytest.warns(UncapturedWarning) as warned:
        Replay("numpy", False).give_up("MemoryError: no 12 bytes more")
    verdict, seen = training.judge(f"gpuconv: warning: {warned[0].message}\n\ntest accuracy 98.00%\n", 0)
    assert verdict == "no"
    assert re.search(r"not captured: .*launch by launch: MemoryError: no 12 bytes more", seen)
