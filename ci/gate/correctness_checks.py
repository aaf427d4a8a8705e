"""Correctness of the kernels: `gpuconv verify`, compute-sanitizer on small shapes, and the test suite."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence

from ci.gate.commands import Done, Gate
from ci.gate.results import FailedError, LateError, NotReachedError, join_names
from ci.gate.run_parts import Body, Found
from gpuconv.ops import OPS
from gpuconv.system.processor import available_cores

SANITIZED = {  # every kind of kernel: tiles in shared memory, tensor cores, reductions, plain maps
    "float32": (
        "conv2d",
        "conv2d_dgrad",
        "conv2d_wgrad",
        "max_pool2d_backward",
        "batch_norm_backward",
        "bias_grad",
        "softmax_cross_entropy",
        "sgd_step",
    ),
    "float16": ("conv2d", "conv2d_dgrad", "conv2d_wgrad", "conv2d_relu", "conv2d_batch_norm", "muon_step"),
}
SMALL = ("relu", "add")  # for a rehearsal
_PASSED = re.compile(r"^all [1-9]\d* pass on ", re.MULTILINE)
_CLEAN = re.compile(r"(ERROR SUMMARY: 0 errors|RACECHECK SUMMARY: 0 hazards)")


def workers() -> int:
    return max(1, available_cores() * 3 // 4)


def verify(gate: Gate, seconds: float) -> Found:
    """Verifies the ops in parallel, each in a process of its own, because most of the time goes into the oracle, which
    runs on the CPU. Matrix products come first."""
    tiers = ["--tier", "tiny", *([] if gate.small else ["--tier", "odd"])]
    words = [*gate.python, "-m", "gpuconv", "verify", "--device", gate.device, *tiers, "--op"]
    ops = SMALL if gate.small else sorted(gate.facts.get("ops", ()), key=lambda op: not OPS[op].takes_algorithm)
    if not ops:
        raise NotReachedError("the environment named no operations")
    commands = {f"verify/{op}.log": [*words, op] for op in ops}
    found = gate.run_in_parallel(commands, seconds, workers(), OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    return judge("ops pass", found, commands, _PASSED)


def sanitizer_check(tool: str) -> Body:
    def check(gate: Gate, seconds: float) -> Found:
        """Runs compute-sanitizer on the ops of SANITIZED, in a rehearsal on those of SMALL. Each array is a separate
        allocation, without CuPy's pool, so the memory next to an array is unallocated."""
        if not shutil.which("compute-sanitizer"):
            raise NotReachedError("compute-sanitizer is not on the PATH")
        words = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", *gate.python, "-m", "ci.gate.unpooled"]
        words += ["verify", "--device", gate.device, "--tier", "tiny"]
        chosen = {"float32": SMALL} if gate.small else SANITIZED
        commands = {
            f"{tool}/{op}-{dtype}.log": [*words, "--dtype", dtype, "--op", op]
            for dtype, ops in chosen.items()
            for op in ops
        }
        found = gate.run_in_parallel(commands, seconds, min(workers(), 6))
        return judge("ops clean", found, commands, _CLEAN)

    return check


def tests(gate: Gate, seconds: float) -> Found:
    """Runs the whole test suite with kernels on this device, each file in a process of its own. The files of folders
    named `kernels` come first. Of them, and then of the others, those with "devices" in their names come first."""
    folder = gate.home / "tests"
    files = sorted(folder.rglob("test_*.py"), key=lambda p: (p.parent.name != "kernels", "devices" not in p.name, p))
    files = files[:1] if gate.small else files
    if not files:
        raise NotReachedError("there are no tests in this tree")
    names = {f"tests/{str(f.relative_to(folder))[:-3].replace(os.sep, '.')}.log": f for f in files}
    options = ["-p", "no:cacheprovider", "-m", "", "-rfE"]
    commands = {
        log: [sys.executable, "-m", "pytest", *options, str(f.relative_to(gate.home))] for log, f in names.items()
    }
    found = gate.run_in_parallel(
        commands,
        seconds,
        workers(),
        GPUCONV_TEST_DEVICES=gate.device,
        OMP_NUM_THREADS="1",
        OPENBLAS_NUM_THREADS="1",
        GPUCONV_EMULATOR_WORKERS="1",
    )
    counts: dict[str, int] = defaultdict(int)
    for done in found.values():
        for number, what in re.findall(r"(\d+) (passed|failed|skipped|xfailed|error)", done.last):
            counts[what] += int(number)
    summary = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    return judge(
        f"files, {summary}", found, commands, re.compile(r"\d+ (passed|skipped|deselected)|no tests ran"), (0, 5)
    )


def judge(
    what: str,
    found: Mapping[str, Done],
    planned: Sequence[str] | Mapping[str, object],
    proof: re.Pattern[str],
    good: tuple[int, ...] = (0,),
) -> Found:
    """Judges many commands: which failed, ran out of time, or were not started. proof: a pattern in the output of a
    command that passed; the status alone is not enough."""
    short = {name: name.rpartition("/")[2].removesuffix(".log") for name in planned}
    ended = {name: done for name, done in found.items() if not done.late}
    failed = [short[name] for name, done in ended.items() if done.code not in good]
    silent = [short[name] for name, done in ended.items() if done.code in good and not proof.search(done.text)]
    late = [short[name] for name in planned if name not in ended]
    summary = f"{len(ended) - len(failed) - len(silent)} of {len(short)} {what}"
    details = {
        "failed": failed,
        "without proof": silent,
        "out of time": late,
        "seconds": {short[name]: round(done.seconds, 1) for name, done in found.items()},
    }
    problems = [
        f"{why}: {join_names(names)}"
        for why, names in (("failed", failed), ("did not print that they passed", silent), ("out of time", late))
        if names
    ]
    if problems:
        raise (FailedError if failed or silent else LateError)("; ".join([summary, *problems]), **details)
    return summary, details
