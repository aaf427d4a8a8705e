"""One run on a machine with a GPU: correctness, speed and its causes, and questions that only a GPU answers.

Parts run in order, each with a time limit. Whatever a check runs on the GPU is a child process, which is killed when
its time is up. So a child that hangs or crashes affects no other check. OUT holds gate.json and logs.zip (both
rewritten after every check), ncu.zip, and the benchmark's record in results/.

Nothing is installed from a network and gpuconv needs no installation: checks run in a copy of the tree. Wheels of
missing packages can be supplied with --wheels, and compiled kernels (see ci/pack_cubins.py) with --cubins.

Status: 0: all passed. 1: something failed or was not reached. 2: bad usage. 3: there is no GPU, so nothing was proved.
130: stopped.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ci.gate.commands import Gate
from ci.gate.parts import ALWAYS, EXTRA, PARTS
from ci.gate.results import NOT_REACHED, exit_status, table
from ci.gate.run_parts import Part, run_parts
from ci.gate.tree import ROOT, commit_here, copy_repository


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(
        f"  {part.name:<10} {part.minutes:g} min  {', '.join(check.name for check in part.checks)}"
        + ("   (only when named)" if part in EXTRA else "")
        for part in (*PARTS, *EXTRA)
    )
    parser = argparse.ArgumentParser(
        "ci/gpu.sh",
        description=__doc__,
        epilog=f"parts:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [part.name for part in (*PARTS, *EXTRA)]
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(names)}; by default all but hopper and tests"
    )
    parser.add_argument("--part", action="append", default=[], metavar="PART", dest="more", help="the same as PART")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="folder of results (default $OUT)")
    parser.add_argument(
        "--minutes", type=float, help="time limit for all parts together (default: the sum of their limits)"
    )
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels of packages that this machine lacks")
    parser.add_argument(
        "--cubins", type=Path, metavar="FILE", help="compiled kernels (by default cubins.zip if present)"
    )
    parser.add_argument("--commit", help="the name of this version, if git cannot tell it")
    parser.add_argument("--device", default="cuda", help="cuda (default) or cuda:1")
    parser.add_argument(
        "--rehearse",
        metavar="COMMAND",
        help="run every part at a small size with this Python, to rehearse: 'python -m tests.standin'",
    )
    return parser


def chosen_parts(names: Sequence[str]) -> list[Part]:
    """The named parts in their fixed order, by default `PARTS`; `ALWAYS` precedes them unless "start" is among them."""
    found = [part for part in (*PARTS, *EXTRA) if (part.name in names if names else part in PARTS)]
    return found if found[0].name == ALWAYS.name else [ALWAYS, *found]


def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(argv)
    options.parts += options.more
    known = [part.name for part in (*PARTS, *EXTRA)]
    if unknown := [name for name in options.parts if name not in known]:
        from gpuconv.names import lookup

        try:
            lookup("part", unknown[0], {name: name for name in known})
        except ValueError as error:
            parser.error(str(error))
    if options.out is None:
        parser.error("--out is needed, because $OUT is not set")
    if options.minutes is not None and not options.minutes > 0:
        parser.error(f"--minutes must be above 0, received {options.minutes:g}")
    if options.commit and "/" in options.commit:
        parser.error(f"--commit must not have a slash, received {options.commit!r}")
    if options.wheels and not options.wheels.is_dir():
        parser.error(f"--wheels: {options.wheels} is not a folder")
    if options.cubins and not options.cubins.is_file():
        parser.error(f"--cubins: {options.cubins} is not a file")
    start = time.monotonic()
    out, parts = Path(options.out).resolve(), chosen_parts(options.parts)
    out.mkdir(parents=True, exist_ok=True)
    cubins = options.cubins or ROOT / "cubins.zip"
    minutes = options.minutes or sum(part.minutes for part in parts)
    with tempfile.TemporaryDirectory() as scratch:
        logs = Path(scratch) / "logs"
        logs.mkdir()
        gate = Gate(
            out,
            copy_repository(out, Path(scratch)),
            logs,
            options.device,
            options.commit or commit_here(),
            options.wheels and options.wheels.resolve(),
            cubins.resolve() if cubins.is_file() else None,
            small=options.rehearse is not None,
        )
        if options.rehearse:
            gate.python = tuple(shlex.split(options.rehearse))
            gate.environment["GPUCONV_AUTOTUNE"] = "0"
        left = 60 * minutes - (time.monotonic() - start)
        results = run_parts(parts, gate, left, lambda text: print(text, flush=True))
    print(f"\n{table(results)}")
    no_gpu = "no gpu" in gate.facts and results[0].status == NOT_REACHED
    if no_gpu:
        print("NO GPU: nothing was proved")
    return exit_status(results, no_gpu)


if __name__ == "__main__":
    sys.exit(main())
