"""Compiles for the emulated device with the machine's C++ compiler."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from gpuconv.backends.cuda import cache
from gpuconv.backends.cuda.emulator.errors import EmulatorError
from gpuconv.devices import DeviceError
from gpuconv.system import locks

_HERE = Path(__file__).parent
_COMMON = ["-std=c++17", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing", "-fno-math-errno"]
_COMMON += ["-D_XOPEN_SOURCE=700", "-D_DARWIN_C_SOURCE"] if sys.platform == "darwin" else []  # for ucontext
_OPTIONS = {
    "none": ["-O2", "-ftree-vectorize", "-fno-trapping-math"],
    # Only the sanitizers' instrumentation is used: instrumentation.h implements the functions that it calls. Copies of
    # a Pack are not split, so that they count as one access.
    "checked": [
        "-O1",
        "-fno-tree-sra",
        "-g1",
        "-gdwarf-4",
        "-fsanitize=thread,undefined",
        "-fno-sanitize=vptr",
        "-fno-builtin",
    ],
    "address": ["-O1", "-g1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize=vptr"],
}
# For AddressSanitizer: Python does not free everything at its end, and the fibers have their own stacks.
ASAN_OPTIONS = "detect_leaks=0:detect_stack_use_after_return=0"


class HostCompilerError(EmulatorError, DeviceError):
    """There is no C++ compiler, or it failed; the message contains its output."""


@functools.cache
def find() -> tuple[str, ...]:
    """The command of the C++ compiler: $CXX, which may hold options ("ccache g++"), or else the first of g++, clang++
    and c++ on the path. Raises HostCompilerError if $CXX names no program, if there is no compiler, and on Windows."""
    if os.name != "posix":
        raise HostCompilerError(
            f"the emulated device needs mmap, ucontext and signals, which {sys.platform} lacks: use Linux or macOS "
            "(on Windows: WSL), or device numpy"
        )
    if chosen := os.environ.get("CXX", "").strip():
        return _named_by_user(chosen)
    for candidate in ("g++", "clang++", "c++"):
        if path := shutil.which(candidate):
            return (os.path.abspath(path),)
    raise HostCompilerError(
        "the emulated device needs a C++ compiler and found none ($CXX, g++, clang++, c++); "
        "install one (Debian, Ubuntu: apt install g++; macOS: xcode-select --install) or set CXX"
    )


def _named_by_user(chosen: str) -> tuple[str, ...]:
    try:
        program, *options = shlex.split(chosen)
    except ValueError as error:
        raise HostCompilerError(f"CXX is {chosen!r}, which is not a command: {error}") from None
    path = shutil.which(os.path.expanduser(program))
    if path is None:
        raise HostCompilerError(
            f"CXX is {chosen!r}, and there is no program {program!r}; name a C++ compiler, as CXX=clang++ or "
            "CXX='ccache g++', or unset CXX"
        )
    return (os.path.abspath(path), *options)


@functools.cache
def version() -> str:
    """The compiler's command and its version line."""
    command = [*find(), "--version"]
    lines = _run(command, f"the C++ compiler ({shlex.join(command)}) does not run").splitlines()
    return f"{shlex.join(find())}: {lines[0] if lines else 'unknown'}"


def _is_clang() -> bool:
    """Whether the compiler calls itself clang. Its command may contain this word whatever it is."""
    return "clang version" in version().removeprefix(f"{shlex.join(find())}: ")


@functools.cache
def _machine_options() -> tuple[str, ...]:
    """The option for x86-64 processors with AVX2, FMA and BMI2: faster fused multiply-adds and wider vectors."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        flags = set()
    wide = platform.machine() == "x86_64" and {"avx2", "fma", "bmi2"} <= flags
    return ("-march=x86-64-v3",) if wide else ()


def sanitizer_runtime() -> str:
    """The library that a process must preload for sanitize="address"."""
    name = f"libclang_rt.asan-{platform.machine()}.so" if _is_clang() else "libasan.so"
    command = [*find(), f"-print-file-name={name}"]
    path = _run(command, f"the C++ compiler ({shlex.join(command)}) does not run").strip()
    if not Path(path).is_file():
        raise HostCompilerError(f"{shlex.join(find())} has no AddressSanitizer library ({name})")
    return path


def address_environment() -> dict[str, str]:
    """The environment for a process whose kernels run under AddressSanitizer: pass it to `subprocess.run`."""
    return os.environ | {
        "LD_PRELOAD": sanitizer_runtime(),
        "ASAN_OPTIONS": ASAN_OPTIONS,
        "GPUCONV_EMULATOR_SANITIZE": "address",
    }


def _headers() -> list[str]:
    return [f"{file.name}\n{file.read_text(encoding='utf-8')}" for file in sorted(_HERE.glob("*.h"))]


def compile_library(
    name: str, text: str, defines: Mapping[str, str] | None = None, sanitize: str = "none", once: bool = False
) -> Path:
    """The path of the shared library compiled from `text`, from the cache or compiled now.

    once: if several processes need the library at the same time, one compiles it and the others wait.
    Raises HostCompilerError with the compiler's messages, which name the lines of the .cu file.
    """
    macros = [f"-D{macro}={value}" for macro, value in (defines or {}).items()]
    options = [*_COMMON, *_machine_options(), *_OPTIONS[sanitize], *macros]
    link = ["-shared", "-pthread"]
    link += ["-Wl,-undefined,dynamic_lookup"] if sys.platform == "darwin" else []
    link += ["-fsanitize=address"] if sanitize == "address" else []
    link += ["-shared-libasan"] if sanitize == "address" and _is_clang() else []

    def fill(folder: Path) -> None:
        failed = f"{name} does not compile for the emulated device"
        (folder / "source.cpp").write_text(text, encoding="utf-8")
        _run([*find(), *options, f"-I{_HERE}", "-c", "source.cpp", "-o", "object.o"], failed, folder)
        _run([*find(), *link, "object.o", "-o", "library.so"], failed, folder)
        (folder / "object.o").unlink()

    key = ["emulator", version(), *options, *link, text, *_headers()]  # independent of the headers' folder
    store, label = cache.default(), f"{name}-{sanitize}"
    with locks.hold(_HERE) if once and not store.find(label, key) else contextlib.nullcontext():
        return store.entry(label, key, fill) / "library.so"


def _run(command: Sequence[str], failed: str, folder: Path | None = None) -> str:
    """The output of a command. Raises HostCompilerError with `failed` and the command's own message if it fails. The
    command has a process group of its own, so that Ctrl-C reaches only this process.
    """
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=False, cwd=folder, process_group=0
        )
    except OSError as error:  # for example, a program for another machine
        raise HostCompilerError(f"{failed}: {error.strerror}") from error
    if done.returncode:
        raise HostCompilerError(f"{failed}:\n{done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout
