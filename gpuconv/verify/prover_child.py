"""The child process that proves algorithms. Each line of standard input is a question from
`gpuconv.backends.cuda.gemm.prover`.

The process answers a question with two lines, one before and one after it runs the algorithm to be proved. If the
preparation fails, it writes only the second line. It ends itself when a question takes too long, so that a hanging
kernel does not outlive the process that asked."""

from __future__ import annotations

import faulthandler
import json
import sys
import time
from collections.abc import Callable

from gpuconv.backends.cuda.gemm import prover, tuner
from gpuconv.backends.cuda.gemm.plan import plan
from gpuconv.backends.cuda.gemm.verdicts import allow_unproved, fingerprint_of
from gpuconv.backends.cuda.runtime.capability import capability_named
from gpuconv.backends.cuda.runtime.replaced_files import replace_files
from gpuconv.system.child_process import answer_writer
from gpuconv.types import Record
from gpuconv.verify.algorithm_check import Proof, RefutedError
from gpuconv.verify.algorithm_run import Question

_QUESTION_LIMIT = 60.0  # seconds for a question; the process that asks gives up earlier


def main() -> None:
    """Answer until the input ends."""
    answer = answer_writer()
    answer({"ready": True})
    for line in sys.stdin:
        faulthandler.dump_traceback_later(_QUESTION_LIMIT, exit=True)
        answer_about(json.loads(line), answer)
        faulthandler.cancel_dump_traceback_later()


def answer_about(record: Record, answer: Callable[[Record], None]) -> None:
    """Write the lines that answer a question."""
    fingerprint, start = "", time.perf_counter()
    try:
        with allow_unproved(), replace_files(record["files"]):
            question = Question.read(record)
            fingerprint, proof = _fingerprint(question), Proof(question)
            answer({"prepared": True})
            status, reason = prover.PROVED, proof.judge()
    except RefutedError as refuted:
        status, reason = prover.REFUTED, str(refuted)
    except Exception as error:  # no evidence against the algorithm, see `Proof.judge`
        status, reason = prover.UNABLE, f"{type(error).__name__}: {error}"
    answer({"of": fingerprint, "status": status, "reason": reason, "seconds": time.perf_counter() - start})


def _fingerprint(question: Question) -> str:
    """The fingerprint of the plan to be proved, from this process's kernels and GPU."""
    planned = plan(question.product, question.algorithm, capability_named(question.device))
    return fingerprint_of(question.product, planned, tuner.gpu_or_emulated(question.device))
