"""The process of the shadow oracle. Each line of standard input is the path of a stored call, as JSON; the process
checks the call and answers with a line of JSON.

It ends when its input ends, which is soon after the run. `seconds` in an answer is the processor time that the process
has used since it started."""

from __future__ import annotations

import json
import sys
import time

from gpuconv.system.child_process import answer_writer
from gpuconv.types import Record


def main() -> None:
    """Answer until the input ends."""
    from gpuconv import checkpoint
    from gpuconv.verify.call import Call

    answer = answer_writer()

    def timed(facts: Record) -> None:
        answer(facts | {"seconds": time.process_time()})

    timed({"ready": True})
    for line in sys.stdin:
        path = json.loads(line)
        try:
            call = Call.read(path, checkpoint.load(path))
            if call.checkable:
                worst = call.compare()
                timed({"share": worst.share, "error": worst.error, "bound": worst.bound, "text": worst.text})
            else:
                timed({"skipped": "an input is not finite"})
        except Exception as error:  # the run reports it
            timed({"failed": f"{type(error).__name__}: {error}"})
