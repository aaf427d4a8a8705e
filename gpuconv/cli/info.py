"""Show which devices, compilers and optional packages this machine has, and what is missing and why."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import platform
from importlib import metadata

import numpy as np

from gpuconv import backends
from gpuconv.backends.cpu import blas, parallel
from gpuconv.backends.cuda import cache
from gpuconv.backends.cuda.emulator import EmulatorError, cxx
from gpuconv.backends.cuda.runtime import nvrtc
from gpuconv.cli import json_output
from gpuconv.devices import KINDS, gpu_name
from gpuconv.system import trust
from gpuconv.system.processor import available_cores
from gpuconv.text.plain_text import one_line
from gpuconv.version import __version__

EXAMPLES = ["gpuconv info"]

# package -> its purpose, and the extras that install it; "" if none does
OPTIONAL = {
    "matplotlib": ("pictures", "plot"),
    "mpi4py": ("several processes", "mpi"),
    "pillow": ("image files", "image"),
    "requests": ("downloads", "download"),
    "onnx": ("ONNX files", "onnx"),
    "starlette": ("the live page", "live"),
    "uvicorn": ("the live page", "live"),
    "tensorboardX": ("logs for TensorBoard", "tensorboard"),
    "shtab": ("completion in a shell", "completion"),
    "cupy-cuda12x": ("GPU arrays, CUDA 12", "cuda12"),
    "cupy-cuda13x": ("GPU arrays, CUDA 13", "cuda13"),
    "cuda-core": ("kernel compiler", "cuda12 or cuda13"),
    "torch": ("gpuconv.torch, and comparisons", ""),
}


def configure(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> int:
    section("this machine")
    row("gpuconv", __version__)
    row("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}, {available_cores()} cores")
    row("numpy", f"{metadata.version('numpy')}, BLAS: {_blas()}, ops on up to {parallel.threads()} cores at once")
    if blas.leaves_avx512_unused():
        row("BLAS", blas.WITHOUT_AVX512)

    section("devices")
    for name in KINDS:
        try:
            row(name, f"ready: {backends.describe(name)}")
        except backends.DeviceError as error:
            row(name, f"not available: {error}")
    with contextlib.suppress(backends.DeviceError):  # raised after the last GPU
        for name in map(gpu_name, itertools.count(1)):
            row(name, f"ready: {backends.describe(name)}")
    try:
        row("auto takes", "{}: {}".format(*backends.choose()))
    except backends.DeviceError as error:
        row("auto takes", f"no device: {error}")

    section("kernels")
    for name, purpose, ask in (
        ("driver", "", nvrtc.driver_version),
        ("NVRTC", " (compiles for a GPU)", lambda: nvrtc.toolkit()[1]),
        ("C++ compiler", " (compiles for the emulated device)", cxx.version),
    ):
        try:
            row(name, f"{ask()}{purpose}")
        except (nvrtc.CompileError, EmulatorError) as error:
            row(name, f"not available: {error}")
    folder = cache.directory()
    entries = sum(1 for _ in folder.glob("*/")) if folder.is_dir() else 0
    why = trust.doubt_about_path(folder) if folder.is_dir() else ""
    row("cache", f"{folder} ({f'not used: {why}' if why else f'entries: {entries}'})")

    section("optional packages")
    for package, (purpose, extra) in OPTIONAL.items():
        try:
            row(package, f"{metadata.version(package)} ({purpose})")
        except metadata.PackageNotFoundError:
            requirement = f"'gpuconv[{extra.split()[0]}]'" if extra else package
            row(package, f"not installed ({purpose}): python -m pip install {requirement}")
    return 0


def section(title: str) -> None:
    print(title if title == "this machine" else f"\n{title}")
    json_output.note(**{title: {}})


def row(name: str, text: str) -> None:
    json_output.last_value()[name] = one_line(text)
    print(f"  {name:14}{one_line(text)}")


def _blas() -> str:
    found = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    kernels = blas.kernels()
    name = f"{found.get('name', 'unknown')} {found.get('version', '')}".strip()
    return f"{name} with kernels for {kernels}" if kernels else name
