"""Rows with prepared results, and how `gpuconv verify` and `gpuconv lab` print them."""

from __future__ import annotations

from gpuconv import verify
from gpuconv.verify.run import Outcome, Row

HEAD = "op                          dtype     cases  worst error  its bound  share"
SMALL, LARGE = (
    next(case for case in verify.cases(("tiny", "odd")) if (case.op, case.tier) == ("relu", tier))
    for tier in ("tiny", "odd")
)
RIGHT, WRONG = Row("relu", "float32"), Row("relu", "float16")
RIGHT.outcomes = [Outcome(SMALL, "float32", 0.0, 1e-6, 0.0), Outcome(LARGE, "float32", 5e-7, 1e-6, 0.5)]
WRONG.outcomes = [
    Outcome(SMALL, "float16", 2.0, 1e-3, 2000.0, "y[0] is 2"),
    Outcome(LARGE, "float16", 3.0, 1e-3, 3000.0, "y[1] is 3"),
]
PASS = "relu                        float32       2        5e-07      1e-06    50%  PASS"
FAIL = [
    "relu                        float16       2            3      0.001 300000%  FAIL",
    f"    smallest failing case (tiny): {SMALL.name}",
    "    y[0] is 2",
]
