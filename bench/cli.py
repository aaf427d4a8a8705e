"""The command line: python -m bench ops | steps | peaks | report | compare A B | predict | host | fit."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpuconv.system import files
from gpuconv.system.processor import available_cores
from gpuconv.text import parse_numbers
from gpuconv.text.plain_text import one_line

if TYPE_CHECKING:
    from bench.record import Data
    from bench.suite import Entry

EPILOG = """examples:
  python -m bench steps && python -m bench ops         # measure, most important first
  python -m bench ops --device cuda --minutes 5        # start no entry after five minutes
  python -m bench ops --op fprop --shape vgg --dtype bfloat16
  python -m bench report                               # docs/benchmarks.md and its charts, from the newest records
  python -m bench compare OLD.json NEW.json            # what changed beyond the noise
  python -m bench predict --shape vgg --dtype bfloat16 # predicted times of convolutions; needs no GPU
  python -m bench predict --steps                      # of whole training steps
  python -m bench host                                 # Python's part of a call on a GPU; needs no GPU
  python -m bench fit                                  # fit the model behind the predictions to the GPU records

Results go to bench/results/<hardware>/<date>-<commit>.json, written anew after every entry: Ctrl-C loses nothing, and a
second run on the same day and commit adds to the file.

Status: 0: done. 1: a result of gpuconv was wrong; wrong code is not timed. 2: an error that you can fix, printed in
one line. 130: stopped."""

MEASURING = ("ops", "steps", "peaks")  # the commands that write a record


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    from gpuconv.cli.errors import UserError, user_errors

    try:
        with user_errors():
            if options.command in MEASURING and options.threads is None:
                options.threads = default_threads(options.device)
            commands = {"report": _report, "compare": _compare, "predict": _predict, "fit": _fit, "host": _host}
            try:
                return commands.get(options.command, _measure)(options)
            except BrokenPipeError:  # the reader of the output (`| head`) closed it
                return 0
    except UserError as error:
        print(f"bench: error: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        timing = options.command in MEASURING
        print("\nstopped" + ("; what was timed is in the record" if timing else ""), file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m bench", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in (
        ("ops", "time convolutions and memory-bound operations"),
        ("steps", "time whole training steps"),
        ("peaks", "measure only the device's copy bandwidth and matrix rates"),
    ):
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("--device", default="auto", help="numpy, cuda, cuda:1 or auto (default)")
        command.add_argument(
            "--threads",
            type=parse_numbers.integer,
            help="CPU threads (default 2; for a GPU all available cores, because the CPU checks its results)",
        )
        command.add_argument("--results", type=Path, help="folder of the records (default bench/results)")
        command.add_argument("--commit", help="the name of this version, if git cannot tell it")
        if name == "peaks":
            continue
        _filters(command)
        command.add_argument("--minutes", type=parse_numbers.real, help="start no entry after this many minutes")
        command.add_argument(
            "--missing", action="store_true", help="time only what the record of this day and commit lacks"
        )
        command.add_argument(
            "--rounds",
            type=parse_numbers.integer,
            default=6,
            help="rounds in which each side is timed, at least 2 (default 6)",
        )
        command.add_argument(
            "--compile", action=argparse.BooleanOptionalAction, help="time torch.compile too (default: on a GPU)"
        )
    predict = commands.add_parser("predict", help="predict the times of convolutions on tensor cores, without a GPU")
    _filters(predict)
    predict.add_argument("--gpu", default="h200", help="h200 (default) or h100")
    predict.add_argument("--algo", default="auto", help="an algorithm of `gpuconv.algorithms` (default auto)")
    predict.add_argument("--steps", action="store_true", help="only whole training steps")
    predict.add_argument("--results", type=Path, help="records of today's kernels, to compare with the predictions")
    predict.add_argument("--nvrtc", type=Path, metavar="DIR", help="folder of the NVRTC to count instructions with")
    fit = commands.add_parser("fit", help="fit the model behind the predictions to the GPU records")
    fit.add_argument("--results", type=Path)
    fit.add_argument(
        "--nvrtc", type=Path, metavar="DIR", help="folder of the NVRTC to count the instructions of new rows with"
    )
    host = commands.add_parser("host", help="time Python's part of repeated calls on a GPU; needs no GPU")
    host.add_argument("--out", type=Path, metavar="FILE", help="write the times to this JSON file too")
    report = commands.add_parser("report", help="rewrite docs/benchmarks.md and its charts from the newest records")
    report.add_argument("--results", type=Path)
    compare = commands.add_parser("compare", help="say what got faster or slower from record A to record B")
    compare.add_argument("a", type=Path)
    compare.add_argument("b", type=Path)
    return parser


def _filters(command: argparse.ArgumentParser) -> None:
    command.add_argument("--op", action="append", default=[], help="only this op (repeatable)")
    command.add_argument("--shape", action="append", default=[], help="only this shape or group (repeatable)")
    command.add_argument("--dtype", action="append", default=[], help="only this dtype (repeatable)")


def default_threads(device: str) -> int:
    """The number of CPU threads: two, or for a GPU as many as this process may use, because the CPU checks the GPU's
    results."""
    from gpuconv.devices import Device

    named = Device.named(device)
    on_gpu = named.on_gpu or (named.automatic and Path("/dev/nvidiactl").exists())
    return available_cores() if on_gpu else 2


def _measure(options: argparse.Namespace) -> int:
    from threadpoolctl import threadpool_limits

    _at_least("--threads", options.threads, 1)
    # Environment variables would come too late, because BLAS reads them when NumPy is imported.
    with threadpool_limits(options.threads, user_api="blas"):
        return _measure_and_record(options)


def _measure_and_record(options: argparse.Namespace) -> int:
    from bench.record import RESULTS, Record
    from bench.suite import select
    from gpuconv import backends
    from gpuconv.backends.cpu import blas
    from gpuconv.devices import Device
    from gpuconv.profiling.timer import open_timer

    device, why = backends.choose(options.device)
    timer = open_timer(device)
    entries = []
    if options.command != "peaks":
        _at_least("--rounds", options.rounds, 2)
        if options.minutes is not None and not options.minutes > 0:
            raise ValueError(f"--minutes must be above 0, received {options.minutes:g}")
        entries = select(options.command, device, options.op, options.shape, options.dtype)
        if not entries:
            raise ValueError("no entry of the suite passes these filters")
    print(f"device     {device} ({why})")
    record = Record.start(device, options.threads, results=options.results or RESULTS, commit=options.commit)
    print(f"record     {record.path}\n{_peer(options.threads)}")
    if blas.leaves_avx512_unused():
        print(f"BLAS       {blas.WITHOUT_AVX512}")
    if record.data["peaks"] is None or options.command == "peaks":
        _peaks(record, device)
    _print_peaks(record.data["peaks"])
    if entries and options.missing:
        entries = [entry for entry in entries if entry.key not in record.entries]
        print(f"entries missing in the record: {len(entries)}")
    if not entries:
        return 0
    refused = _run(options, record, device, timer, entries)
    if not Device.named(device).runs_kernels:
        _finish_cpu(options, record)
    for line in refused:
        print(f"wrong and not timed: {line}", file=sys.stderr)
    return 1 if refused else 0


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, received {value}")


def _peer(threads: int) -> str:
    from bench.peers import pytorch

    try:
        torch = pytorch.load()
    except ImportError:
        return "peer       PyTorch is not installed, so only gpuconv is timed: pip install torch"
    torch.set_num_threads(threads)
    return f"peer       PyTorch {torch.__version__}"


def _peaks(record, device: str) -> None:
    from gpuconv.profiling.peaks import measure

    ceilings, rows = measure(device)
    record.data["peaks"] = {"copy": ceilings.copy, "matrix": dict(ceilings.matrix), "rows": rows}
    record.save()


def _print_peaks(peaks: Data) -> None:
    rates = ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in peaks["matrix"].items())
    print(f"ceilings   copy {peaks['copy'] / 1e9:.4g} GB/s, {rates}\n")


def _run(options: argparse.Namespace, record, device: str, timer, entries: list[Entry]) -> list[str]:
    """Time the entries; returns a line for each wrong result of ours."""
    from tqdm import tqdm

    from bench.runner import run
    from gpuconv.devices import Device
    from gpuconv.profiling.work import Ceilings

    compiled = Device.named(device).on_gpu if options.compile is None else options.compile
    ceilings = Ceilings(record.data["peaks"]["copy"], record.data["peaks"]["matrix"])
    timing = run(
        entries, record, device, timer, ceilings, minutes=options.minutes, compiled=compiled, rounds=options.rounds
    )
    columns = (("ours", 10), ("best peer", 10), ("ratio", 6), ("floor", 6), ("GFLOP/s", 8), ("GB/s", 6), ("noise", 6))
    print(f"{'entry':<52} {' '.join(f'{name:>{width}}' for name, width in columns)}")
    refused = []
    with tqdm(total=len(entries), desc=options.command, leave=False, disable=None) as progress:
        for entry in timing:
            tqdm.write(progress_line(entry))
            refused += [
                f"{entry['key']}: {side['reason']}"
                for side in entry["sides"]
                if side["role"] == "ours" and side["status"] == "refused"
            ]
            progress.update()
    if record.data["not reached"]:
        print(f"\n{len(record.data['not reached'])} not reached")
    return refused


def progress_line(entry: Data) -> str:
    """An entry in one line, and a line for each side that was not timed, except those that are absent or were left out
    on purpose."""
    from bench.goals import ratio
    from bench.record import fastest_side

    mine, peer, share = fastest_side(entry, "ours"), fastest_side(entry, "peer"), ratio(entry)
    cells = [f"{1e3 * side['median']:>8.3g}ms" if side else f"{'-':>10}" for side in (mine, peer)]
    cells.append(f"{share:>6.2f}" if share else f"{'-':>6}")
    if mine:
        seconds = mine["median"]
        cells += [f"{entry['floor'] / seconds:>6.0%}", f"{entry['flops'] / seconds / 1e9:>8.4g}"]
        cells += [f"{entry['bytes'] / seconds / 1e9:>6.3g}", f"{entry['noise']:>6.1%}"]
    text = f"{entry['key']:<52} {' '.join(cells)}"
    for side in entry["sides"]:
        if side["status"] not in ("timed", "left out", "absent"):
            text += f"\n    {side['name']}: {side['status']}: {side['reason']}"
    return text


def _finish_cpu(options: argparse.Namespace, record) -> None:
    """Add to the record the import time and memory of gpuconv, if steps were timed, and the goals; print the goals."""
    from bench import goals, import_and_memory
    from bench.suite import select

    if options.command == "steps":
        memory = select("steps", "numpy", shapes=[goals.STEP_SHAPE])[0]
        record.data["measures"] = [import_and_memory.import_time(), import_and_memory.step_memory(memory)]
    record.data["goals"] = goals.evaluate(record.data)
    record.save()
    print("", *goals.lines(record.data["goals"]), sep="\n")


def _results(options: argparse.Namespace) -> Path:
    """The folder of records to read. Raises FileNotFoundError if the named one does not exist."""
    from bench.record import RESULTS

    if options.results is not None and not options.results.is_dir():
        raise FileNotFoundError(f"{options.results} is not a folder of records")
    return options.results or RESULTS


def _report(options: argparse.Namespace) -> int:
    from bench import report

    for path in report.write(results=_results(options)):
        print(path)
    return 0


def _compare(options: argparse.Namespace) -> int:
    from bench.compare_records import text
    from bench.record import Record

    print(text(Record.load(options.a), Record.load(options.b)))
    return 0


def _host(options: argparse.Namespace) -> int:
    from bench import host_time, machine

    timings = list(host_time.measure())
    print(*host_time.table(timings), sep="\n")
    if options.out:
        rows = [timing._asdict() | {"budget": timing.budget} for timing in timings]
        commit, dirty = machine.commit()
        about = {"commit": commit, "dirty": dirty, "processor": machine.processor(), "unit": "microseconds"}
        about |= {"load": os.getloadavg()[0]} if hasattr(os, "getloadavg") else {}
        record = about | {"calls": rows}
        files.write(options.out, json.dumps(record, indent=1).encode())
    return 0


def _predict(options: argparse.Namespace) -> int:
    from bench import predict_steps
    from bench.fit_model import load_nvrtc
    from bench.predict import is_of, table, timed_by, timed_in
    from bench.record import records_by_date
    from bench.suite import select
    from gpuconv.backends.cuda.analysis.predict_time import GPUS, Model
    from gpuconv.backends.cuda.runtime import nvrtc
    from gpuconv.names import lookup

    gpu, model, results = lookup("GPU", options.gpu, GPUS), Model.load(), _results(options)
    if options.nvrtc is not None:
        load_nvrtc(options.nvrtc)
    entries = select("ops", "cuda", options.op, options.shape, options.dtype)
    which = "older kernels" if options.results is None else "today's kernels"
    print(f"gpu        {gpu.name}, {gpu.arch}; all times are predicted, except 'measured', which is of {which}")
    print(f"model      {model}")
    if (version := nvrtc.toolkit()[1]) != model.nvrtc:
        counts = f"with {version}, which may generate other instructions than {model.nvrtc}"
        print(f"counts     {counts}; --nvrtc DIR selects another NVRTC")
    print()
    records = [record.data for record in records_by_date(results, "nvidia-*") if is_of(record.data, gpu)]
    if not options.steps:
        timed = timed_by(model, gpu) if options.results is None else timed_in(records, gpu)
        for line in table(entries, options.algo, model, gpu, timed, options.results is not None):
            print(line, flush=True)
    if options.steps or not (options.op or options.shape or options.dtype):
        for line in [*predict_steps.table(model, gpu, records, options.algo), "", *predict_steps.layers_table(gpu)]:
            print(line, flush=True)
    return 0


def _fit(options: argparse.Namespace) -> int:
    from bench.fit_model import load_nvrtc, refit
    from bench.record import records_by_date
    from gpuconv.backends.cuda.analysis import predict_time
    from gpuconv.backends.cuda.analysis.predict_time import GPUS, Model

    results = _results(options)
    if options.nvrtc is not None:
        load_nvrtc(options.nvrtc)
    records = [record.data for record in records_by_date(results, "nvidia-h200")]
    before = Model.load() if predict_time.FILE.exists() else None
    print(f"model      {refit(records, before, GPUS['h200'])}\n{predict_time.FILE}")
    return 0
