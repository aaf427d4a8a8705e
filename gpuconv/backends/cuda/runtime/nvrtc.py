"""Compiles a kernel's flat text to machine code with NVRTC, through cuda.core. Needs no GPU and no driver."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from gpuconv.backends.cuda import cache
from gpuconv.text.plain_text import one_line

# A kernel with instructions of a single chip must compile for that chip; every other kernel, for all of these.
ARCHITECTURES = ("sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120")


class CompileError(RuntimeError):
    """A kernel does not compile (the compiler's messages name the lines of the .cu), or NVRTC, nvdisasm or the driver
    is missing."""


@functools.cache
def known_architectures() -> tuple[str, ...]:
    """The architectures that this NVRTC compiles for, also with the suffixes "a", for the instructions of one chip, and
    "f", for those of its family; ARCHITECTURES if there is no NVRTC."""
    try:
        _, version = toolkit()
        from cuda.bindings import nvrtc

        _, numbers = nvrtc.nvrtcGetSupportedArchs()
    except CompileError:
        return ARCHITECTURES
    families, found = _since_12_9(version), []
    for number in numbers:
        suffixes = [""]
        suffixes += ["a"] if number >= 90 else []
        suffixes += ["f"] if number >= 100 and families else []
        found += [f"sm_{number}{suffix}" for suffix in suffixes]
    return tuple(found)


@dataclass(frozen=True)
class Resources:
    """A kernel's resources, as ptxas reports them. registers: a number per thread. static_shared: bytes per block. The
    others: bytes per thread."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    static_shared: int


@dataclass(frozen=True)
class Binary:
    """A compiled .cu file: the path of the cubin, and each kernel's resources."""

    path: Path
    resources: Mapping[str, Resources]

    @functools.cached_property
    def digest(self) -> str:
        return digest(self.path.read_bytes())


def digest(code: bytes) -> str:
    import hashlib

    return hashlib.sha256(code).hexdigest()


def architecture(capability: str) -> str:
    """The architecture to compile for on a device of this compute capability, "90" for 9.0 as in CuPy. For 9.x and 10.x
    it includes the instructions that are specific to the chip."""
    return f"sm_{capability}" + ("a" if capability[:-1] in ("9", "10") else "")


def compile_cubin(name: str, text: str, defines: Mapping[str, str], arch: str) -> Binary:
    """Compile a flat text (`source.flatten`) for one architecture, or find it in the cache.

    name: the file's name without ".cu", for the cache's entry and for messages. arch: "sm_90a" and the like. Raises
    CompileError.
    """
    if found := find_cubin(name, text, defines, arch):
        return found
    core, loaded = toolkit()
    options = _options(loaded, defines, arch)

    def fill(folder: Path) -> None:
        log, include = io.StringIO(), headers()
        shown = name.encode("ascii", "replace").decode()
        try:
            paths = [include] if include else None
            program_options = core.ProgramOptions(name=f"{shown}.cu", include_path=paths, **options)
            code = core.Program(text, "c++", program_options).compile("cubin", logs=log).code
        except Exception as error:
            raise CompileError(f"{name}.cu does not compile for {arch}:\n{log.getvalue() or error}") from error
        (folder / "kernel.cubin").write_bytes(code)
        (folder / "log.txt").write_text(log.getvalue(), encoding="utf-8", errors="replace")

    return _binary(cache.default().entry(f"{name}-{arch}", _key(loaded, text, options), fill))


def find_cubin(name: str, text: str, defines: Mapping[str, str], arch: str) -> Binary | None:
    """The result of `compile_cubin` if it is in the cache, else None. Raises CompileError if NVRTC's version is
    unknown."""
    release = version()
    entry = cache.default().find(f"{name}-{arch}", _key(release, text, _options(release, defines, arch)))
    return None if entry is None else _binary(entry)


def _binary(entry: Path) -> Binary:
    return Binary(entry / "kernel.cubin", parse_resources((entry / "log.txt").read_text(encoding="utf-8")))


def _options(version: str, defines: Mapping[str, str], arch: str) -> dict[str, object]:
    return {
        "arch": arch,
        "std": "c++17",
        "lineinfo": True,
        "ftz": False,
        "ptxas_options": ["-v"],
        "no_cache": _since_12_9(version) or None,  # NVRTC's own cache would return the code without the log
        "define_macro": [*defines.items()] or None,
    }


def _key(version: str, text: str, options: Mapping[str, object]) -> list[str]:
    """Everything that a cubin depends on. It contains no folder names, so that a cache can be moved."""
    return ["nvrtc", version, header_version(), repr(options), text]


@functools.cache
def toolkit() -> tuple[ModuleType, str]:
    """Load NVRTC. Returns cuda.core and NVRTC's version. Raises CompileError if a part is missing."""
    try:
        from cuda import core, pathfinder  # noqa: F401 - `headers` needs the second one
        from cuda.bindings import nvrtc

        _, major, minor = nvrtc.nvrtcVersion()
    except Exception as error:  # if a part is missing: ImportError, RuntimeError or a loader's own error
        raise CompileError(
            f"NVRTC cannot be loaded ({error}); pip install 'gpuconv[cuda13]' (or cuda12, if the driver is for CUDA "
            "12), or 'gpuconv[compile]' on a machine without a GPU"
        ) from error
    return core, f"NVRTC {major}.{minor}"


def version() -> str:
    """NVRTC's version. It comes from the package's metadata, so that cached kernels can be used without loading NVRTC;
    without a package, or if NVRTC is loaded already, it comes from NVRTC itself."""
    loaded = toolkit.cache_info().currsize > 0
    return (None if loaded else _packaged_version()) or toolkit()[1]


@functools.cache
def _packaged_version() -> str | None:
    """The version of the NVRTC package that cuda.bindings would load, None if there is none."""
    from importlib import metadata

    try:
        major, *_ = metadata.version("cuda-bindings").split(".")
        name = "nvidia-cuda-nvrtc" if int(major) >= 13 else f"nvidia-cuda-nvrtc-cu{major}"
        its_major, minor, *_ = metadata.version(name).split(".")
    except (metadata.PackageNotFoundError, ValueError):
        return None
    return f"NVRTC {major}.{minor}" if its_major == major else None


def _since_12_9(version: str) -> bool:
    return tuple(map(int, version.removeprefix("NVRTC ").split("."))) >= (12, 9)


@functools.cache
def headers() -> str | None:
    """The folder of cuda_fp16.h; None if it is not installed."""
    try:
        from cuda import pathfinder
    except ImportError:  # cuda-pathfinder is not installed
        return None
    return pathfinder.find_nvidia_header_directory("cudart")


def header_version() -> str:
    """The version of cuda_fp16.h and similar headers: "headers 13000" for CUDA 13.0."""
    return f"headers {_header_version(headers())}"


@functools.cache
def _header_version(folder: str | None) -> str:
    try:
        text = Path(folder or "", "cuda_runtime_api.h").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "unknown"
    found = re.search(r"#define\s+CUDART_VERSION\s+(\d+)", text)
    return found[1] if found else "unknown"


def driver_version() -> str:
    """The CUDA version that the NVIDIA driver supports, as "CUDA 13.0". Raises CompileError, with the cause, if there
    is no driver."""
    try:
        from cuda.bindings import driver

        error, version = driver.cuDriverGetVersion()
    except Exception as missing:  # as in `toolkit`
        raise CompileError(one_line(missing)) from missing
    if int(error):
        raise CompileError(f"cuDriverGetVersion fails: {error!r}")
    return f"CUDA {version // 1000}.{version % 1000 // 10}"


_ENTRY = re.compile(r"Compiling entry function '(\w+)'")
_COUNTS = {
    "stack": re.compile(r"(\d+) bytes stack frame"),
    "spill_stores": re.compile(r"(\d+) bytes spill stores"),
    "spill_loads": re.compile(r"(\d+) bytes spill loads"),
    "registers": re.compile(r"Used (\d+) registers"),
    "static_shared": re.compile(r"(\d+) bytes smem"),
}


def parse_resources(log: str) -> dict[str, Resources]:
    """Each kernel's resources, from the log of ``ptxas -v``."""
    _, *parts = _ENTRY.split(log)
    return {name: _resources_of(text) for name, text in zip(parts[::2], parts[1::2])}


def _resources_of(text: str) -> Resources:
    """The resources of one kernel, from its part of the log; what the log does not mention is 0."""
    found = {what: count.search(text) for what, count in _COUNTS.items()}
    return Resources(**{what: int(match[1]) if match else 0 for what, match in found.items()})
