"""Where did two runs go apart? Compare the digests of two runs of `gpuconv train --digests`: the first step and tensor
(a layer's output, a gradient, an updated parameter) that differs.

On one machine the bits decide; on two, a difference must be beyond what rounding explains. Status 1 if they differ."""

from __future__ import annotations

import argparse

from gpuconv.cli import document
from gpuconv.cli.errors import asked

EXAMPLES = ["gpuconv bisect runs/digits-digits-net-1 runs/digits-digits-net-2", "gpuconv bisect here.jsonl there.jsonl"]


def configure(parser: argparse.ArgumentParser) -> None:
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), help="a run's folder, or a file of digests")


def run(options: argparse.Namespace) -> int:
    return _runs(options)


def _runs(options: argparse.Namespace) -> int:
    from gpuconv.inspect.bisect_runs import bisect_runs

    with asked():
        found = bisect_runs(options.a, options.b)
    facts = {name: value for name, value in vars(found).items() if name not in ("bits", "beyond")}
    document.note(**facts, bits=found.bits, beyond=found.beyond, agree=found.found is None)
    print(found)
    return int(found.found is not None)
