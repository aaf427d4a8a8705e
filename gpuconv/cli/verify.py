"""Compare every operation on a device with the oracle in float64, and print its worst error and the error bound.

Status 1 if an operation fails; its smallest failing case is named. Without a GPU, --device emulated runs the same
kernels on the CPU; --device numpy checks the fast NumPy code."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from gpuconv.cli import json_output
from gpuconv.cli.device_option import add_device, choose_device
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.output_lines import print_line
from gpuconv.system.console import progress_bar
from gpuconv.types import Record

if TYPE_CHECKING:
    from gpuconv.verify.run import Row

EXAMPLES = [
    "gpuconv verify",
    "gpuconv verify --device emulated --tier tiny --tier odd",
    "gpuconv verify --device numpy",
    "gpuconv verify --op conv2d --op conv2d_wgrad --dtype float16",
]


HEADER = f"{'op':<27} {'dtype':<9} {'cases':>5} {'worst error':>12} {'its bound':>10} {'share':>6}"


def configure(parser: argparse.ArgumentParser) -> None:
    from gpuconv.cli import option_types

    add_device(parser)
    parser.add_argument("--op", action="append", metavar="NAME", help="only this op (may be given more than once)")
    parser.add_argument(
        "--dtype", action="append", metavar="NAME", help="only this dtype (may be given more than once)"
    )
    parser.add_argument("--tier", action="append", metavar="NAME", help="only these cases: tiny, odd, real or random")
    parser.add_argument(
        "--seed",
        type=option_types.count(0),
        default=0,
        metavar="N",
        help="seed of the inputs and of the random tier (default: 0)",
    )


def run(options: argparse.Namespace) -> int:
    from gpuconv import ops, verify
    from gpuconv.dtypes import full_name
    from gpuconv.names import distinct, lookup

    with user_errors():
        names = {op: op for op in ops.__all__}
        chosen_ops = [lookup("op", op, names) for op in options.op or ops.__all__]
        dtypes = distinct("dtype", map(full_name, options.dtype or verify.DTYPES), verify.DTYPES)
        tiers = distinct("tier", options.tier or verify.TIERS, verify.TIERS)
    cases = [case for case in verify.cases(tiers, seed=options.seed) if case.op in chosen_ops]
    total = len({(case.op, dtype) for case in cases for dtype in dtypes if dtype in case.dtypes})
    if not total:
        raise UserError(
            f"there is no case for {', '.join(chosen_ops)} in {', '.join(dtypes)}, tiers {', '.join(tiers)}"
        )
    device = choose_device(options)
    number = len({case.op for case in cases})
    print_line("cases", f"{len(cases)} of {number} op{'s' * (number > 1)}, tiers {', '.join(tiers)}\n")

    print(HEADER)
    failed, rows = 0, verify.verify(cases, dtypes, device, options.seed)
    with progress_bar(total=total, desc="verify", leave=False, disable=None) as progress:
        for row in rows:
            failed += row.smallest_failure is not None
            json_output.add("rows", facts(row))
            progress.write(describe(row))
            progress.update()
    json_output.note(device=device, failed=failed, passed=total - failed)
    print(f"\n{failed} of {total} failed" if failed else f"\nall {total} pass on {device}")
    return 1 if failed else 0


def facts(row: Row) -> Record:
    """A row for a document."""
    worst, failed = row.worst, row.smallest_failure
    return {
        "op": row.op,
        "dtype": row.dtype,
        "cases": len(row.outcomes),
        "worst_error": worst.error,
        "bound": worst.bound,
        "passed": failed is None,
        "failure": failed and {"case": failed.case.name, "problem": failed.failure},
    }


def describe(row: Row) -> str:
    worst, failed = row.worst, row.smallest_failure
    text = (
        f"{row.op:<27} {row.dtype:<9} {len(row.outcomes):>5} {worst.error:>12.3g} {worst.bound:>10.3g}"
        f" {worst.share:>6.0%}  {'FAIL' if failed else 'PASS'}"
    )
    if failed:
        text += f"\n    smallest failing case ({failed.case.tier}): {failed.case.name}\n    {failed.failure}"
    return text
