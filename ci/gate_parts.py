"""What the GPU gate runs, part by part."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
import time
from collections import defaultdict
from typing import Any

from ci.gate import FailedError, Gate, LateError, NoGpuError, NotReachedError, Part, UnusableGpuError

Found = tuple[str, dict[str, Any]]

NEEDED = ("numpy", "ml_dtypes", "nvtx", "safetensors", "tqdm", "cupy", "cuda.core")
WISHED = ("torch", "triton", "pytest", "hypothesis", "scipy", "matplotlib", "PIL", "requests")
TOOLS = ("nvidia-smi", "nvcc", "ncu", "compute-sanitizer")
SANITIZED = {  # every kind of kernel: tiles in shared memory, tensor cores, reductions, plain maps
    "float32": (
        "conv2d", "conv2d_dgrad", "conv2d_wgrad", "max_pool2d_backward", "batch_norm_backward", "bias_grad",
        "softmax_cross_entropy", "sgd_step",
    ),
    "float16": ("conv2d", "conv2d_dgrad", "conv2d_wgrad", "conv2d_relu", "conv2d_batch_norm", "muon_step"),
}  # fmt: skip
LEAST_ACCURACY = 96.5  # per cent, of the digits that nobody trained on
PROFILED = "vgg-cifar"


def workers() -> int:
    return max(1, (os.cpu_count() or 2) * 3 // 4)


# --- environment and peaks ---------------------------------------------------------------------

_PROBE = """
import importlib, importlib.util, json, sys
def has(name):
    try:
        if name == "torch":  # slow to import, and needed by no part but as a peer
            return None if importlib.util.find_spec(name) else "not found"
        importlib.import_module(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
found = {name: has(name) for name in sys.argv[2:]}
facts = {"missing": {name: why for name, why in found.items() if why}}
from gpuconv import backends
try:
    facts["device"] = backends.resolve(sys.argv[1])
    facts["name"] = backends.describe(sys.argv[1])
except backends.DeviceError as error:
    facts["no gpu"] = str(error)
else:
    from gpuconv import ops
    facts["ops"] = list(ops.__all__)
    if facts["device"].startswith("cuda"):
        from gpuconv.profiling.launches import architecture
        facts["arch"] = architecture(facts["device"])
print("FACTS " + json.dumps(facts))
"""


def environment(gate: Gate, seconds: float) -> Found:
    log = "environment.log"
    if gate.wheels:
        install(gate, log, 0.3 * seconds)
    done = gate.python(log, ["-c", _PROBE, gate.device, *NEEDED, *WISHED], 0.5 * seconds)
    for tool in filter(shutil.which, TOOLS):
        gate.run(log, [tool] if tool == "nvidia-smi" else [tool, "--version"], 0.1 * seconds)
    gate.python(log, ["-m", "gpuconv", "info"], 0.2 * seconds)
    gate.python(log, ["-m", "pip", "list", "--disable-pip-version-check"], 0.1 * seconds)
    told = [line for line in done.text.splitlines() if line.startswith("FACTS ")]
    if not told:
        raise FailedError(f"gpuconv cannot be asked for its device: {done.last}")
    gate.facts |= json.loads(told[-1].removeprefix("FACTS "))
    facts = gate.facts | {"tools missing": [tool for tool in TOOLS if not shutil.which(tool)]}
    if "no gpu" in facts:
        if gate.run(log, ["nvidia-smi", "--list-gpus"], 0.1 * seconds).code == 0:
            raise UnusableGpuError(f"the GPU cannot be used: {facts['no gpu']}", **facts)
        raise NoGpuError(f"no GPU: {facts['no gpu']}", **facts)
    lacking = [name for name in NEEDED if name in facts["missing"]]
    if lacking and gate.device.startswith("cuda"):
        raise FailedError(f"missing: {', '.join(lacking)} (carry their wheels: --wheels)", **facts)
    less = [*facts["missing"], *facts["tools missing"]]
    return f"{facts['name']}" + (f"; without {', '.join(less)}" if less else ""), facts


def install(gate: Gate, log: str, seconds: float) -> None:
    """Put the carried wheels, and nothing else, into a folder that only the gate's commands see."""
    words = ["-m", "pip", "install", "--no-index", "--no-deps", "--quiet", "--upgrade"]
    wheels = sorted(map(str, gate.wheels.glob("*.whl"))) if gate.wheels else []
    if not wheels:
        raise FailedError(f"--wheels: no wheel in {gate.wheels}")
    for wheel in wheels:  # one by one: a wheel for another Python does not cost the others
        gate.python(log, [*words, "--target", str(gate.out / "packages"), wheel], seconds / len(wheels))


def peaks(gate: Gate, seconds: float) -> Found:
    done = gate.python("peaks.log", bench(gate, "peaks"), seconds)
    expect(done)
    said = next((line for line in done.text.splitlines() if line.startswith("ceilings")), done.last)
    return said.removeprefix("ceilings").strip(), {"said": said}


def bench(gate: Gate, *words: str) -> list[str]:
    where = ["--device", gate.device, "--results", str(gate.out / "results"), "--commit", gate.commit]
    return ["-m", "bench", words[0], *where, *words[1:]]


def expect(done: Any) -> None:
    if done.late:
        raise LateError(f"stopped after {done.seconds:.0f} s; it last said: {done.last[:160]}")
    if done.code:
        raise FailedError(f"status {done.code}: {done.last[:200]}")


# --- right -------------------------------------------------------------------------------------


def kernels(gate: Gate, seconds: float) -> Found:
    """Compile every variant for this GPU, on all cores: what follows finds them in the cache."""
    if "arch" not in gate.facts:
        raise NotReachedError("the environment told no architecture to compile for")
    words = ["-m", "gpuconv", "kernels", "--report", "--arch", gate.facts["arch"]]
    done = gate.python("kernels.log", [*words, "--workers", str(os.cpu_count() or 1)], seconds)
    expect(done)
    return done.last, {}


def tests(gate: Gate, seconds: float) -> Found:
    """The whole suite, kernels on this device; a process a file, those first that run kernels."""
    folder = gate.home / "tests"
    files = sorted(folder.rglob("test_*.py"), key=lambda p: (p.parent.name != "kernels", "devices" not in p.name, p))
    if not files:
        raise NotReachedError("there are no tests in this tree")
    names = {f"tests/{str(f.relative_to(folder))[:-3].replace(os.sep, '.')}.log": f for f in files}
    commands = {
        log: [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "", "-rfE", str(f.relative_to(gate.home))]
        for log, f in names.items()
    }
    clean(gate, commands)
    found = gate.together(
        commands, seconds, workers(), GPUCONV_TEST_DEVICES=gate.device, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1",
        GPUCONV_EMULATOR_WORKERS="1",
    )  # fmt: skip
    counts: dict[str, int] = defaultdict(int)
    for done in found.values():
        for number, what in re.findall(r"(\d+) (passed|failed|skipped|xfailed|error)", done.last):
            counts[what] += int(number)
    said = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    return judge(f"{said} in {len(found)} files", found, commands, good=(0, 5))


def judge(said: str, found: dict[str, Any], wanted: Any, good: tuple[int, ...] = (0,)) -> Found:
    """Of many commands: what failed, what took too long, what was not begun."""
    short = {name: name.rpartition("/")[2].removesuffix(".log") for name in wanted}
    failed = [short[name] for name, done in found.items() if done.code not in good and not done.late]
    late = [short[name] for name in wanted if name not in found or found[name].late]
    details = {"failed": failed, "out of time": late, "seconds": {short[n]: d.seconds for n, d in found.items()}}
    unfinished = f"; out of time: {listed(late)}" if late else ""
    if failed:
        raise FailedError(f"failed: {listed(failed)}; {said}{unfinished}", **details)
    if late:
        raise LateError(f"{said}{unfinished}", **details)
    return said, details


def listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def clean(gate: Gate, logs: Any) -> None:
    for log in logs:
        (gate.out / log).unlink(missing_ok=True)


def verify(gate: Gate, seconds: float) -> Found:
    """`gpuconv verify`, a process an op: the oracle is what takes the time."""
    words = [sys.executable, "-m", "gpuconv", "verify", "--device", gate.device, "--op"]
    commands = {f"verify/{op}.log": [*words, op] for op in gate.facts.get("ops", ())}
    commands = commands or {"verify/all.log": words[:-1]}
    clean(gate, commands)
    found = gate.together(commands, seconds, workers(), OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    passed = sum(done.code == 0 for done in found.values())
    return judge(f"{passed} of {len(commands)} ops pass", found, commands)


_UNPOOLED = """
import sys, cupy
cupy.cuda.set_allocator(None)
from gpuconv.cli import main
sys.exit(main(sys.argv[1:]))
"""


def sanitized(tool: str) -> Any:
    def part(gate: Gate, seconds: float) -> Found:
        """An allocation for each array, without CuPy's pool: what lies beside an array belongs to nobody."""
        if not shutil.which("compute-sanitizer"):
            raise NotReachedError("compute-sanitizer is not on the PATH")
        words = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", _UNPOOLED]
        words += ["verify", "--device", gate.device, "--tier", "tiny", "--tier", "odd"]
        commands = {
            f"{tool}/{op}-{dtype}.log": [*words, "--dtype", dtype, "--op", op]
            for dtype, ops in SANITIZED.items() for op in ops
        }  # fmt: skip
        clean(gate, commands)
        found = gate.together(commands, seconds, min(workers(), 6))
        silent = [name for name, done in found.items() if not done.late and "ERROR SUMMARY" not in done.text
                  and "RACECHECK SUMMARY" not in done.text]  # fmt: skip
        if silent:
            raise FailedError(f"no summary of compute-sanitizer in {listed(silent)}")
        return judge(f"{sum(done.code == 0 for done in found.values())} of {len(commands)} ops clean", found, commands)

    return part


# --- fast --------------------------------------------------------------------------------------


def timed(kind: str) -> Any:
    def part(gate: Gate, seconds: float) -> Found:
        """Nothing is begun in the last part of the box, so that what was begun can end."""
        end, again = time.monotonic() + seconds, []
        while True:
            left = end - time.monotonic()
            words = bench(gate, kind, "--minutes", f"{0.7 * left / 60:.3f}", "--rounds", "4", "--no-compile", *again)
            done = gate.python(f"bench-{kind}.log", words, left)
            if "no longer answers" not in done.text or end - time.monotonic() < 0.2 * seconds:
                break
            again = ["--missing"]  # a side took the device down; a new process goes on behind it
        entries = [entry for entry in entries_of(gate) if (entry["kind"] == "step") == (kind == "steps")]
        sides = [side for entry in entries for side in entry["sides"]]
        others = sorted({f"{s['name']} {s['status']}" for s in sides if s["status"] not in ("timed", "left out")})
        said = f"{len(entries)} entries timed" + (f"; {listed(others)}" if others else "")
        if done.late and entries:
            raise LateError(f"{said}; stopped after {done.seconds:.0f} s", entries=len(entries))
        expect(done)
        if not entries:
            raise LateError("no entry was timed")
        return said, {"entries": len(entries), "others": others}

    return part


def entries_of(gate: Gate) -> list[dict[str, Any]]:
    records = [json.loads(path.read_text()) for path in (gate.out / "results").glob("*/*.json")]
    return [entry for record in records for entry in record["entries"]]


def train(gate: Gate, seconds: float) -> Found:
    """A run by CUDA graphs, to its accuracy."""
    shutil.rmtree(gate.out / "run", ignore_errors=True)
    words = ["-m", "gpuconv", "train", "--device", gate.device, "--run-dir", str(gate.out / "run")]
    done = gate.python("train.log", words, seconds)
    expect(done)
    reached = accuracy(done.last)
    if not reached >= LEAST_ACCURACY:
        raise FailedError(f"{done.last}, at least {LEAST_ACCURACY} % was to be reached", accuracy=reached)
    uncaptured = [line for line in done.text.splitlines() if "without a CUDA graph" in line]
    if uncaptured:
        raise FailedError(f"the step was not captured: {uncaptured[0]}", accuracy=reached)
    return f"{done.last} in {done.seconds:.1f} s", {"accuracy": reached}


def accuracy(line: str) -> float:
    """Of the last line of `gpuconv train`, in per cent."""
    found = re.fullmatch(r"test accuracy (\d+\.\d+)%", line)
    if not found:
        raise FailedError(f"the last line is no accuracy: {line[:160]}")
    return float(found[1])


# --- why ---------------------------------------------------------------------------------------


def ncu(gate: Gate, seconds: float) -> Found:
    """The time of every kernel of a training step, then all of Nsight Compute on the three that took most of it."""
    if not shutil.which("ncu"):
        raise NotReachedError("ncu is not on the PATH")
    words = [sys.executable, "-m", "gpuconv", "profile", "--model", PROFILED, "--device", gate.device,
             "--steps", "1", "--no-peaks"]  # fmt: skip
    listing = ["ncu", "--csv", "--metrics", "gpu__time_duration.sum", "--clock-control", "none"]
    done = gate.run("ncu.log", [*listing, *words], seconds / 2)
    expect(done)
    slowest = sorted(durations(done.text).items(), key=lambda item: -item[1])[:3]
    if not slowest:
        raise FailedError("ncu told no kernel's time")
    (gate.out / "ncu").mkdir(exist_ok=True)
    commands = {
        f"ncu/{name}.log": [
            "ncu", "--set", "full", "--import-source", "yes", "--force-overwrite", "--kernel-name", name,
            "--launch-count", "1", "--export", str(gate.out / "ncu" / name), *words,
        ]
        for name, _ in slowest
    }  # fmt: skip
    clean(gate, commands)
    found = gate.together(commands, seconds / 2, 1)  # one at a time: ncu takes the GPU for itself
    said = ", ".join(f"{name} {1e3 * time:.3g} ms" for name, time in slowest)
    return judge(said, found, commands)


_UNITS = {"nsecond": 1e-9, "usecond": 1e-6, "msecond": 1e-3, "second": 1.0}  # as Nsight Compute spells them, by
_UNITS |= {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}  # its version


def durations(text: str) -> dict[str, float]:
    """Seconds by kernel, summed over its launches, from `ncu --csv --metrics gpu__time_duration.sum`. CuPy's own
    kernels are left out."""
    lines = text.splitlines()
    begin = next((n for n, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    sums: dict[str, float] = defaultdict(float)
    for row in csv.DictReader(lines[begin:]):
        if row.get("Metric Name") == "gpu__time_duration.sum" and not row["Kernel Name"].startswith("cupy_"):
            name = re.split(r"[(<]", row["Kernel Name"])[0].strip()
            sums[name] += float(row["Metric Value"].replace(",", "")) * _UNITS[row["Metric Unit"]]
    return dict(sums)


PARTS = [
    Part("environment", 30, environment),
    Part("peaks", 25, peaks),
    Part("kernels", 55, kernels),
    Part("tests", 120, tests),
    Part("verify", 60, verify),
    Part("memcheck", 45, sanitized("memcheck")),
    Part("racecheck", 45, sanitized("racecheck")),
    Part("steps", 55, timed("steps")),
    Part("ops", 60, timed("ops")),
    Part("train", 25, train),
    Part("ncu", 30, ncu),
]
