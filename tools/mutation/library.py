"""Break the library's Python one fault at a time and count how many the fast tests find; exit 1 under 90 %.

    python -m tools.mutation.library --sample 200 --seed 7
    python -m tools.mutation.library --file gpuconv/training/trainer.py --verbose
    python -m tools.mutation.library --tests tests/layers --file gpuconv/layers/base.py

First the fast tests run once under coverage, which records the lines that each runs; tests that fail are left out. Then
each mutant is tested in a separate process, on a copy of the repository, by the tests that run its lines, until one
fails: those of its package first, fast ones before slow ones, as many as fit into 60 s. At the end the tests that found
a fault run once more on the shipped library, and must pass. library_survivors.toml lists, each with a reason, the
mutants that no test can or should find; they are not run again unless --recheck is given. --result FILE stores the
score and every survivor as JSON, and --again FILE judges those survivors again after tests were added. Apart from FILE
nothing is written into the repository. Needs `pip install coverage`.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tools.mutation.campaign import (
    KILLED,
    LISTED,
    REPOSITORY,
    SURVIVED,
    FirstFailure,
    Outcome,
    campaign,
    counts,
    draw,
    known_survivors,
    parser,
    print_conclusion,
    share,
)
from tools.mutation.python_faults import PythonMutant, mutants

if TYPE_CHECKING:
    import coverage

SCOPE = [
    "gpuconv/training",
    "gpuconv/data",
    "gpuconv/layers",
    "gpuconv/cli",
    "gpuconv/backends/cpu",
    "gpuconv/backends/reference",
    "gpuconv/losses.py",
    "gpuconv/system/files.py",
    "gpuconv/system/locks.py",
]
SURVIVORS = Path(__file__).with_name("library_survivors.toml")
REQUIRED_SHARE = 0.90
TESTS = ["tests"]
NOT_OF_THE_LIBRARY = ["tests/kernels", "tests/backends/cuda", "tests/bench", "tests/ci", "tests/profiling"]
AT_MOST = 60.0  # seconds of tests for a mutant, as recorded
FIRST = 20  # tests that run before the other test files are imported
SECONDS, FACTOR = 30.0, 6.0  # time limit of a mutant: SECONDS plus FACTOR times its tests' time
# Imported once, in the parent process, instead of by the tests in each process.
FOREIGN = [
    "numpy",
    "ml_dtypes",
    "safetensors.numpy",
    "threadpoolctl",
    "tqdm",
    "nvtx",
    "PIL.Image",
    "matplotlib.backends.backend_agg",
    "scipy.signal",
    "scipy.special",
    "torch",
]


def files() -> list[str]:
    """The library's files to mutate."""
    found = [REPOSITORY / name for name in SCOPE]
    paths = [path for entry in found for path in (sorted(entry.rglob("*.py")) if entry.is_dir() else [entry])]
    return [str(path.relative_to(REPOSITORY)) for path in paths if path.exists()]


# --- which tests run a line ---------------------------------------------------------------------


@dataclass
class Record:
    """The results of running the tests on the shipped library."""

    seconds: dict[str, float] = field(default_factory=dict)  # of each test
    starters: list[str] = field(default_factory=list)  # tests that start processes, whose lines are not recorded
    failed: list[str] = field(default_factory=list)
    lines: dict[str, dict[int, list[str]]] = field(default_factory=dict)  # for each file: the tests that run each line

    def tests(self, mutant: PythonMutant) -> list[str]:
        """The tests that could find a mutant, in the order to run them: as many as fit into AT_MOST seconds."""
        package = Path(mutant.file).parts[1].removesuffix(".py")
        near = (f"tests/{package}/", f"tests/test_{package}.py")
        lines = self.lines.get(mutant.file, {})
        ran = {test for line in mutant.lines for test in lines.get(line, ())}
        if ran == {""}:  # only the import of the file runs the mutant's lines
            ran = {test for tests in lines.values() for test in tests}
            ran.update(test for test in self.seconds if test.startswith(near))
        ran.update(test for test in self.starters if test.startswith(near) or not ran)
        able = ran - {"", *self.failed}
        chosen = sorted(able, key=lambda test: (not test.startswith(near), self.seconds[test]))
        total, kept = 0.0, []
        for test in chosen:
            total += self.seconds[test]
            if total > AT_MOST and kept:
                break
            kept.append(test)
        return kept


class Recorder:
    """A pytest plugin that fills a `Record` except its lines, and tells coverage which test runs."""

    def __init__(self, watch: coverage.Coverage) -> None:
        self.watch, self.record = watch, Record()
        self.current = ""
        sys.addaudithook(self._audit)

    def _audit(self, event: str, _: tuple) -> None:
        started = event in ("subprocess.Popen", "os.posix_spawn", "os.fork")
        if started and self.current not in ("", *self.record.starters):
            self.record.starters.append(self.current)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.current = item.nodeid
        self.watch.switch_context(item.nodeid)
        begin = time.perf_counter()
        result = yield
        self.record.seconds[item.nodeid] = time.perf_counter() - begin
        self.watch.switch_context("")
        self.current = ""
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.record.failed.append(report.nodeid)


def record(tree: Path, tests: list[str]) -> Record:
    """Run the tests in a copy of the repository. Raises RuntimeError if they cannot be run."""
    import coverage

    watch = coverage.Coverage(data_file=None, source=[str(tree / "gpuconv")], config_file=False)
    watch.start()
    recorder = Recorder(watch)
    ignored = [f"--ignore={name}" for name in NOT_OF_THE_LIBRARY]
    status, output = _pytest(tree, [*ignored, *tests], recorder)
    watch.stop()
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise RuntimeError(f"the tests of the shipped library do not run:\n{output}")
    data = watch.get_data()
    for name in files():
        recorder.record.lines[name] = data.contexts_by_lineno(str(tree / name))
    return recorder.record


def _pytest(tree: Path, arguments: Iterable[str], *plugins: object) -> tuple[int, str]:
    """The status and output of a pytest run in this process, which must not have imported the library from another
    folder."""
    os.chdir(tree)
    sys.path[:] = [str(tree), *(entry for entry in sys.path if Path(entry or ".").resolve() != REPOSITORY)]
    os.environ["PYTHONPATH"] = str(tree)
    scratch, output = tree.parent / "scratch", io.StringIO()
    scratch.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
    with contextlib.redirect_stdout(output):
        status = pytest.main(["-p", "no:cacheprovider", f"--rootdir={tree}", *arguments], list(plugins))
    return int(status), output.getvalue()


def run_in_process(work, *arguments):
    """The result of `work` in a separate process. Raises RuntimeError if `work` raises."""

    def child() -> None:
        try:
            sender.send((work(*arguments), ""))
        except Exception as error:
            sender.send((None, str(error)))
        finally:
            os._exit(0)

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=child)
    process.start()
    sender.close()
    result, problem = receiver.recv()
    process.join()
    if problem:
        raise RuntimeError(problem)
    return result


# --- one mutant --------------------------------------------------------------------------------


class SelectTests:
    """A pytest plugin: run only these tests, in this order."""

    def __init__(self, tests: list[str]) -> None:
        self.order = {test: index for index, test in enumerate(tests)}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.order), key=lambda i: self.order[i.nodeid])


def run_tests(tree: Path, tests: list[str]) -> tuple[int, str]:
    """Run tests until one fails: pytest's status, and the name of the one that failed."""
    failure, status = FirstFailure(), 0
    for part in filter(None, (tests[:FIRST], tests[FIRST:])):
        paths = sorted({test.split("::")[0] for test in part})
        status, _ = _pytest(tree, ["-x", *paths], SelectTests(part), failure)
        if status:
            break
    return status, failure.nodeid


def judge(mutant: PythonMutant, tree: Path, tests: list[str]) -> tuple[str, str]:
    """Whether the tests kill a mutant, and which one did. Runs in a separate process."""
    if not tests:
        return SURVIVED, "no test runs it"
    with tempfile.TemporaryDirectory(prefix="mutant-", dir=tree.parent) as folder:
        copied = Path(folder) / "tree"
        shutil.copytree(tree, copied)
        changed = copied / mutant.file
        changed.write_text(mutant.apply(changed.read_text(encoding="utf-8")), encoding="utf-8")
        sys.dont_write_bytecode = True
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        status, failed = run_tests(copied, tests)
        os.chdir(tree)
    if status == 0:
        return SURVIVED, f"{len(tests)} tests pass"
    return KILLED, failed or f"pytest ends with status {status}"


# --- all of them -------------------------------------------------------------------------------


def copy_of_the_repository(folder: Path) -> Path:
    """A copy, in `folder`, of all files that git tracks or would track."""
    tree = folder / "tree"
    for name in _git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, tree / name)
    # Python compares these bytecode files with the source's hash. The source's size and modification time would not do,
    # because a mutant may have those of the file that it replaces.
    compiled = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "gpuconv"]
    subprocess.run(compiled, cwd=tree, check=True)
    return tree


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, encoding="utf-8", check=True
    ).stdout


def result(outcomes: list[Outcome], found: dict[str, Counter[str]], about: dict[str, object]) -> dict[str, object]:
    """The score and every survivor as JSON values."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _git("rev-parse", "--short=10", "HEAD").strip(),
        "sample": about["sample"],
        "seed": about["seed"],
        "share": round(share(found["all"]), 4),
        "counts": {name: dict(sorted(count.items())) for name, count in found.items()},
        "survivors": [
            {
                "file": m.file,
                "where": m.where,
                "line": m.before,
                "mutant": m.after,
                "verdict": outcome.verdict,
                "reason": outcome.why,
            }
            for outcome in outcomes
            if outcome.verdict in (SURVIVED, LISTED)
            for m in [outcome.mutant]
        ],
    }


def survivors_still_present(earlier: dict, everything: list[PythonMutant]) -> list[PythonMutant]:
    """The survivors of an earlier result that still occur in the library."""
    keys = {(entry["file"], entry["where"], entry["line"], entry["mutant"]) for entry in earlier["survivors"]}
    return list({mutant.key: mutant for mutant in everything if mutant.key in keys}.values())


def replace_counts(earlier: dict, found: dict[str, Counter[str]]) -> dict[str, Counter[str]]:
    """The counts of an earlier result, with the new verdicts on its survivors."""
    before = {name: Counter(count) for name, count in earlier["counts"].items()}
    for name, count in before.items():
        count[SURVIVED] = count[LISTED] = 0
        count.update(found.get(name, {}))
    return before


def _package(mutant: PythonMutant) -> str:
    return str(Path(mutant.file).parent if mutant.file.count("/") > 1 else mutant.file)


def main() -> int:
    options = parser(__doc__, processes=2)
    options.add_argument("--tests", action="append", metavar="PATH", help="only these tests; may be repeated")
    options.add_argument("--again", type=Path, metavar="FILE", help="only the survivors of an earlier --result")
    options.add_argument("--result", type=Path, metavar="FILE", help="write the score and the survivors there")
    options = options.parse_args()
    if unknown := set(options.file or ()) - set(files()):
        sys.exit(f"no file of the library: {', '.join(sorted(unknown))}")
    known = known_survivors(SURVIVORS)
    earlier = json.loads(options.again.read_text(encoding="utf-8")) if options.again else None
    chosen = options.file or files()
    everything = [
        mutant for name in chosen for mutant in mutants(name, (REPOSITORY / name).read_text(encoding="utf-8"))
    ]
    if stale := {key for key in known if key[0] in chosen} - {mutant.key for mutant in everything}:
        print("listed, but no such mutant:", *sorted(stale), sep="\n    ")
    for name in FOREIGN:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        tree = copy_of_the_repository(Path(folder))
        begin = time.monotonic()
        seen = run_in_process(record, tree, options.tests or TESTS)
        print(f"{len(seen.seconds)} tests recorded in {time.monotonic() - begin:.0f} s", flush=True)
        if seen.failed:
            print("left out, as they fail on the shipped library:", *seen.failed, sep="\n    ", flush=True)
        tests = functools.cache(seen.tests)
        drawn = survivors_still_present(earlier, everything) if earlier else draw(everything, options)
        outcomes = campaign(
            drawn,
            known,
            lambda mutant: judge(mutant, tree, tests(mutant)),
            options,
            lambda mutant: SECONDS + FACTOR * sum(seen.seconds[test] for test in tests(mutant)),
        )
        finders = [o.why for o in outcomes if o.verdict == KILLED and o.why in seen.seconds]
        status, failed = run_in_process(run_tests, tree, list(dict.fromkeys(finders)))
    if finders and status:
        print(f"a test that found a fault also fails on the shipped library: {failed or status}")
        return 1
    found = counts(outcomes, _package)
    if earlier:
        found = replace_counts(earlier, found)
    if options.result:
        about = {name: earlier[name] for name in ("sample", "seed")} if earlier else vars(options)
        options.result.write_text(json.dumps(result(outcomes, found, about), indent=2) + "\n", encoding="utf-8")
    return print_conclusion(found, REQUIRED_SHARE)


if __name__ == "__main__":
    sys.exit(main())
