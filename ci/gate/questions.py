"""Questions that only a GPU answers. A child process does an experiment for each, and its output gives the verdict."""

from __future__ import annotations

from ci.gate.commands import Gate
from ci.gate.experiments import QUESTIONS
from ci.gate.results import check_result
from ci.gate.run_parts import Body, Found
from ci.gate.verdict import read_verdict

# Environment variables of an experiment's process; they override those that the gate sets.
_SETTINGS = {"choices": {"GPUCONV_AUTOTUNE": "1"}}


def experiment(name: str) -> Body:
    def check(gate: Gate, seconds: float) -> Found:
        words = ["-m", "ci.gate.experiments", name, "--device", gate.device, *(["--small"] if gate.small else [])]
        done = gate.ask(f"experiments/{name}.log", words, seconds, **_SETTINGS.get(name, {}))
        return check_result(read_verdict(QUESTIONS[name], done.text, done.code, done.late, done.last))

    return check
