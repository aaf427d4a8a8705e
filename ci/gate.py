"""The GPU gate: one run on a machine with a GPU, from its environment to Nsight Compute, in a box of time.

Every part has a box of its own and writes OUT/PART.log and OUT/PART.json; one that fails or runs out of time costs no
other part. What a part leaves of its time the later ones share. OUT/gate.json, written anew after each part, and the
table at the end say what passed, what failed, and what was not reached, with the reason.

Nothing is installed from a network and gpuconv needs no installation: the parts run in a copy of the tree in which
gpuconv/kernels is a link to kernels/, as pyproject.toml maps it. Python packages are those that are found; wheels of
missing ones can be carried in a folder (--wheels).

Status: 0 all passed, 1 something failed or was not reached, 2 bad usage, 3 no GPU: nothing was proved, 130 stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpuconv import files

ROOT = Path(__file__).resolve().parents[1]
MINUTES = 9.0
GRACE = 5  # seconds between asking a command to stop and killing it
PASSED, FAILED, LATE, NOT_REACHED, STOPPED = "passed", "failed", "out of time", "not reached", "stopped"

_LEFT_BEHIND = shutil.ignore_patterns(
    ".git", ".venv", "venv", "build", "dist", "runs", "wheels", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis"
)


class FailedError(Exception):
    """A part's own verdict; the message is the reason. details: for its JSON."""

    status = FAILED

    def __init__(self, reason: str, **details: Any) -> None:
        super().__init__(reason)
        self.details = details


class LateError(FailedError):
    status = LATE


class NotReachedError(FailedError):
    """What the part needs is not there."""

    status = NOT_REACHED


class NoGpuError(NotReachedError):
    """There is no GPU, so no later part can be reached."""


class UnusableGpuError(NoGpuError):
    """There is one, and gpuconv cannot use it: that is no excuse."""

    status = FAILED


@dataclass(frozen=True)
class Done:
    """A command that ended. code: its status. late: whether its time ran out."""

    code: int
    text: str
    seconds: float
    late: bool = False

    @property
    def last(self) -> str:
        """The last line it said."""
        return next((line.strip() for line in reversed(self.text.splitlines()) if line.strip()), "it said nothing")


@dataclass
class Result:
    part: str
    status: str
    reason: str
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)


@dataclass
class Gate:
    """What parts share: the folder of results, the copy of the tree they run in, the device, and running commands."""

    out: Path
    home: Path
    device: str = "cuda"
    commit: str = "unknown"
    wheels: Path | None = None
    facts: dict[str, Any] = field(default_factory=dict)  # what the first part found out for the others
    _running: set[subprocess.Popen] = field(default_factory=set)

    def run(self, log: str, command: Sequence[str], seconds: float, **environment: str) -> Done:
        """Run a command in the copy for at most that long; what it says is added to OUT/log."""
        path = self.out / log
        path.parent.mkdir(parents=True, exist_ok=True)
        boxed = ["timeout", "--signal=INT", f"--kill-after={GRACE}", f"{max(seconds, 1):.1f}", *command]
        paths = [str(self.out / "packages"), str(self.home)]
        known = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"} | environment
        start = time.monotonic()
        with path.open("ab") as file:
            file.write(f"$ {' '.join(command)}\n".encode())
            file.flush()
            begin = file.tell()
            try:
                process = subprocess.Popen(
                    boxed, cwd=self.home, env=known, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
                )
            except OSError as error:
                return Done(127, f"{command[0]}: {error.strerror}", 0.0)
            self._running.add(process)
            code = process.wait()
            self._running.discard(process)
        said, took = path.read_bytes()[begin:].decode(errors="replace"), time.monotonic() - start
        # `timeout` gives 124, or dies of the SIGKILL that it sends; one that came early is of the lack of memory.
        return Done(code, said, took, late=code in (124, 137, -9) and took >= seconds - 0.5)

    def python(self, log: str, words: Sequence[str], seconds: float, **environment: str) -> Done:
        return self.run(log, [sys.executable, *words], seconds, **environment)

    def together(
        self, commands: Mapping[str, Sequence[str]], seconds: float, workers: int, **environment: str
    ) -> dict[str, Done]:
        """Run commands side by side, begun in their order, each with a log of its own; those that the time did not
        reach are left out. The names are the logs."""
        end = time.monotonic() + seconds

        def one(name: str) -> Done | None:
            left = end - time.monotonic()
            return self.run(name, commands[name], left, **environment) if left > 1 else None

        with ThreadPoolExecutor(workers) as pool:
            try:
                found = dict(zip(commands, pool.map(one, commands)))
            except KeyboardInterrupt:
                end = 0.0  # begins no more
                self.stop()
                raise
        return {name: done for name, done in found.items() if done is not None}

    def stop(self) -> None:
        """End what is running; the copy that it runs in is about to go."""
        running = list(self._running)
        for process in running:
            process.terminate()  # `timeout` hands it on to the command's whole group
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)


Body = Callable[[Gate, float], tuple[str, dict[str, Any]]]


@dataclass(frozen=True)
class Part:
    """weight: its share of the time. body(gate, seconds): returns what to say of it and its JSON, or raises."""

    name: str
    weight: float
    body: Body


def run_parts(parts: Sequence[Part], gate: Gate, seconds: float, report: Callable[[str], None]) -> list[Result]:
    """Run the parts in order; a result for each, whatever happens."""
    end = time.monotonic() + seconds
    results: list[Result] = []
    absent = ""
    for number, part in enumerate(parts):
        left = end - time.monotonic() - GRACE
        box = left * part.weight / sum(later.weight for later in parts[number:])
        start = time.monotonic()
        if absent:
            result = Result(part.name, NOT_REACHED, absent)
        elif box < 1:
            result = Result(part.name, NOT_REACHED, "the time was used up before")
        else:
            report(f"{part.name}: at most {box:.0f} s")
            try:
                reason, details = part.body(gate, box)
                result = Result(part.name, PASSED, reason, details=details)
            except FailedError as error:
                result = Result(part.name, error.status, str(error), details=error.details)
                if isinstance(error, NoGpuError):
                    absent = str(error).partition(":")[0]
            except KeyboardInterrupt:
                gate.stop()
                result = Result(part.name, STOPPED, "Ctrl-C")
                absent = "stopped before"
            except Exception as error:  # a fault of the gate itself must not cost the other parts
                result = Result(part.name, FAILED, f"the gate: {type(error).__name__}: {error}")
            result.seconds = time.monotonic() - start
        results.append(result)
        _write(gate.out / f"{part.name}.json", asdict(result))
        _write(gate.out / "gate.json", {"commit": gate.commit, "parts": [asdict(each) for each in results]})
    return results


def _write(path: Path, data: Any) -> None:
    files.write(path, (json.dumps(data, indent=1) + "\n").encode())


def table(results: Sequence[Result]) -> str:
    lines = [f"{'part':<12} {'result':<12} {'took':>7}  what"]
    for result in results:
        reason = " ".join(result.reason.split())
        took = f"{result.seconds:>6.0f}s" if result.seconds else f"{'-':>7}"
        lines.append(f"{result.part:<12} {result.status:<12} {took}  {reason}")
    counts = {status: sum(result.status == status for result in results) for status in
              (PASSED, FAILED, LATE, STOPPED, NOT_REACHED)}  # fmt: skip
    return "\n".join([*lines, "", ", ".join(f"{count} {status}" for status, count in counts.items() if count)])


def status(results: Sequence[Result], no_gpu: bool) -> int:
    """The exit status."""
    if any(result.status == STOPPED for result in results):
        return 130
    if no_gpu:
        return 3
    return 0 if all(result.status == PASSED for result in results) else 1


def copied(out: Path, scratch: Path) -> Path:
    """A copy of the tree in which gpuconv is a whole package."""
    home = scratch / "gpuconv-gate"

    def ignored(folder: str, names: list[str]) -> set[str]:
        made = {out, ROOT / "kernels"} if Path(folder) != ROOT else {out}  # the link too, in a copy of a copy
        return _LEFT_BEHIND(folder, names) | {name for name in names if (Path(folder) / name).resolve() in made}

    shutil.copytree(ROOT, home, ignore=ignored, symlinks=True)
    (home / "gpuconv" / "kernels").symlink_to(Path("..") / "kernels")
    return home


def commit_here() -> str:
    try:
        head, changed = (
            subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "--short=10", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("-dirty" if changed else "")


def main(argv: Sequence[str] | None = None) -> int:
    from ci.gate_parts import PARTS

    parser = argparse.ArgumentParser("ci/gpu.sh", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for logs, JSON, records and reports")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for all parts together (default {MINUTES:g})")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels of packages that this machine lacks")
    parser.add_argument(
        "--part", action="append", choices=[part.name for part in PARTS], help="only this part (repeatable)"
    )
    parser.add_argument("--commit", help="what to call this version where git cannot tell")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1; or numpy, to rehearse the gate itself")
    options = parser.parse_args(argv)
    if not options.minutes > 0:
        parser.error(f"--minutes must be above 0, received {options.minutes:g}")
    if options.wheels and not options.wheels.is_dir():
        parser.error(f"--wheels: {options.wheels} is no folder")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    chosen = [part for part in PARTS if not options.part or part.name in options.part or part is PARTS[0]]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        gate = Gate(
            out, copied(out, Path(scratch)), options.device, options.commit or commit_here(),
            options.wheels and options.wheels.resolve(),
        )  # fmt: skip
        for part in chosen:
            (out / f"{part.name}.log").unlink(missing_ok=True)
        left = 60 * options.minutes - (time.monotonic() - start)
        results = run_parts(chosen, gate, left, lambda text: print(text, flush=True))
    print(f"\n{table(results)}")
    no_gpu = "no gpu" in gate.facts and results[0].status == NOT_REACHED
    if no_gpu:
        print("NO GPU: nothing was proved")
    return status(results, no_gpu)


if __name__ == "__main__":
    from ci import gate as module  # not __main__'s own classes: the parts raise those of the module

    sys.exit(module.main())
