"""A verdict on a question that only a GPU answers, and the line in which a child reports it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

ANSWERS = ("yes", "no", "unknown")


@dataclass(frozen=True)
class Verdict:
    """The answer to a question, phrased so that "yes" is the desired answer. seen: what was observed."""

    question: str
    answer: str
    seen: str

    def __str__(self) -> str:
        return f"{self.question}\n    {self.answer}: {self.seen}"


def verdict_line(verdict: Verdict) -> str:
    """The line in which a child reports its verdict."""
    return "VERDICT " + json.dumps({"answer": verdict.answer, "seen": verdict.seen, "question": verdict.question})


def read_verdict(question: str, text: str, code: int, late: bool, last: str) -> Verdict:
    """The verdict in a child's output. Anything but exactly one complete answer to this question from a child that
    exited with status 0 is "unknown", with the reason."""

    def unknown(why: str) -> Verdict:
        return Verdict(question, "unknown", f"{why}; its last line: {last[:160]}")

    if late:
        return unknown("stopped at its time limit")
    if code:
        return unknown(f"ended with status {code}")
    lines = re.findall(r"^VERDICT (.*)$", text, re.MULTILINE)
    if len(lines) != 1:
        return unknown(f"gave {len(lines)} verdicts")
    try:
        given = json.loads(lines[0])
        found = Verdict(given["question"], given["answer"], given["seen"])
    except (ValueError, KeyError, TypeError) as error:
        return unknown(f"gave a verdict that cannot be read ({type(error).__name__})")
    if found.question != question:
        return unknown(f"answered another question: {found.question}")
    if found.answer not in ANSWERS or not isinstance(found.seen, str) or not found.seen.strip():
        return unknown(f"gave no valid answer with an observation: {found.answer!r}")
    return found
