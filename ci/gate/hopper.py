"""The kernels for Hopper, smallest pieces first, so that the first failing check identifies the faulty piece."""

from __future__ import annotations

from ci.gate.commands import Gate
from ci.gate.hopper_kernels import NOTHING
from ci.gate.results import FailedError, LateError, NotReachedError
from ci.gate.run_parts import Body, Found

_KEPT = 120  # lines of a check's output in the record; the logs have all of it


def check_of(name: str) -> Body:
    def check(gate: Gate, seconds: float) -> Found:
        if gate.facts.get("arch") != "sm_90a":
            raise NotReachedError(f"it needs the architecture sm_90a; this GPU has {gate.facts.get('arch')}")
        words = ["-m", "ci.gate.hopper_kernels", name, "--device", gate.device, *(["--small"] if gate.small else [])]
        done = gate.ask(f"hopper/{name}.log", words, seconds, GPUCONV_AUTOTUNE="1")
        details = {"printed": done.text.splitlines()[-_KEPT:]}
        if done.late:
            raise LateError(f"stopped after {done.seconds:.0f} s; its last line: {done.last[:160]}", **details)
        if done.code:
            raise (NotReachedError if done.code == NOTHING else FailedError)(done.last[:200], **details)
        return done.last, details

    return check
