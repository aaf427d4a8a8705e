"""The prover's child from outside: whatever it does, the process that asks receives an answer in time and continues."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from gpuconv.backends.cuda.gemm import prover
from gpuconv.backends.cuda.gemm.prover import PROVED, REFUTED, UNABLE, Prover
from gpuconv.system import child_process as process

FINGERPRINT = "what is asked about"  # of a product and a candidate
BEGIN = """
import json, os, resource, signal, sys, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
def say(**facts): print(json.dumps(facts), flush=True)
GOOD = {"of": "what is asked about", "status": "proved", "reason": "good", "seconds": 0.1}
def verdict(**changed): say(**GOOD | changed)
"""
READY = BEGIN + "say(ready=True)\n"
ASKED = READY + "for line in sys.stdin:\n    say(prepared=True)\n    "
UNPREPARED = READY + "for line in sys.stdin:\n    "
SLEEP = "time.sleep(60)"

# The child's code, the status of the answer, and words of its reason.
CHILDREN = {
    "proves": (ASKED + "verdict()", PROVED, "good"),
    "refutes": (ASKED + "verdict(status='refuted', reason='other bits')", REFUTED, "other bits"),
    "hangs": (ASKED + SLEEP, REFUTED, "did not answer within 0.3 s"),
    "hangs-at-the-start": (BEGIN + SLEEP, UNABLE, "did not answer within 0.4 s"),
    "hangs-before-it-is-prepared": (UNPREPARED + SLEEP, UNABLE, "did not answer within 0.5 s"),
    "hangs-and-ignores-signals": (BEGIN + "signal.pthread_sigmask(0, range(1, 32))\n" + SLEEP, UNABLE, "within 0.4 s"),
    "crashes": (ASKED + "os.kill(os.getpid(), signal.SIGSEGV)", REFUTED, "ended with SIGSEGV"),
    "aborts": (ASKED + "print('assertion', file=sys.stderr); os.abort()", REFUTED, "SIGABRT: assertion"),
    "crashes-before-it-is-prepared": (UNPREPARED + "os.kill(os.getpid(), 11)", UNABLE, "ended with SIGSEGV"),
    "crashes-at-the-start": (BEGIN + "os.abort()", UNABLE, "ended with SIGABRT"),
    "is-killed": (ASKED + "os.kill(os.getpid(), signal.SIGKILL)", UNABLE, "ended with SIGKILL"),
    "exits": (ASKED + "sys.exit('no more')", UNABLE, "ended with status 1: no more"),
    "exits-in-silence": (ASKED + "os._exit(0)", UNABLE, "ended with status 0"),
    "runs-out-of-memory": (ASKED + "verdict(of='', status='unable', reason='MemoryError: 3 GB')", UNABLE, "3 GB"),
    "has-no-context": (UNPREPARED + "verdict(of='', status='unable', reason='no GPU')", UNABLE, "no GPU"),
    "closes-its-pipe": (ASKED + "os.close(1); " + SLEEP, UNABLE, "closed its output"),
    "prints-words": (ASKED + "print('proved!', flush=True)", UNABLE, "printed 'proved!"),
    "prints-bytes": (ASKED + "os.write(1, bytes(range(128, 256)) + b'\\n')", UNABLE, "printed"),
    "prints-a-list": (ASKED + "print('[1, 2]', flush=True)", UNABLE, "printed '[1, 2]"),
    "prints-without-end": (ASKED + "[os.write(1, b'x' * 65536) for _ in range(64)]", UNABLE, "printed 'xxx"),
    "prints-at-the-start": (BEGIN + "print('Hello', flush=True)\n" + SLEEP, UNABLE, "printed 'Hello"),
    "nests-deeply": (ASKED + "print('[' * 60000, flush=True)", UNABLE, "printed '[[["),
    "proves-another-problem": (ASKED + "verdict(of='something else')", UNABLE, "answered about another problem"),
    "proves-before-it-is-prepared": (UNPREPARED + "verdict()", UNABLE, "answered"),
    "omits-what-it-proved": (ASKED + "say(status='proved', reason='', seconds=0)", UNABLE, "answered"),
    "says-more": (ASKED + "verdict(sure=True)", UNABLE, "answered"),
    "says-another-word": (ASKED + "verdict(status='fine')", UNABLE, "answered"),
    "gives-no-reason": (ASKED + "verdict(reason=None)", UNABLE, "answered"),
    "gives-no-time": (ASKED + "verdict(seconds='soon')", UNABLE, "answered"),
    "gives-no-number": (ASKED + "verdict(seconds=float('nan'))", UNABLE, "answered"),
    "is-prepared-twice": (ASKED + "say(prepared=True)", UNABLE, "answered"),
}


HANGS_AT_THE_START = ("hangs-at-the-start", "hangs-and-ignores-signals")


def python_command(code):
    return [sys.executable, "-I", "-S", "-c", code]


@pytest.fixture
def prover_of(monkeypatch):
    """Makes a prover with short time limits, whose child runs the given code."""
    for limit, seconds in (("PREPARE", 0.5), ("LIMIT", 0.3)):
        monkeypatch.setattr(prover, limit, seconds)
    monkeypatch.setattr(process, "_GRACE", 0.1)
    provers = []

    def make(code, start=10.0):
        monkeypatch.setattr(prover, "START", start)
        monkeypatch.setattr(prover, "command", python_command(code))
        provers.append(Prover())
        return provers[-1]

    yield make
    for started in provers:
        started.close()


@pytest.mark.parametrize("child", CHILDREN)
def test_ask_gives_the_right_status_and_reason_for_a_child_that(prover_of, child):
    code, status, reason = CHILDREN[child]
    start = time.perf_counter()
    answer = prover_of(code, start=0.4 if child in HANGS_AT_THE_START else 10.0).ask({"a": "question"}, FINGERPRINT)
    assert answer.status == status
    assert reason in answer.reason
    assert time.perf_counter() - start < 8


def test_one_child_serves_all_questions(prover_of):
    counted = prover_of(READY + "for n, line in enumerate(sys.stdin):\n    say(prepared=True); verdict(reason=str(n))")
    assert [counted.ask({}, FINGERPRINT).reason for _ in range(3)] == ["0", "1", "2"]


def test_threads_take_turns(prover_of):
    slow = prover_of(
        READY + "for n, line in enumerate(sys.stdin):\n    say(prepared=True); time.sleep(.02); verdict(reason=str(n))"
    )
    reasons = []
    threads = [threading.Thread(target=lambda: reasons.append(slow.ask({}, FINGERPRINT).reason)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(reasons) == ["0", "1", "2", "3"]


def test_a_child_that_refuted_an_algorithm_is_replaced(prover_of):
    """A faulty kernel may have damaged the state of the child."""
    refuting = prover_of(ASKED + "verdict(status='refuted', reason=str(os.getpid()))")
    answers = [refuting.ask({}, FINGERPRINT) for _ in range(3)]
    assert len({answer.reason for answer in answers}) == 3
    assert refuting.without_proof == 3


def test_a_child_that_says_more_or_ends_after_its_answer_is_replaced(prover_of):
    for ending in ("say(prepared=True); say(prepared=True)", "sys.exit()"):
        loud = prover_of(ASKED + f"verdict(reason=str(os.getpid())); {ending}")
        first = loud.ask({}, FINGERPRINT)
        time.sleep(0.2)
        second = loud.ask({}, FINGERPRINT)
        assert (first.status, second.status) == (PROVED, PROVED)
        assert first.reason != second.reason


def test_an_idle_child_is_ended(prover_of, monkeypatch):
    monkeypatch.setattr(prover, "IDLE", 0.05)
    idle = prover_of(ASKED + "verdict(reason=str(os.getpid()))")
    first = idle.ask({}, FINGERPRINT).reason
    time.sleep(0.3)
    assert idle.ask({}, FINGERPRINT).reason != first


def test_a_child_that_cannot_be_started_proves_nothing(prover_of, monkeypatch):
    unstartable = prover_of(ASKED)
    monkeypatch.setattr(prover, "command", ["/no/such/python"])
    answer = unstartable.ask({}, FINGERPRINT)
    assert answer.status == UNABLE
    assert "cannot be started: [Errno 2]" in answer.reason
