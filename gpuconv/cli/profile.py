"""Profile a training step: for each layer and direction its time, work, rates and launched kernels.

On the emulated device nothing is timed: the table shows the launches, and the resources that each kernel takes on a
GPU. docs/profiling.md explains the table, and how to continue with Nsight."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from gpuconv.cli import json_output
from gpuconv.cli.device_option import choose_device
from gpuconv.cli.errors import UserError, expect_place, user_errors
from gpuconv.cli.option_types import count
from gpuconv.cli.output_lines import print_line
from gpuconv.cli.shared_options import add_step_options
from gpuconv.devices import Device
from gpuconv.system import files
from gpuconv.system.console import is_quiet
from gpuconv.text.plain_text import padded
from gpuconv.types import Record

if TYPE_CHECKING:
    from gpuconv.inspect.profile import Profile, Row
    from gpuconv.profiling.work import Ceilings


EXAMPLES = [
    "gpuconv profile",
    "gpuconv profile --model resnet20 --batch-size 128 --precision bfloat16 --device cuda",
    "gpuconv profile --model tiny-vgg --trace step.json",
    "gpuconv profile --model vgg-cifar --no-fuse --device emulated --arch sm_100a",
]

HEADER = f"{'layer':<28} {'time':>10} {'share':>6} {'MFLOP':>9} {'MB':>8} {'GFLOP/s':>9} {'GB/s':>7} {'of roof':>8}"


def configure(parser: argparse.ArgumentParser) -> None:
    add_step_options(parser, "the net")
    parser.add_argument(
        "--fuse",
        action=argparse.BooleanOptionalAction,
        help="fuse layers into one op where possible (default: on all devices but numpy, as in training)",
    )
    parser.add_argument(
        "--steps", metavar="N", type=count(1), default=10, help="the number of timed steps (default: 10)"
    )
    parser.add_argument(
        "--trace", metavar="FILE", type=Path, help="write a trace of one step for chrome://tracing or Perfetto"
    )
    parser.add_argument(
        "--peaks", action=argparse.BooleanOptionalAction, default=True, help="also measure the device's peak rates"
    )
    parser.add_argument(
        "--arch", metavar="NAME", help="the architecture of the emulated device's kernels (default: sm_90a)"
    )


def run(options: argparse.Namespace) -> int:
    from gpuconv.backends.cuda.runtime.nvrtc import known_architectures
    from gpuconv.cli import nets
    from gpuconv.inspect.profile import profile
    from gpuconv.names import canonical
    from gpuconv.profiling import peaks

    with user_errors():
        arch = canonical("architecture", options.arch, known_architectures()) if options.arch else "sm_90a"
        nets.build_for_step(options.model, precision=options.precision, initialize=False)
        if options.trace:
            expect_place("--trace", options.trace)
    device = choose_device(options)
    named = Device.named(device)
    if named.emulated and options.trace:
        raise UserError("the emulated device has no times to trace; --trace works on numpy and cuda")
    if not named.emulated and options.arch:
        raise UserError("--arch is for the emulated device; a GPU's kernels are compiled for that GPU")
    with user_errors():
        net = nets.build_for_step(options.model, precision=options.precision, device=device)
    fuse = named.runs_kernels if options.fuse is None else options.fuse
    print_line("step", f"{options.model}{' fused' * fuse}, {options.batch_size} images, {options.precision}")
    found = profile(net, options.batch_size, steps=options.steps, fuse=fuse, arch=arch)
    ceilings = peaks.measure(device, seconds=0.1)[0] if options.peaks and found.timeline else None
    rows = [
        {
            "layer": row.name,
            "direction": row.direction,
            "seconds": row.seconds,
            "flops": row.work.flops,
            "bytes": row.work.bytes,
            "kernels": row.launches,
        }
        for row in found.rows
    ]
    json_output.note(
        model=options.model,
        device=found.device,
        precision=found.precision,
        batch_size=found.batch_size,
        arch=found.arch,
        ceilings=ceilings,
        rows=rows,
    )
    if not is_quiet():
        print()
    print(text(found, ceilings))
    if options.trace:
        files.write(options.trace, found.trace())
        print()
        print_line("trace", f"{options.trace} (open it in ui.perfetto.dev or chrome://tracing)")
    return 0


def text(found: Profile, ceilings: Ceilings | None) -> str:
    """The profile as a table: a line for each layer and direction, followed by one for each kernel."""
    total = found.total
    lines = [HEADER, "-" * len(HEADER)]
    for row in found.rows:
        lines.append(_row(row, total.seconds, ceilings, found.precision))
        for kernel in row.launches:
            lines.append(f"    {_kernel(kernel)}")
            lines += [f"        {kernel['proof']}"] if "proof" in kernel else []
    lines += ["-" * len(HEADER), _row(total, total.seconds, ceilings, found.precision), ""]
    if total.seconds is None:
        lines.append("no times: the emulated device checks kernels and says nothing about their speed")
    elif ceilings:
        rate = ceilings.matrix.get(found.precision)
        peak = f"{rate / 1e9:.4g} GFLOP/s" if rate else "not measured"
        lines += [
            f"roof: copies {ceilings.copy / 1e9:.3g} GB/s, {found.precision} products {peak}; on {found.device}",
            "of roof: the least time at these rates / the time taken; above 100 % where a cache holds the volumes",
        ]
    launched = sum(kernel["launches"] for row in found.rows for kernel in row.launches)
    if launched:
        lines.append(f"{launched} launches a step" + (f"; compiled for {found.arch}" if found.arch else ""))
    if found.unknown:
        lines.append(f"registers and occupancy are unknown: {' '.join(found.unknown.split())}")
    return "\n".join(lines)


def _row(row: Row, total: float | None, ceilings: Ceilings | None, precision: str) -> str:
    name, work = f"{row.name} {row.direction}".strip(), row.work
    cells = [f"{work.flops / 1e6:>9.4g}" if work.flops else f"{'-':>9}", f"{work.bytes / 1e6:>8.3g}"]
    if not row.seconds:
        return " ".join([f"{padded(name, 28)} {'-':>10} {'-':>6}", *cells, f"{'-':>9} {'-':>7} {'-':>8}"])
    cells = [f"{1e3 * row.seconds:>8.3f}ms", f"{row.seconds / total:>6.1%}" if total else "", *cells]
    cells.append(f"{work.flops / row.seconds / 1e9:>9.4g}" if work.flops else f"{'-':>9}")
    cells.append(f"{work.bytes / row.seconds / 1e9:>7.3g}")
    cells.append(f"{work.floor(ceilings, precision) / row.seconds:>8.1%}" if ceilings else f"{'-':>8}")
    return " ".join([padded(name, 28), *cells])


def _kernel(kernel: Record) -> str:
    often = f"{kernel['launches']} times " if kernel["launches"] > 1 else ""
    name = " ".join([kernel["kernel"], kernel["algorithm"] or ""])
    text = f"{name:<32} {often}{kernel['blocks']} x {kernel['threads']} threads"
    if "registers" in kernel:
        text += f", {kernel['registers']} registers"
    return text + (f", {kernel['occupancy']:.0%} occupancy" if "occupancy" in kernel else "")
