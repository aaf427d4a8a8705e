"""Replace a shipped kernel by your own .cu: check it against the oracle, and compare its time with the shipped one's.

Begin with --template, which prints the shipped file. Status 1 if a case fails. On the emulated device nothing is timed,
because its speed says nothing about a GPU's."""

from __future__ import annotations

import argparse
from pathlib import Path

from gpuconv.cli import json_output
from gpuconv.cli.device_option import add_device, choose_device
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.output_lines import print_line
from gpuconv.devices import Device

EXAMPLES = [
    "gpuconv lab --op conv2d --template > my_conv.cu",
    "gpuconv lab my_conv.cu --op conv2d",
    "gpuconv lab my_conv.cu --op conv2d --device emulated",
    "gpuconv lab my_conv.cu --op conv2d --algo mma-128x128 --dtype bfloat16",
]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", type=Path, help="your .cu file")
    parser.add_argument("--op", required=True, metavar="NAME", help="the op that your file implements")
    parser.add_argument(
        "--algo",
        metavar="NAME",
        help="for a matrix product, the algorithm that your file implements (default: the first simt algorithm)",
    )
    parser.add_argument("--template", action="store_true", help="print the op's shipped file as a starting point")
    parser.add_argument(
        "--dtype",
        action="append",
        metavar="NAME",
        help="only this dtype (may be given more than once; the first one is timed, by default float32)",
    )
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    from gpuconv import lab, verify
    from gpuconv.cli.verify import HEADER, describe, facts

    with user_errors():
        shipped = lab.shipped_file(options.op, options.algo)
        if options.template and options.file:
            raise UserError(f"--template prints the shipped file; leave {options.file} out, or write > {options.file}")
        if options.template:
            json_output.note(template=lab.template(options.op, options.algo))
            print(lab.template(options.op, options.algo), end="")
            return 0
        if options.file is None:
            raise UserError("give your .cu file, or print the shipped one with --template")
        if not options.file.is_file():
            raise UserError(f"{options.file}: no such file")
        dtypes = lab.served_dtypes(options.op, tuple(options.dtype or verify.DTYPES), options.algo)
        lab.check_signatures(options.file, options.op, options.algo)
    device = choose_device(options)
    named = Device.named(device)
    if not named.runs_kernels:
        raise UserError("kernels run only on cuda or, without a GPU, with --device emulated")
    print_line("kernel", f"{options.file} in place of {shipped}\n")
    print(HEADER)
    failed = 0
    for row in lab.check(options.file, options.op, device, dtypes, options.algo):
        failed += row.smallest_failure is not None
        json_output.add("rows", facts(row))
        print(describe(row), flush=True)
    json_output.note(kernel=options.file, shipped=shipped, device=device, failed=failed)
    if failed:
        print("\nnot timed: the kernel's results are wrong")
        return 1
    if not named.on_gpu:
        print("\nnot timed: a kernel's speed can be measured only on a GPU")
        return 0
    timed = "float32" if not options.dtype and "float32" in dtypes else dtypes[0]
    print(f"\n{f'case, in {timed}':<60} {'yours ms':>10} {'shipped ms':>10} {'ratio':>7}")
    for timing in lab.compare(options.file, options.op, device, timed, options.algo):
        times = {"yours_ms": timing.yours, "shipped_ms": timing.shipped}
        json_output.add("timings", {"case": timing.case.name, "dtype": timed, **times})
        print(
            f"{timing.case.name:<60} {timing.yours:>10.4f} {timing.shipped:>10.4f}"
            f" {timing.yours / timing.shipped:>6.2f}x"
        )
    return 0
