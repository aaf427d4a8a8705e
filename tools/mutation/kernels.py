"""Break the kernels one fault at a time and count how many the kernel tests find; exit 1 under 95 %.

    python -m tools.mutation.kernels                            every mutant of every file
    python -m tools.mutation.kernels --sample 300 --seed 7      300 of them, drawn at random
    python -m tools.mutation.kernels --file pool.cuh --file max_pool2d.cu
    python -m tools.mutation.kernels --file mbarrier.cuh --each --sample 12 --tests tests/kernels/test_warpgroups.py

Each mutant runs in a process of its own, on a copy of the kernels, on the emulated device: first the cases of
gpuconv.verify that run code of the file, in float32; then the kernel tests that run such code; then the small cases in
the other dtypes, in shuffled thread orders, and with every memory access checked. With --tests, only those tests run. A
mutant dies by a wrong result, a fault that the emulator names, a crash, or a loop without end. A mutant that does not
compile is not counted. kernels_survivors.toml lists, each with its reason, the mutants that compute the same as the
shipped kernel, or that only a GPU could tell apart; they are not run again unless --recheck is given. Nothing in the
repository is written.
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
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ |= {"OPENBLAS_NUM_THREADS": "1", "GPUCONV_EMULATOR_WORKERS": "1"}

import pytest

from gpuconv import verify
from gpuconv.backends.cuda import cache, emulator
from gpuconv.backends.cuda.emulator.settings import settings
from gpuconv.backends.cuda.runtime import kernel, source
from tools.mutation.campaign import (
    INVALID,
    KILLED,
    REPOSITORY,
    SURVIVED,
    FirstFailure,
    Mutant,
    campaign,
    counts,
    draw,
    known_survivors,
    parser,
    print_conclusion,
)
from tools.mutation.cuda_faults import mutants

SURVIVORS = Path(__file__).with_name("kernels_survivors.toml")
REQUIRED_SHARE = 0.95
NO_BUILD = "does not compile for the emulated device"  # a part of the error message of emulator/cxx.py
PYTEST = ["-q", "-p", "no:cacheprovider", "-m", ""]
CASE_SECONDS = 8  # of processor time; a mutant that takes longer for a case counts as an endless loop
TEST_FACTOR = 4  # a test may take CASE_SECONDS plus this many times its time on the shipped kernel


# --- the cases and tests that run a file --------------------------------------------------------


def kernel_files() -> list[str]:
    """The names of all kernel files and headers."""
    return sorted(path.name for path in source.directory().iterdir() if path.suffix in (".cu", ".cuh"))


Build = tuple[Path, frozenset[tuple[str, str]], str]  # a kernel file, its macros, and the `sanitize` setting


@contextlib.contextmanager
def record_builds() -> Iterator[set[Build]]:
    """The builds of all kernels launched in this context."""
    launched: set[Build] = set()
    launch = kernel.Kernel.__call__

    def recording(run, *arguments, **options):
        launched.add((run.module.path, frozenset(run.module.defines.items()), settings().sanitize))
        return launch(run, *arguments, **options)

    kernel.Kernel.__call__ = recording
    try:
        yield launched
    finally:
        kernel.Kernel.__call__ = launch


def cases_by_file(cases: list[verify.Case]) -> dict[str, list[verify.Case]]:
    """The cases that run code of each file, found by running them. Raises RuntimeError if a shipped kernel fails."""
    found: dict[str, list[verify.Case]] = {name: [] for name in kernel_files()}
    for case in cases:
        with record_builds() as launched:
            for dtype in {"float32", "float16"} & set(case.dtypes):  # 16-bit floats may use another algorithm
                outcome = verify.run_case(case, dtype, "emulated")
                if not outcome.passed:
                    raise RuntimeError(f"the shipped {case.op} fails in {dtype}, {case.name}: {outcome.failure}")
        for name in {name for path, *_ in launched for name in parts_of(path)} & found.keys():
            found[name].append(case)
    return found


@functools.cache
def parts_of(path: Path) -> frozenset[str]:
    """A kernel file and the headers included in it."""
    return frozenset(Path(name).name for name in re.findall(r'#line \d+ "(.*)"', source.flatten(path)))


@dataclass
class Suite:
    """The tests that run code of a file. costs: for each test, the number of builds that it compiles again if the file
    changes, and its processor time on the shipped kernels."""

    costs: dict[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def tests(self) -> list[str]:
        """The tests in the order to run them: those with the fewest builds first, because compiling takes longest; then
        the quickest first."""
        return sorted(self.costs, key=self.costs.__getitem__)


class Recorder:
    """A pytest plugin: which tests run code of each file, and what they cost."""

    def __init__(self) -> None:
        self.suites = {name: Suite() for name in kernel_files()}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        begin = time.process_time()
        with record_builds() as launched:
            result = yield
        seconds = time.process_time() - begin
        builds = Counter(name for path, *_ in launched for name in parts_of(path))
        for name in builds.keys() & self.suites.keys():
            self.suites[name].costs[item.nodeid] = builds[name], seconds
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
    """Whether the tests kill a mutant, and the first problem that they found. Runs in a separate process."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        kernels = Path(folder) / "kernels"
        shutil.copytree(source.directory(), kernels, ignore=shutil.ignore_patterns("__pycache__"))
        changed = kernels / mutant.file
        changed.write_text(mutant.apply(changed.read_text(encoding="utf-8")), encoding="utf-8")
        _compile_into(folder)
        source.directory = lambda: kernels
        kernel.unload()
        problem = next(filter(None, _problems(cases, suite)), "")
    if not problem:
        return SURVIVED, ""
    return (INVALID if NO_BUILD in problem else KILLED), problem


def _compile_into(folder: str) -> None:
    """Compile into this folder only what the cache lacks."""
    kernel_files, find = cache.default(), cache.Cache.find
    cache.Cache.find = lambda self, name, key: find(kernel_files, name, key) or find(self, name, key)
    os.environ["GPUCONV_CACHE_DIR"] = tempfile.tempdir = folder


def _problems(cases: list[verify.Case], suite: Suite) -> Iterator[str]:
    """The message of each check, cheap checks first; an empty text for a check that passes."""
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
                try:
                    failure = verify.run_case(case, dtype, "emulated").failure
                except Exception as error:  # a launcher's own check found the fault
                    failure = f"{type(error).__name__}: {error}"
            yield f"{case.op} {dtype} {case.name}: {failure}" if failure else ""


def _run_tests(suite: Suite) -> str:
    """Which test fails first; "" if none does. Raises RuntimeError if pytest fails although no test failed."""
    recorder = FirstFailure()
    status = pytest.main([*PYTEST, "-x", *suite.tests], [recorder, TimeLimit(suite)])
    if status and not recorder.nodeid:
        raise RuntimeError(f"pytest ends with {status!r}, and no test failed")
    return f"{recorder.nodeid} {NO_BUILD if NO_BUILD in recorder.text else 'fails'}" if status else ""


@dataclass
class TimeLimit:
    """A pytest plugin: ends the process if a test takes much longer than on the shipped kernel."""

    suite: Suite

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        with at_most(CASE_SECONDS + TEST_FACTOR * self.suite.costs[item.nodeid][1]):
            return (yield)


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
        "--tests", action="append", metavar="PATH", help="run only these tests, in place of the cases and tests/kernels"
    )
    options = command.parse_args()
    if unknown := set(options.file or ()) - set(kernel_files()):
        sys.exit(f"no kernel file: {', '.join(sorted(unknown))}")
    known = known_survivors(SURVIVORS)
    files = options.file or kernel_files()
    everything = [m for name in files for m in mutants(name, (source.directory() / name).read_text(encoding="utf-8"))]
    if stale := {key for key in known if key[0] in files} - {mutant.key for mutant in everything}:
        print("listed, but no such mutant:", *sorted(stale), sep="\n    ")
    cases = cases_by_file([] if options.tests else verify.cases())
    suites = suites_by_file(options.tests or ["tests/kernels"])
    outcomes = campaign(
        draw(everything, options), known, lambda mutant: judge(mutant, cases[mutant.file], suites[mutant.file]), options
    )
    found = counts(outcomes, lambda mutant: mutant.file)
    return print_conclusion(found, REQUIRED_SHARE)


if __name__ == "__main__":
    sys.exit(main())
