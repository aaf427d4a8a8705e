"""The environment: the device, packages and tools, the supplied kernels, and the device's ceilings."""

from __future__ import annotations

import json
import shutil
import zipfile

from ci.gate.bench_command import bench
from ci.gate.commands import Gate
from ci.gate.results import FailedError, NoGpuError, NotReachedError, UnusableGpuError
from ci.gate.run_parts import Found
from gpuconv.devices import Device

REQUIRED = ("numpy", "ml_dtypes", "nvtx", "safetensors", "tqdm", "cupy", "cuda.core")
OPTIONAL = ("torch", "triton", "pytest", "scipy")
TOOLS = ("nvidia-smi", "ncu", "compute-sanitizer")

_PROBE = """
import importlib, importlib.util, json, sys
def has(name):
    try:
        if name == "torch":  # slow to import, and needed only as a peer
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
    from gpuconv.devices import Device
    facts["ops"] = list(ops.__all__)
    if Device.named(facts["device"]).on_gpu:
        from gpuconv.backends.cuda.runtime import nvrtc
        from gpuconv.profiling.launches import architecture
        facts["arch"], facts["nvrtc"] = architecture(facts["device"]), nvrtc.toolkit()[1]
        facts["headers"] = nvrtc.header_version()
print("FACTS " + json.dumps(facts))
"""


def environment(gate: Gate, seconds: float) -> Found:
    log = "environment.log"
    if gate.wheels:
        _install(gate, log, 0.3 * seconds)
    done = gate.ask(log, ["-c", _PROBE, gate.device, *REQUIRED, *OPTIONAL], 0.5 * seconds)
    for tool in filter(shutil.which, TOOLS):
        gate.run(log, [tool] if tool == "nvidia-smi" else [tool, "--version"], 0.1 * seconds)
    lines = [line for line in done.text.splitlines() if line.startswith("FACTS ")]
    if not lines:
        raise FailedError(f"the probe of gpuconv and its device failed; its last line: {done.last}")
    gate.facts |= json.loads(lines[-1].removeprefix("FACTS "))
    facts = gate.facts | {"tools missing": [tool for tool in TOOLS if not shutil.which(tool)]}
    if "no gpu" in facts:
        if gate.run(log, ["nvidia-smi", "--list-gpus"], 0.1 * seconds).code == 0:
            raise UnusableGpuError(f"the GPU cannot be used: {facts['no gpu']}", **facts)
        raise NoGpuError(f"no GPU: {facts['no gpu']}", **facts)
    lacking = [name for name in REQUIRED if name in facts["missing"]]
    if lacking and Device.named(gate.device).on_gpu:
        raise FailedError(f"missing: {', '.join(lacking)} (supply their wheels with --wheels)", **facts)
    lacking_optional = [*facts["missing"], *facts["tools missing"]]
    return f"{facts['name']}" + (f"; without {', '.join(lacking_optional)}" if lacking_optional else ""), facts


def _install(gate: Gate, log: str, seconds: float) -> None:
    """Install the supplied wheels, and nothing else, into a folder that only the gate's children see."""
    words = ["-m", "pip", "install", "--no-index", "--no-deps", "--quiet", "--upgrade"]
    wheels = sorted(map(str, gate.wheels.glob("*.whl"))) if gate.wheels else []
    if not wheels:
        raise FailedError(f"--wheels: no wheel in {gate.wheels}")
    for wheel in wheels:  # one by one: a wheel for another Python does not affect the others
        gate.ask(log, [*words, "--target", str(gate.logs.parent / "packages"), wheel], seconds / len(wheels))


def cubins(gate: Gate, seconds: float) -> Found:
    """Make the supplied kernels the cache of all children, which add to it."""
    folder = gate.logs.parent / "cache"
    folder.mkdir(mode=0o755, exist_ok=True)
    gate.environment["GPUCONV_CACHE_DIR"] = str(folder)
    if gate.cubins is None:
        raise NotReachedError("no kernels were supplied (ci/pack_cubins.py makes them): they are compiled here")
    try:
        with zipfile.ZipFile(gate.cubins) as archive:
            manifest = json.loads(archive.read("manifest.json"))
            compiled = {what: manifest[what] for what in ("arch", "nvrtc", "headers")}
            archive.extractall(folder, [name for name in archive.namelist() if name != "manifest.json"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise FailedError(f"{gate.cubins} is not a pack of kernels: {error}") from error
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    packed = f"{manifest['entries']} kernel variants for {', '.join(compiled.values())}"
    for what, carried in compiled.items():
        if carried != (here := gate.facts.get(what, carried)):
            raise FailedError(f"the pack has {packed}, and this machine has {here}, so kernels are compiled here")
    return packed, manifest


def peaks(gate: Gate, seconds: float) -> Found:
    done = gate.ask("peaks.log", bench(gate, "peaks"), seconds)
    done.raise_for_status()
    output = next((line for line in done.text.splitlines() if line.startswith("ceilings")), "")
    if not output:
        raise FailedError(f"no ceilings were reported; its last line: {done.last[:160]}")
    return output.removeprefix("ceilings").strip(), {"said": output}
