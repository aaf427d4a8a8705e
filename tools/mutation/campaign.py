"""Common parts of mutation runs: mutants, the list of known survivors, a process for each mutant, the table."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import multiprocessing
import os
import random
import re
import signal
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
KILLED, SURVIVED, INVALID, LISTED = "killed", "survived", "does not compile", "listed"
BROKEN = "broken"  # the tool itself failed


@dataclass(frozen=True)
class Mutant:
    """A file with one fault: its `text[start:end]` is replaced."""

    file: str
    start: int
    end: int
    replacement: str
    line: int
    before: str  # the complete lines, stripped, without the fault
    after: str  # the same with the fault
    where: str = ""  # the function, if known

    @classmethod
    def of(cls, file: str, text: str, start: int, end: int, replacement: str, where: str = "") -> Mutant:
        begin = text.rfind("\n", 0, start) + 1
        stop = found if (found := text.find("\n", end)) >= 0 else len(text)
        changed = text[begin:start] + replacement + text[end:stop]
        line = text.count("\n", 0, start) + 1
        return cls(file, start, end, replacement, line, text[begin:stop].strip(), changed.strip(), where)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """Identifies the mutant, also after edits to other lines or to comments at the ends of its lines."""
        before, after = (re.sub("  (//|#) .*", "", lines) for lines in (self.before, self.after))
        return self.file, self.where, before, after

    def apply(self, text: str) -> str:
        return text[: self.start] + self.replacement + text[self.end :]


@dataclass(frozen=True)
class Outcome:
    mutant: Mutant
    verdict: str
    why: str = ""  # what killed it, or why it was not killed


Judge = Callable[[Mutant], tuple[str, str]]


def parser(description: str | None, processes: int) -> argparse.ArgumentParser:
    """The options that every mutation run has."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--file", action="append", metavar="NAME", help="only this file; may be repeated")
    result.add_argument("--sample", type=_count, metavar="N", help="only N mutants, drawn at random")
    result.add_argument("--each", action="store_true", help="draw N mutants of each file")
    result.add_argument("--seed", type=int, default=0, help="seed of the draw")
    result.add_argument("--recheck", action="store_true", help="run the listed survivors too")
    result.add_argument("--processes", type=_count, default=processes)
    result.add_argument("--verbose", action="store_true", help="print what killed each mutant")
    return result


def _count(text: str) -> int:
    """The type of an option that is a whole number above 0. gpuconv's own option type is not used: the process
    whose forks test the mutants must not import gpuconv."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, received {text!r}")
    return int(text)


def draw(mutants: list[Mutant], options: argparse.Namespace) -> list[Mutant]:
    groups = [mutants]
    if options.each:
        groups = [list(group) for _, group in itertools.groupby(mutants, lambda mutant: mutant.file)]
    return [mutant for group in groups for mutant in _sample(group, options.sample, options.seed)]


def _sample(mutants: list[Mutant], size: int | None, seed: int) -> list[Mutant]:
    return mutants if size is None or size >= len(mutants) else random.Random(seed).sample(mutants, size)


def known_survivors(path: Path) -> dict[tuple[str, str, str, str], str]:
    """The survivors in a TOML file, with reasons."""
    entries = tomllib.loads(path.read_text(encoding="utf-8")).get("survivor", []) if path.exists() else []
    return {(e["file"], e.get("where", ""), e["line"], e["mutant"]): e["reason"] for e in entries}


def campaign(
    chosen: list[Mutant],
    known: dict[tuple[str, str, str, str], str],
    judge: Judge,
    options: argparse.Namespace,
    seconds: Callable[[Mutant], float] | None = None,
) -> list[Outcome]:
    """Judge the chosen mutants and print those that need attention. seconds: the time limit per mutant."""
    skipped = [mutant for mutant in chosen if mutant.key in known and not options.recheck]
    outcomes = [Outcome(mutant, LISTED, known[mutant.key]) for mutant in skipped]
    judged = [mutant for mutant in chosen if options.recheck or mutant.key not in known]
    for done, outcome in enumerate(_until_ctrl_c(_run(judged, judge, options.processes, seconds)), 1):
        mutant, verdict, why = outcome.mutant, outcome.verdict, outcome.why
        if mutant.key in known and verdict == SURVIVED:
            outcome = Outcome(mutant, LISTED, known[mutant.key])
        elif mutant.key in known:
            print(f"listed, but {verdict}:")
        outcomes.append(outcome)
        if verdict == SURVIVED or mutant.key in known or options.verbose:
            print(f"{done}/{len(judged)} {mutant.file}:{mutant.line} {mutant.where} {outcome.verdict}")
            print(f"  - {mutant.before}\n  + {mutant.after}\n  {why}", flush=True)
    return outcomes


def _until_ctrl_c(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """Ctrl-C ends a run early, with what was judged so far."""
    with contextlib.suppress(KeyboardInterrupt):
        yield from outcomes


def _run(
    mutants: list[Mutant], judge: Judge, processes: int, seconds: Callable[[Mutant], float] | None
) -> Iterator[Outcome]:
    """Judge each mutant in a separate process, a few at a time."""
    context = multiprocessing.get_context("fork")
    waiting, running = list(reversed(mutants)), {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                mutant = waiting.pop()
                receiver, sender = context.Pipe(duplex=False)
                child = context.Process(target=_child, args=(judge, mutant, sender))
                child.start()
                sender.close()
                deadline = time.monotonic() + seconds(mutant) if seconds else float("inf")
                running[child.sentinel] = child, receiver, mutant, deadline
            left = min(deadline for *_, deadline in running.values()) - time.monotonic()
            ended = wait(list(running), None if left == float("inf") else max(left, 0))
            late = [sentinel for sentinel, (*_, deadline) in running.items() if deadline <= time.monotonic()]
            for sentinel in {*ended, *late}:
                child, receiver, mutant, _ = running.pop(sentinel)
                _end(child)
                try:
                    verdict, why = receiver.recv()
                except EOFError:  # the process died without a result
                    verdict, why = KILLED, "takes too long" if sentinel in late else f"exit status {child.exitcode}"
                if verdict == BROKEN:
                    raise RuntimeError(f"{mutant.file}:{mutant.line} cannot be judged:\n{why}")
                yield Outcome(mutant, verdict, why)
    finally:  # after Ctrl-C, Python would wait for the other processes, of which one may never end
        for child, *_ in running.values():
            _end(child)


def _end(child) -> None:
    """Kill a process and those that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.kill()  # if it has no group of its own yet
    child.join()


def _child(judge: Judge, mutant: Mutant, sender) -> None:
    os.setpgid(0, 0)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1), os.dup2(silence, 2)
    try:
        sender.send(judge(mutant))
    except Exception:
        sender.send((BROKEN, traceback.format_exc()))
    finally:
        os._exit(0)


class FirstFailure:
    """A pytest plugin: the name of the first test that failed, and pytest's text about it."""

    nodeid = text = ""

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and not self.nodeid:
            self.nodeid, self.text = report.nodeid or "collection", report.longreprtext

    pytest_collectreport = pytest_runtest_logreport


# --- the table ---------------------------------------------------------------------------------

COLUMNS = (KILLED, LISTED, SURVIVED, INVALID)


def counts(outcomes: Sequence[Outcome], group: Callable[[Mutant], str]) -> dict[str, Counter[str]]:
    """The number of each verdict in each group, and in "all"."""
    found: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        found.setdefault(group(outcome.mutant), Counter())[outcome.verdict] += 1
    return dict(sorted(found.items())) | {"all": sum(found.values(), Counter())}


def share(count: Counter[str]) -> float:
    """The share of killed mutants among those that compile and are not excused by the list."""
    counted = count[KILLED] + count[SURVIVED]
    return count[KILLED] / counted if counted else 1.0


def table(found: dict[str, Counter[str]]) -> str:
    lines = [f"{'':<28}" + "".join(f"{name:>18}" for name in COLUMNS) + f"{'share':>8}"]
    for name, count in found.items():
        lines.append(f"{name:<28}" + "".join(f"{count[column]:>18}" for column in COLUMNS) + f"{share(count):>8.1%}")
    return "\n".join(lines)


def print_conclusion(found: dict[str, Counter[str]], least: float) -> int:
    """Print the table and the share of killed mutants. Returns the exit status: 1 if the share is below `least`."""
    total = found["all"]
    print(f"\n{table(found)}\n")
    print(f"{share(total):.1%} of the mutants die (at least {least:.0%} must); {total[SURVIVED]} survive unexplained")
    return 1 if share(total) < least else 0
