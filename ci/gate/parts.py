"""The parts in order, for a GPU that is available for thirty minutes. 28 minutes are assigned, two are in reserve.

Checks that other checks depend on come first, then those that tell most about the kernels, and the longest ones last.
"""

from __future__ import annotations

from ci.gate import correctness_checks, hopper, questions, speed_checks, start
from ci.gate.run_parts import Check, Part, checks

AVAILABLE, RESERVE = 30.0, 2.0  # minutes
LONGEST_CALL = 9.0  # minutes: the limit for the parts of one call of the gate together, and for each extra part
# An entry for each call of the gate: the parts that this call runs. Their limits add up to at most LONGEST_CALL.
CALLS = (("start", "right"), ("why", "kernels"), ("questions",), ("steps",), ("suite",))

ALWAYS = Part("start", 1, (Check("environment", 3, start.environment), Check("cubins", 1, start.cubins)))

PARTS = (
    Part("start", 2, (*ALWAYS.checks, Check("peaks", 4, start.peaks))),
    Part(
        "right",
        3,
        (
            Check("verify", 4, correctness_checks.verify),
            Check("memcheck", 3, correctness_checks.sanitizer_check("memcheck")),
            Check("racecheck", 3, correctness_checks.sanitizer_check("racecheck")),
        ),
    ),
    Part("why", 4, (Check("ncu", 1, speed_checks.ncu),)),
    Part(
        "kernels",
        4,
        (
            Check("convolutions", 8, speed_checks.timing_check("ops", speed_checks.KERNELS)),
            Check("model", 1, speed_checks.model),
            Check("record", 1, speed_checks.record),
        ),
    ),
    Part(
        "questions",
        6,
        checks(
            questions.experiment,
            ("capture", 1),
            ("threads", 1),
            ("bfloat16", 2),
            ("float32", 1),
            ("loader", 1),
            ("choices", 2),
            ("families", 4),
            ("driver", 1),
        ),
    ),
    Part("steps", 5, (Check("steps", 1, speed_checks.timing_check("steps", speed_checks.STEPS)),)),
    Part("suite", 4, (Check("suite", 1, speed_checks.timing_check("ops", speed_checks.SUITE, missing=True)),)),
)

EXTRA = (  # run only when named
    Part(
        "hopper",
        6,
        checks(
            hopper.check_of,
            ("k-major", 1),
            ("mn-major", 1),
            ("ring", 1),
            ("cluster", 1),
            ("fprop", 4),
            ("dgrad", 3),
            ("wgrad", 3),
        ),
    ),
    Part("tests", 9, (Check("tests", 1, correctness_checks.tests),)),
)
