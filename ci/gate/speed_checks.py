"""Speed: the benchmark against PyTorch, the model's predictions, and Nsight Compute on single kernels."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import json
import math
import re
import shutil
import statistics
import time
import zipfile
from collections import defaultdict
from pathlib import Path

from ci.gate.bench_command import bench, entries_of
from ci.gate.commands import Gate
from ci.gate.results import FailedError, LateError, NotReachedError, check_result, join_names
from ci.gate.run_parts import Body, Found
from ci.gate.verdict import Verdict
from gpuconv.system import files
from gpuconv.types import Record

KERNELS = ("--op", "fprop", "--op", "dgrad", "--op", "wgrad", "--shape", "vgg", "--dtype", "bfloat16")
STEPS = (
    "--shape",
    "airbench94-n2000",
    "--shape",
    "vgg-cifar-n128",
    "--shape",
    "resnet18-cifar-n512",
    "--dtype",
    "bfloat16",
)
SUITE = ("--shape", "vgg", "--shape", "airbench94", "--shape", "memory-126mb")
SMALL = {  # the same for a rehearsal
    KERNELS: ("--op", "fprop", "--shape", "1x32x32x3-12x3x3-p1.1.1.1", "--dtype", "float32"),
    STEPS: ("--shape", "lenet-n64", "--dtype", "float32"),
    SUITE: ("--op", "fprop_relu", "--shape", "1x32x32x3-12x3x3-p1.1.1.1", "--dtype", "float32"),
}
LARGEST_REPORT = 15 << 20  # bytes


def timing_check(kind: str, words: tuple[str, ...], *, missing: bool = False) -> Body:
    """A check that times a part of the suite. kind: "ops" or "steps". words: options of the benchmark. missing: time
    only entries that the record lacks."""

    def check(gate: Gate, seconds: float) -> Found:
        """The benchmark gets 70 % of the time for starting entries, so that running work can end. After a crash, it
        runs again with what is left."""
        began = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
        end, again = time.monotonic() + seconds, ["--missing"] if missing else []
        while True:
            left = end - time.monotonic()
            chosen = SMALL[words] if gate.small else words
            command = bench(gate, kind, "--minutes", f"{0.7 * left / 60:.3f}", "--rounds", "4", "--no-compile", *chosen)
            done = gate.ask(f"bench-{kind}.log", [*command, *again], left)
            if "no longer answers" not in done.text or end - time.monotonic() < 0.2 * seconds:
                break
            again = ["--missing"]  # a side crashed the device; a new process continues after it
        entries = [
            entry
            for entry in entries_of(gate)
            if (entry["kind"] == "step") == (kind == "steps") and entry["date"] >= began
        ]
        sides = [side for entry in entries for side in entry["sides"]]
        others = sorted({f"{s['name']} {s['status']}" for s in sides if s["status"] not in ("timed", "left out")})
        summary = f"entries timed: {len(entries)}" + (f"; {join_names(others)}" if others else "")
        details = {"entries": [entry["key"] for entry in entries], "others": others}
        if done.late and entries:
            raise LateError(f"{summary}; stopped after {done.seconds:.0f} s", **details)
        done.raise_for_status()
        if missing and re.search(r"^entries missing in the record: 0$", done.text, re.MULTILINE):
            return "nothing to time: the record has every entry", details
        if not entries:
            raise LateError("no entry was timed")
        ours = [side for side in sides if side["role"] == "ours"]
        if bad := [s for s in ours if s["status"] == "timed" and not 0 < s.get("median", math.nan) < math.inf]:
            raise FailedError(f"{summary}; no times: {join_names([side['name'] for side in bad])}", **details)
        if failed := [side for side in ours if side["status"] in ("failed", "refused")]:
            raise FailedError(
                f"{summary}; {failed[0]['name']}: {failed[0].get('reason', failed[0]['status'])}", **details
            )
        return summary, details

    return check


MODEL = "Does the performance model predict the convolutions timed here within 15 % rms?"
_ERROR = re.compile(r"^rms error (\S+) % over (\d+) rows", re.MULTILINE)


def model(gate: Gate, seconds: float) -> Found:
    """Compares predictions for today's kernels with the times just measured."""
    name = str(gate.facts.get("name", ""))
    if not (known := [gpu for gpu in ("h100", "h200") if gpu in name.lower()]):
        raise NotReachedError(f"the model covers the H100 and H200; this GPU is {name or 'unknown'}")
    words = ["-m", "bench", "predict", "--gpu", known[0], *KERNELS, "--results", str(gate.out / "results")]
    done = gate.ask("predict.log", words, seconds)
    done.raise_for_status()
    if not (found := _ERROR.search(done.text)):
        raise NotReachedError(f"no measured time to compare with the predictions: {done.last[:120]}")
    answer = "yes" if float(found[1]) <= 15 else "no"
    return check_result(Verdict(MODEL, answer, f"{found[1]} % over {found[2]} convolutions"))


RECORD = "Are the convolutions at least as fast as in the record of this GPU that is in bench/results?"
NOISE = 1.05  # only a ratio of times above this counts as slower


def record(gate: Gate, seconds: float) -> Found:
    """Compares the new times with those in the repository's records of the same hardware, the newest for each entry."""
    new = [json.loads(path.read_text(encoding="utf-8")) for path in (gate.out / "results").glob("*/*.json")]
    folders = {gate.home / "bench" / "results" / data["hardware"] for data in new}
    old = [json.loads(path.read_text(encoding="utf-8")) for folder in folders for path in folder.glob("*.json")]
    old.sort(key=lambda data: data["date"])
    before, now = (_times(records) for records in (old, new))
    shared = [key for key in now if key in before]
    if not shared:
        return check_result(Verdict(RECORD, "unknown", "no earlier record of this GPU has these convolutions"))
    ratios: dict[str, list[float]] = defaultdict(list)
    for key in shared:
        ratios[key.split()[0]].append(now[key] / before[key])
    seen = ", ".join(f"{op} {statistics.geometric_mean(found):.2f}" for op, found in ratios.items())
    slower = [key for key in shared if now[key] > NOISE * before[key]]
    seen = f"mean share of the record's time over {len(shared)} convolutions: {seen}"
    seen += f"; slower: {join_names(slower)}" if slower else ""
    return check_result(Verdict(RECORD, "no" if slower else "yes", seen))


def _times(records: list[Record]) -> dict[str, float]:
    """Seconds of our best side by entry; later records replace earlier ones."""
    found = {}
    for entry in (entry for data in records for entry in data["entries"] if entry["kind"] == "convolution"):
        times = [s["median"] for s in entry["sides"] if s["role"] == "ours" and s["status"] == "timed"]
        if times:
            found[entry["key"]] = min(times)
    return found


ISSUE = "Are the slowest mma kernels bound by instruction issue, not by L2?"
PROFILED = ("vgg-cifar", "lenet")  # the net of a full run, and of a rehearsal
METRICS = {
    "time": "gpu__time_duration.sum",
    "issue": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "lsu": "l1tex__lsuin_requests.avg.pct_of_peak_sustained_elapsed",
    "l2": "lts__t_sectors.avg.pct_of_peak_sustained_elapsed",
}
DETAILED = 6  # kernels


def ncu(gate: Gate, seconds: float) -> Found:
    """Measures the four METRICS of every kernel of three training steps, then all metrics of Nsight Compute for the
    first launches of the six slowest kernels."""
    if not shutil.which("ncu"):
        raise NotReachedError("ncu is not on the PATH")
    words = [
        *gate.python,
        "-m",
        "gpuconv",
        "profile",
        "--model",
        PROFILED[gate.small],
        "--device",
        gate.device,
        "--steps",
        "1",
        "--no-peaks",
    ]
    words += [] if gate.small else ["--precision", "bfloat16"]
    plain = ["ncu", "--clock-control", "none"]
    command = [*plain, "--csv", "--metrics", ",".join(METRICS.values()), *words]
    done = gate.run("ncu.log", command, seconds / 2, GPUCONV_AUTOTUNE="0")
    done.raise_for_status()
    kernels = kernel_measurements(done.text)
    slowest = sorted(kernels, key=lambda name: -kernels[name]["time"])[:DETAILED]
    if not slowest:
        raise FailedError("ncu reported no kernel's time")
    report = gate.logs.parent / "slowest"
    names = "regex:^(" + "|".join(map(re.escape, slowest)) + ")$"
    detailed = [
        *plain,
        "--set",
        "full",
        "--import-source",
        "yes",
        "--source-folders",
        str(gate.home / "kernels"),
        "--force-overwrite",
        "--kernel-name",
        names,
        "--launch-count",
        str(2 * DETAILED),
        "--export",
        str(report),
        *words,
    ]
    gate.run("ncu-full.log", detailed, seconds / 2, GPUCONV_AUTOTUNE="0")
    verdict = issue_bound({name: kernels[name] for name in slowest})
    if not _keep(gate, report.with_suffix(".ncu-rep")):
        verdict = dataclasses.replace(verdict, seen=f"{verdict.seen}; no ncu.zip: no report, or one too large to keep")
    return check_result(verdict)


def issue_bound(kernels: dict[str, dict[str, float]]) -> Verdict:
    """Whether all `*_mma` kernels among these are closer to the limit of issue slots than to that of L2."""
    found = {name: values for name, values in kernels.items() if name.endswith("_mma")}
    seen = "; ".join(
        f"{name}: issue {v.get('issue', math.nan):.0f} %, LSU {v.get('lsu', math.nan):.0f} %, "
        f"L2 {v.get('l2', math.nan):.0f} %"
        for name, v in found.items()
    )
    if not found or not all(0 <= v.get(key, math.nan) <= 100 for v in found.values() for key in ("issue", "l2")):
        return Verdict(ISSUE, "unknown", seen or f"no mma kernel among {', '.join(kernels)}")
    bound = all(values["issue"] > values["l2"] for values in found.values())
    return Verdict(ISSUE, "yes" if bound else "no", seen)


def _keep(gate: Gate, path: Path) -> bool:
    """Zip a report into the gate's output. Returns False if there is no report or it is too large."""
    if not path.is_file():
        return False
    packed = path.with_suffix(".zip")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, path.name)
    if packed.stat().st_size > LARGEST_REPORT:
        return False
    files.write(gate.out / "ncu.zip", packed.read_bytes())
    return True


# The units as older and newer versions of Nsight Compute spell them.
_UNITS = {"nsecond": 1e-9, "usecond": 1e-6, "msecond": 1e-3, "second": 1.0}
_UNITS |= {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "%": 1.0}


def kernel_measurements(text: str) -> dict[str, dict[str, float]]:
    """By kernel, from `ncu --csv --metrics`: the seconds of all launches, and the percentages of the longest launch.
    CuPy's own kernels are left out."""
    lines = text.splitlines()
    begin = next((n for n, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    launches: dict[str, dict[str, float]] = defaultdict(dict)
    names = {metric: name for name, metric in METRICS.items()}
    kernel_of: dict[str, str] = {}
    for row in csv.DictReader(lines[begin:]):
        metric = names.get(row.get("Metric Name") or "")
        if metric and not row["Kernel Name"].startswith("cupy_"):
            kernel_of[row["ID"]] = re.split(r"[(<]", row["Kernel Name"])[0].strip()
            value = float(row["Metric Value"].replace(",", "")) * _UNITS.get(row["Metric Unit"], math.nan)
            launches[row["ID"]][metric] = value
    found: dict[str, dict[str, float]] = {}
    for number, values in sorted(launches.items(), key=lambda item: item[1].get("time", 0.0)):  # the longest comes last
        kernel, seconds = kernel_of[number], values.get("time", 0.0)
        found[kernel] = values | {"time": found.get(kernel, {}).get("time", 0.0) + seconds}
    return {name: values for name, values in found.items() if values["time"] > 0}
