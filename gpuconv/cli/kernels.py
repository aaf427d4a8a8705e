"""List the CUDA kernels; with --report, compile them all (no GPU needed) and print the resources of each one.

Status 1 if a kernel spills registers, uses local memory or does not compile."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from gpuconv.cli import json_output
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.option_types import count
from gpuconv.system.console import progress_bar
from gpuconv.system.processor import available_cores

if TYPE_CHECKING:
    from gpuconv.backends.cuda.analysis.resources import Line

EXAMPLES = [
    "gpuconv kernels",
    "gpuconv kernels --report",
    "gpuconv kernels --report --arch sm_90a --file conv2d_fprop.cu",
]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--report", action="store_true", help="compile, and print registers, shared memory, spills, occupancy"
    )
    parser.add_argument(
        "--arch",
        action="append",
        metavar="NAME",
        help="compile every variant, for this architecture only (may be given more than once)",
    )
    parser.add_argument(
        "--file", action="append", metavar="NAME", help="only this .cu file (may be given more than once)"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=count(1),
        default=available_cores(),
        help="how many variants to compile at once (default: one per core)",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="compile every variant for every architecture and print all, not only those with the most registers",
    )


def run(options: argparse.Namespace) -> int:
    from gpuconv.backends.cuda.analysis.resources import jobs
    from gpuconv.backends.cuda.analysis.variants import MACROS, kernels, variants
    from gpuconv.backends.cuda.runtime import nvrtc
    from gpuconv.names import distinct

    alone = [f"--{name}" for name in ("arch", "all") if getattr(options, name)]
    if alone and not options.report:
        raise UserError(f"{' and '.join(alone)} {'go' if len(alone) > 1 else 'goes'} with --report, which compiles")
    with user_errors():
        files = distinct("kernel file", options.file or MACROS, MACROS)
        known = nvrtc.known_architectures() if options.arch else nvrtc.ARCHITECTURES
        archs = distinct("architecture", options.arch or known, known)
    chosen = [variant for variant in variants() if variant.file in files]
    if options.report:
        return _report(jobs(chosen, archs, options.all or bool(options.arch)), options.all, options.workers)
    for file in files:
        of_file = [variant for variant in chosen if variant.file == file]
        print(f"{file}  ({len(of_file)} variants)")
        parameters = {
            name: [f"{parameter.c_type} {parameter.name}" for parameter in signature.parameters]
            for name, signature in kernels(of_file[0]).items()
        }
        json_output.add(
            "files", {"file": file, "variants": len(of_file), "macros": MACROS[file], "kernels": parameters}
        )
        for macro, values in MACROS[file].items():
            print(f"    {macro:<12}{', '.join(map(str, values))}")
        for name, listed in parameters.items():
            print(f"    {name}({', '.join(listed)})")
    return 0


def _report(jobs: list, everything: bool, workers: int) -> int:
    from gpuconv.backends.cuda.analysis.resources import report
    from gpuconv.backends.cuda.runtime.nvrtc import CompileError

    lines: list[Line] = []
    errors: list[CompileError] = []
    with progress_bar(total=len(jobs), desc="compiling", leave=False, disable=None) as progress:
        for found in report(jobs, workers):
            errors += [line for line in found if isinstance(line, CompileError)]
            lines += [line for line in found if not isinstance(line, CompileError)]
            progress.update()
    shown = lines if everything else _worst(lines)
    predicted, why = _predicted(shown)
    print(
        f"{'kernel':<34} {'arch':<8} {'registers':>9} {'shared':>7} {'stack':>6} {'spills':>7}"
        f" {'threads':>8} {'occupancy':>10} {'predicted':>10}"
    )
    for line in shown:
        share = "unknown" if line.occupancy is None else f"{line.occupancy:.0%}"
        json_output.add(
            "kernels",
            {
                "kernel": line.kernel,
                "arch": line.arch,
                "variant": str(line.variant),
                "threads": line.threads,
                "occupancy": line.occupancy,
                "resources": line.resources,
                "clean": line.clean,
            },
        )
        resources, shared = line.resources, line.resources.static_shared + line.variant.smem_bytes
        spills = resources.spill_stores + resources.spill_loads
        print(
            f"{line.kernel:<34} {line.arch:<8} {resources.registers:>9} {shared:>7} {resources.stack:>6}"
            f" {spills:>7} {line.threads:>8} {share:>10} {predicted.get(line, '-'):>10}"
            + (f"  {line.variant}" if everything or not line.clean else "")
        )
    print(f"\n{why}")
    dirty = [line for line in lines if not line.clean]
    json_output.note(compiled=len(lines), errors=[str(error) for error in errors], unclean=len(dirty))
    for error in errors:
        print(f"\n{error}")
    counts = ", ".join(f"{count} for {arch}" for arch, count in Counter(arch for _, arch in jobs).items())
    print(f"\n{len(lines)} kernels of {len(jobs)} variants ({counts}):", end=" ")
    print(
        "no spill, no local memory"
        if not dirty and not errors
        else f"{len(dirty)} with spills or local memory, {len(errors)} not compiled"
    )
    return 1 if dirty or errors else 0


def _predicted(lines: list) -> tuple[dict, str]:
    """The predicted times of the kernels that the model covers, for the table, and a line that explains them."""
    from gpuconv.backends.cuda.analysis import predict_conv
    from gpuconv.backends.cuda.runtime.nvrtc import CompileError

    try:
        seconds = {line: predict_conv.of_line(line) for line in lines}
    except CompileError as error:
        return {}, f"no times are predicted: {error}"
    times = {line: f"{1e6 * each:.1f} us" for line, each in seconds.items() if each is not None}
    case, gpu = predict_conv.REFERENCE, predict_conv.REFERENCE_GPU
    return times, f"predicted: the time of a convolution {case} on an {gpu.name}, a prediction, not a measurement"


def _worst(lines: list[Line]) -> list[Line]:
    """The worst variant of each kernel and architecture: the one with the most registers. A variant that spills or uses
    local memory is worse than any that does not."""
    worst: dict[tuple[str, str], Line] = {}
    for line in lines:
        key = (line.kernel, line.arch)
        if key not in worst or _cost(line) > _cost(worst[key]):
            worst[key] = line
    return list(worst.values())


def _cost(line: Line) -> tuple[bool, int]:
    return not line.clean, line.resources.registers
