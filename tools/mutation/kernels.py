"""Break the kernels one fault at a time and count how many the kernel tests find; exit 1 under 95 %.

    python -m tools.mutation.kernels                            every mutant of every file
    python -m tools.mutation.kernels --sample 300 --seed 7      so many, drawn at random
    python -m tools.mutation.kernels --file pool.cuh --file max_pool2d.cu

Each mutant runs in a process of its own, on a copy of the kernels, on the emulated device: first the cases of
gpuconv.verify that run code of the file, then the kernel tests that do, then the small cases with every memory access
checked and in shuffled thread orders. A mutant dies by a wrong result, a fault that the emulator names, a
crash, or a loop without end. A mutant that does not compile is not counted. kernels_survivors.toml lists, each with its
reason, the mutants that compute the same as the shipped kernel, or that only a GPU could tell apart; they are not run
again unless --recheck is given. Nothing in the repository is written.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "GPUCONV_EMULATOR_WORKERS": "1"}

import pytest

from gpuconv import verify
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime import kernel, source
from tools.mutation.campaign import (
    INVALID,
    KILLED,
    REPOSITORY,
    SURVIVED,
    FirstFailure,
    Mutant,
    campaign,
    conclude,
    counts,
    draw,
    listed,
    parser,
)
from tools.mutation.cuda_faults import mutants

SURVIVORS = Path(__file__).with_name("kernels_survivors.toml")
LEAST = 0.95
PYTEST = ["-q", "-p", "no:cacheprovider", "-m", ""]
CASE_SECONDS = 8  # seconds of processor time after which a mutant counts as an endless loop; tests get as many more,
SUITE_FACTOR = 4  # and this many times the time of the shipped kernel


# --- the cases and tests that run a file --------------------------------------------------------


def shipped() -> list[str]:
    """The names of all kernel files and headers."""
    return sorted(path.name for path in source.directory().iterdir() if path.suffix in (".cu", ".cuh"))


@contextlib.contextmanager
def recorded() -> Iterator[set[Path]]:
    """The kernel files of all launches in this context."""
    launched: set[Path] = set()
    launch = kernel.Kernel.__call__

    def recording(run, *arguments, **options):
        launched.add(run.module.path)
        return launch(run, *arguments, **options)

    kernel.Kernel.__call__ = recording
    try:
        yield launched
    finally:
        kernel.Kernel.__call__ = launch


def cases_by_file(cases: list[verify.Case]) -> dict[str, list[verify.Case]]:
    """The cases that run code of each file, found by running them. Raises RuntimeError if a shipped kernel fails."""
    found: dict[str, list[verify.Case]] = {name: [] for name in shipped()}
    for case in cases:
        with recorded() as loaded:
            for dtype in {"float32", "float16"} & set(case.dtypes):  # 16-bit floats may use another algorithm
                outcome = verify.run_case(case, dtype, "emulated")
                if not outcome.passed:
                    raise RuntimeError(f"the shipped {case.op} fails in {dtype}, {case.name}: {outcome.failure}")
        for name in {name for path in loaded for name in parts_of(path)} & found.keys():
            found[name].append(case)
    return found


@functools.cache
def parts_of(path: Path) -> frozenset[str]:
    """A kernel file and the headers included in it."""
    return frozenset(Path(name).name for name in re.findall(r'#line \d+ "(.*)"', source.flatten(path)))


@dataclass
class Suite:
    """The tests that run code of a file, by their processor time on the shipped kernels."""

    times: dict[str, float] = field(default_factory=dict)

    @property
    def tests(self) -> list[str]:
        """The quickest first."""
        return sorted(self.times, key=self.times.__getitem__)

    @property
    def seconds(self) -> float:
        return sum(self.times.values())


class Recorder:
    """A pytest plugin: which tests run code of each file."""

    def __init__(self) -> None:
        self.suites = {name: Suite() for name in shipped()}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        begin = time.process_time()
        with recorded() as loaded:
            result = yield
        for name in {name for path in loaded for name in parts_of(path)} & self.suites.keys():
            self.suites[name].times[item.nodeid] = time.process_time() - begin
        return result


def suites_by_file(tests: list[str]) -> dict[str, Suite]:
    """The tests that run code of each file, found by running them. Raises RuntimeError if one fails."""
    recorder, quiet = Recorder(), io.StringIO()
    with contextlib.redirect_stdout(quiet):
        status = pytest.main([*PYTEST, *tests], [recorder])
    if status:
        raise RuntimeError(f"the kernel tests fail on the shipped kernels:\n{quiet.getvalue()}")
    return recorder.suites


# --- one mutant --------------------------------------------------------------------------------


def judge(mutant: Mutant, cases: list[verify.Case], suite: Suite) -> tuple[str, str]:
    """Whether the tests kill a mutant, and what did or why not. Runs in a separate process."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        kernels = Path(folder) / "kernels"
        shutil.copytree(source.directory(), kernels, ignore=shutil.ignore_patterns("__pycache__"))
        changed = kernels / mutant.file
        changed.write_text(mutant.apply(changed.read_text(encoding="utf-8")), encoding="utf-8")
        os.environ["GPUCONV_CACHE_DIR"] = tempfile.tempdir = folder
        source.directory = lambda: kernels
        kernel.unload()
        try:
            problem = next(filter(None, _problems(cases, suite)), "")
        except Exception as error:  # a launcher's own check found the fault
            return KILLED, f"{type(error).__name__}: {error}"
    if not problem:
        return SURVIVED, ""
    return (INVALID if "does not compile" in problem else KILLED), problem


def _problems(cases: list[verify.Case], suite: Suite) -> Iterator[str]:
    """The message of each check, cheap ones first; an empty text if it passes."""
    small = [case for case in cases if case.tier in ("tiny", "odd")]
    yield from _run(cases, "float32")
    if suite.tests:
        yield _run_tests(suite)
    for dtype in ("float16", "float64", "bfloat16"):
        yield from _run(small, dtype)
    for setting in ({"seed": 1}, {"seed": 2}, {"sanitize": "checked"}):
        with emulator.configure(**setting):
            yield from _run(small, "float32")


def _run(cases: list[verify.Case], dtype: str) -> Iterator[str]:
    for case in cases:
        if dtype in case.dtypes:
            with at_most(CASE_SECONDS):
                outcome = verify.run_case(case, dtype, "emulated")
            yield f"{case.op} {dtype} {case.name}: {outcome.failure}" if outcome.failure else ""


def _run_tests(suite: Suite) -> str:
    recorder = FirstFailure()
    with at_most(CASE_SECONDS + SUITE_FACTOR * suite.seconds):
        status = pytest.main([*PYTEST, "-x", *suite.tests], [recorder])
    return f"{recorder.nodeid or status!r} fails" if status else ""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End the process after this much processor time in the context: an endless kernel does not return to Python."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)


def main() -> int:
    os.chdir(REPOSITORY)
    command = parser(__doc__, processes=2)
    command.add_argument(
        "--tests", action="append", metavar="PATH", help="run these tests in place of all in tests/kernels"
    )
    options = command.parse_args()
    if unknown := set(options.file or ()) - set(shipped()):
        sys.exit(f"no kernel file: {', '.join(sorted(unknown))}")
    known = listed(SURVIVORS)
    files = options.file or shipped()
    everything = [m for name in files for m in mutants(name, (source.directory() / name).read_text(encoding="utf-8"))]
    if stale := {key for key in known if key[0] in files} - {mutant.key for mutant in everything}:
        print("listed, but no such mutant:", *sorted(stale), sep="\n    ")
    cases, suites = cases_by_file(verify.cases()), suites_by_file(options.tests or ["tests/kernels"])
    outcomes = campaign(
        draw(everything, options), known, lambda mutant: judge(mutant, cases[mutant.file], suites[mutant.file]), options
    )
    found = counts(outcomes, lambda mutant: mutant.file)
    return conclude(found, LEAST)


if __name__ == "__main__":
    sys.exit(main())
