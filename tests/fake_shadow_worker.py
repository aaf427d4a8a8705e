"""A stand-in for the worker process of the shadow oracle."""

from __future__ import annotations

from gpuconv import checkpoint
from gpuconv.verify.call import Call


class FakeWorker:
    """A worker that answers at once, and says that its start took 0.3 seconds and each check `cost` seconds.

    checked: the ops of the checked calls."""

    def __init__(self, cost=0.013):
        self.cost, self.seconds, self.checked = cost, 0.3, []
        self.answers = [{"ready": True, "seconds": self.seconds}]

    def submit(self, path):
        self.answers.append(path)

    def answer(self, patience=0.0):
        if not self.answers:
            return None
        answer = self.answers.pop(0)
        if isinstance(answer, dict):
            return answer
        call = Call.read(answer, checkpoint.load(answer))
        self.seconds += self.cost
        self.checked.append(call.op)
        worst = call.compare()
        return {"share": worst.share, "text": worst.text, "seconds": self.seconds}

    def close(self):
        self.closed = True
