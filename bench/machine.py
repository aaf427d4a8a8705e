"""The description of the machine in a record: the hardware and the versions, without host names or paths."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path

from gpuconv import backends
from gpuconv.backends.cpu import blas
from gpuconv.devices import Device
from gpuconv.types import Record

ROOT = Path(__file__).parents[1]
_PACKAGES = ("gpuconv", "numpy", "torch", "cupy-cuda13x", "cupy-cuda12x", "cuda-core", "triton")
# Parts of a processor's name that are left out.
_NOISE = re.compile(r"\((?:r|tm)\)|\b(?:intel|amd|cpu|processor|core|\d+-core)\b|@.*", re.IGNORECASE)


def folder(device: str, threads: int) -> str:
    """The hardware's name as a folder name: "nvidia-h200", "cpu-xeon-2-threads"."""
    if not Device.named(device).runs_kernels:
        return f"cpu-{slug(_NOISE.sub(' ', processor()))}-{threads}-threads"
    return slug(backends.describe(device).partition(",")[0])


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unknown"


def processor() -> str:
    """The processor's own name, such as "Intel(R) Xeon(R) Processor"."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def describe(device: str, threads: int) -> Record:
    """The device, system and versions as JSON values; also the driver of a GPU, or the threads and BLAS's kernels of a
    CPU."""
    on_gpu = Device.named(device).on_gpu
    name = backends.describe(device) if on_gpu else processor()
    known: Record = {"device": name, "system": platform.system(), "versions": versions()}
    return known | (_driver() if on_gpu else {"threads": threads, "blas": blas.kernels()})


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _driver() -> dict[str, str]:
    import cupy

    runtime = cupy.cuda.runtime
    known = {"cuda of the driver": str(runtime.driverGetVersion()), "cuda runtime": str(runtime.runtimeGetVersion())}
    try:
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True, encoding="utf-8", timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return known
    return known | {"driver": done.stdout.split()[0] if done.stdout.split() else "unknown"}


def commit() -> tuple[str, bool]:
    """The commit and whether tracked files differ from it; ("unknown", True) if git cannot tell."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD").strip()
        return head, bool(_git("status", "--porcelain", "--untracked-files=no").strip())
    except (OSError, subprocess.SubprocessError):
        return "unknown", True


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=20, check=True
    ).stdout
