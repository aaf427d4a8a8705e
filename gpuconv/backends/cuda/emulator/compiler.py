"""Compiling for the emulated device with the machine's C++ compiler."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpuconv.backends.cuda import cache
from gpuconv.backends.cuda.emulator.settings import EmulatorError

_HERE = Path(__file__).parent
_COMMON = ["-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-fno-math-errno"]
_OPTIONS = {
    "none": ["-O2", "-ftree-vectorize", "-fno-trapping-math"],
    # The instrumentation alone: runtime.h answers its calls, not the sanitizers' libraries (but AddressSanitizer's).
    # Moves of a whole Pack stay whole, so that they are seen as the accesses they are.
    "checked": [
        "-O1", "-fno-tree-sra", "-g1", "-gdwarf-4", "-fsanitize=thread,undefined", "-fno-sanitize=vptr", "-fno-builtin"
    ],
    "address": ["-O1", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize=vptr"],
}


@functools.cache
def find() -> str:
    """The C++ compiler: $CXX, or the first of g++, clang++ and c++ on the path. Raises EmulatorError without one."""
    for candidate in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if candidate and (path := shutil.which(candidate)):
            return path
    raise EmulatorError(
        "the emulated device needs a C++ compiler and found none ($CXX, g++, clang++, c++); "
        "install one (Debian, Ubuntu: apt install g++; macOS: xcode-select --install) or set CXX"
    )


@functools.cache
def version() -> str:
    """The compiler's path and what it says of itself."""
    told = subprocess.run([find(), "--version"], capture_output=True, text=True, check=False).stdout
    return f"{find()}: {told.splitlines()[0] if told else 'unknown'}"


@functools.cache
def _machine_options() -> tuple[str, ...]:
    """Instructions beyond the baseline that this processor has, for fused multiply-adds and vectors."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    wide = platform.machine() == "x86_64" and {"avx2", "fma", "bmi2"} <= flags
    return ("-march=x86-64-v3",) if wide else ()


def sanitizer_runtime() -> str:
    """The library that a process must preload for sanitize="address"."""
    clang = "clang" in version()
    name = f"libclang_rt.asan-{platform.machine()}.so" if clang else "libasan.so"
    found = subprocess.run([find(), f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = found.stdout.strip()
    if not Path(path).is_file():
        raise EmulatorError(f"{find()} has no AddressSanitizer library ({name})")
    return path


def _headers() -> list[str]:
    return [f"{file.name}\n{file.read_text()}" for file in sorted(_HERE.glob("*.h"))]


def compile_library(
    name: str, text: str, defines: Mapping[str, str] | None = None, sanitize: str = "none"
) -> Path:
    """The path of the shared library made of `text`, from the cache or compiled now.

    Raises EmulatorError with the compiler's messages, which name the lines of the .cu file.
    """
    macros = [f"-D{macro}={value}" for macro, value in (defines or {}).items()]
    options = [*_COMMON, *_machine_options(), *_OPTIONS[sanitize], f"-I{_HERE}", *macros]
    link = ["-shared", "-pthread"]
    link += ["-Wl,-undefined,dynamic_lookup"] if sys.platform == "darwin" else []
    link += ["-fsanitize=address"] if sanitize == "address" else []
    link += ["-shared-libasan"] if sanitize == "address" and "clang" in version() else []

    def fill(folder: Path) -> None:
        (folder / "source.cpp").write_text(text)
        _run([find(), *options, "-c", "source.cpp", "-o", "object.o"], name, folder)
        _run([find(), *link, "object.o", "-o", "library.so"], name, folder)
        (folder / "object.o").unlink()

    key = ["emulator", version(), *options, *link, text, *_headers()]
    return cache.default().entry(f"{name}-{sanitize}", key, fill) / "library.so"


def _run(command: Sequence[str], name: str, folder: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise EmulatorError(f"{name} does not compile for the emulated device:\n{done.stderr.strip()}")
