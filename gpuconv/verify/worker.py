"""The process of the shadow oracle: checks stored calls, one a line of standard input, and answers a line of JSON each.

It ends with its input, so it never outlives the run. `seconds` of an answer: all processor time it has taken so far."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from gpuconv.types import Record


def main() -> None:
    """Answer until the input ends."""
    from gpuconv import checkpoint
    from gpuconv.verify.call import Call

    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that a library's output is not taken for an answer
    _answer(answers, {"ready": True})
    for line in sys.stdin:
        path = json.loads(line)
        try:
            call = Call.read(path, checkpoint.load(path))
            if call.checkable:
                worst = call.compare()
                _answer(answers, {"share": worst.share, "error": worst.error, "bound": worst.bound, "text": worst.text})
            else:
                _answer(answers, {"skipped": "an input is not finite"})
        except Exception as error:  # the run reports it
            _answer(answers, {"failed": f"{type(error).__name__}: {error}"})


def _answer(answers: Any, facts: Record) -> None:
    answers.write(json.dumps(facts | {"seconds": time.process_time()}) + "\n")
    answers.flush()
