"""Reads .cu files: joins a file and its headers into one flat text, and reads the signatures of its kernels.

Project headers (``#include "..."``) are pasted in, once each, with ``#line`` directives, so that profilers and error
messages name the lines of the .cu files. NVRTC compiles this text; the emulator compiles what `for_host` makes of it.
The cache's key contains the text.

In the directives, a shipped file appears as, for example, "gpuconv/kernels/pool.cuh", and a user's file as its path
relative to the compiled .cu. So the text, the cache's key and the binary do not depend on where the files are.
"""

from __future__ import annotations

import functools
import importlib.resources
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gpuconv.backends.cuda.runtime.limits import MAX_CLUSTER

_SHIPPED = "gpuconv/kernels"  # the folder of the shipped files, in an installed package
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"[^\n]*$', re.MULTILINE)
_PRAGMA_ONCE = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+once[ \t]*$", re.MULTILINE)
COMMENT_OR_STRING = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)

_ARGUMENTS = r"\s*\((?:[^()]|\([^()]*\))*\)"
_ATTRIBUTES = rf"(?:(?:__launch_bounds__|__cluster_dims__){_ARGUMENTS}\s*)*"
_KERNEL = re.compile(
    rf'extern\s+"C"\s+__global__\s+(?P<before>{_ATTRIBUTES})void\s+(?P<after>{_ATTRIBUTES})(?P<name>\w+)\s*\('
)
_BODY = re.compile(r"\s*\{")
_ALIGN = r"(?:alignas|__align__)\s*\(([^()]*)\)\s*"
_ALIGNMENT = re.compile(r"\b" + _ALIGN)
_EXTENTS = r"(?:\s*\[[^;{}]*?\])*"
_VARIABLE = rf"[A-Za-z_]\w*{_EXTENTS}"
_SHARED = re.compile(
    rf"(?P<words>(?:\b(?:extern|static|volatile)\s+)*)(?P<before>{_ALIGN})?__shared__\s+"
    rf"(?P<type>[^;={{}}\[\]]*?[\s>&*])(?P<variables>{_VARIABLE}(?:\s*,\s*{_VARIABLE})*)\s*;"
)

DTYPE_OF_C: dict[str, str] = {
    "float": "float32",
    "double": "float64",
    "__half": "float16",
    "__nv_bfloat16": "bfloat16",
    "bool": "bool",
    "char": "int8",
    "signed char": "int8",
    "unsigned char": "uint8",
    "short": "int16",
    "unsigned short": "uint16",
    "int": "int32",
    "signed": "int32",
    "unsigned": "uint32",
    "long": np.dtype("l").name,
    "unsigned long": np.dtype("L").name,
    "long long": "int64",
    "unsigned long long": "uint64",
    "size_t": "uint64",
}
DTYPE_OF_C |= {f"{name} int": dtype for name, dtype in DTYPE_OF_C.items() if re.search("short|long|signed$", name)}
# The names of <stdint.h>, such as int64_t:
DTYPE_OF_C |= {f"{name}_t": name for name in [*DTYPE_OF_C.values()] if "int" in name}
# The kernels' own names, such as float32, which are also the values of the macro DTYPE:
DTYPE_OF_C |= {name: name for name in [*DTYPE_OF_C.values()] if name != "bool"}
_VECTOR_BASES = {"float": "float32", "double": "float64", "int": "int32", "uint": "uint32", "uchar": "uint8"}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel.

    dtype: the NumPy name of the scalar's or the element's type; None for ``void*``, a struct and a pointer to structs;
    "uint64" for a pointer to pointers.
    alignment: the bytes to which the type requires a pointer to be aligned; 1 if the dtype's own alignment is enough.
    """

    name: str
    c_type: str
    pointer: bool
    dtype: str | None
    alignment: int = 1


@dataclass(frozen=True)
class Signature:
    """A kernel as declared in its source. max_threads: from ``__launch_bounds__``, or None. cluster: the blocks of a
    cluster, from ``__cluster_dims__``; they follow each other along x."""

    name: str
    parameters: tuple[Parameter, ...]
    max_threads: int | None
    cluster: int = 1


def directory() -> Path:
    """The folder of the shipped kernels."""
    return Path(str(importlib.resources.files("gpuconv.kernels")))


def resolve(file: str | Path) -> Path:
    """The path of a kernel file. file: the name of a shipped one ("activation.cu"), or any path that names a folder,
    such as "./mine.cu". Path("./mine.cu") names no folder, because pathlib drops "./".

    Raises ValueError if there is no such file.
    """
    path = Path(file) if os.path.dirname(file) else directory() / file
    if not path.is_file():
        raise ValueError(f"there is no kernel file {path}")
    return path.resolve()


def flatten(path: Path) -> str:
    """The text of a .cu file with its project headers pasted in. A missing header raises ValueError."""
    path, shipped = path.resolve(), directory().resolve()
    seen: set[Path] = set()

    def paste(file: Path) -> str:
        seen.add(file)
        text = file.read_text(encoding="utf-8-sig", errors="replace")  # comments may have another encoding
        name = _c_string(_shown(file, path.parent, shipped))
        parts, end = [f"#line 1 {name}\n"], 0
        comments = [match.span() for match in COMMENT_OR_STRING.finditer(text) if match[0][0] == "/"]
        for match in _INCLUDE.finditer(text):
            if any(begin <= match.start() < end_of_comment for begin, end_of_comment in comments):
                continue
            line = text.count("\n", 0, match.start()) + 1
            header = _find(match[1], file, line)
            parts.append(text[end : match.start()])
            if header not in seen:
                parts.append(f"{paste(header)}\n#line {line + 1} {name}")
            end = match.end()
        return "".join([*parts, text[end:]])

    return _PRAGMA_ONCE.sub("", paste(path))


def _shown(file: Path, base: Path, shipped: Path) -> str:
    """The name of a file in `#line` directives."""
    if file.parent == shipped:
        return f"{_SHIPPED}/{file.name}"
    try:
        return Path(os.path.relpath(file, base)).as_posix()
    except ValueError:  # on another drive of Windows
        return file.as_posix()


def _c_string(name: str) -> str:
    """A C string literal of a name. If the name is not printable, or has a quote or a backslash, its bytes are written:
    quotes, backslashes and all bytes that are not printable ASCII become octal escapes."""
    if name.isprintable() and not set(name) & {'"', "\\"}:
        return f'"{name}"'
    shown = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in os.fsencode(name))
    return f'"{"".join(shown)}"'


def _find(name: str, includer: Path, line: int) -> Path:
    for folder in (includer.parent, directory()):
        if (folder / name).is_file():
            return (folder / name).resolve()
    raise ValueError(f'{includer}:{line}: there is no header "{name}" next to it or among the shipped kernels')


def blank_comments(text: str) -> str:
    """The text without comments; strings and line breaks stay."""
    return COMMENT_OR_STRING.sub(lambda m: m[0] if m[0][0] == '"' else re.sub(r"[^\n]", " ", m[0]), text)


@functools.lru_cache(maxsize=512)
def _signatures(text: str, defines: tuple[tuple[str, str], ...]) -> dict[str, Signature]:
    macros = dict(defines)
    found = {}
    text = blank_comments(text)
    for match in _KERNEL.finditer(text):
        declarations = _declarations(text, match.end())
        if declarations is None:  # declared here, not defined
            continue
        name, attributes = match["name"], _expand(match["before"] + match["after"], macros)
        max_threads, *_ = _attribute("__launch_bounds__", attributes)
        found[name] = Signature(
            name,
            tuple(_parameter(_expand(p, macros)) for p in declarations if p.strip() not in ("", "void")),
            max_threads,
            _cluster(name, _attribute("__cluster_dims__", attributes)),
        )
    return found


def _declarations(text: str, start: int) -> list[str] | None:
    """The declarations in the parameter list that begins at `start`; None if no function body follows the list."""
    depth, begin, found = 0, start, []
    for match in re.compile("[(),<>]").finditer(text, start):
        if match[0] in "(<":
            depth += 1
        elif depth > 0:
            depth -= match[0] in ")>"
        else:
            found.append(text[begin : match.start()])
            begin = match.end()
            if match[0] == ")":
                return found if _BODY.match(text, begin) else None
    return None


def _attribute(name: str, text: str) -> list[int | None]:
    """The arguments of an attribute of a kernel; [None] if it has no such attribute."""
    match = re.search(f"{name}({_ARGUMENTS})", text)
    return [_constant(argument) for argument in match[1].strip()[1:-1].split(",")] if match else [None]


def _cluster(kernel: str, dims: list[int | None]) -> int:
    """The blocks of a cluster, given the arguments of ``__cluster_dims__``. Raises ValueError for a cluster that
    this library cannot run."""
    if dims == [None]:
        return 1
    x, *others = dims
    if x is None or not 1 <= x <= MAX_CLUSTER or others not in ([], [1], [1, 1]):
        received = ", ".join("?" if extent is None else str(extent) for extent in dims)
        raise ValueError(
            f"kernel {kernel}: a cluster is __cluster_dims__(N, 1, 1), N a constant from 1 to {MAX_CLUSTER}, received "
            f"({received})"
        )
    return x


def _constant(expression: str) -> int | None:
    """The value of a constant expression of decimal integers, such as "(128 / 8) * (64 / 8)"; None for anything
    else."""
    if not re.fullmatch(r"[\d\s()+*/-]+", expression):
        return None
    try:
        return int(eval(expression.strip().replace("/", "//"), {"__builtins__": {}}))
    except (SyntaxError, TypeError, ZeroDivisionError):  # an octal number, for example
        return None


def signatures(text: str, defines: Mapping[str, str]) -> dict[str, Signature]:
    """Every ``extern "C" __global__ void`` kernel of a flat text, by name, with the macros in its types expanded.

    Raises ValueError for a parameter that cannot be read, and for a cluster that this library cannot run.
    """
    return _signatures(text, tuple(defines.items()))


def _expand(text: str, macros: Mapping[str, str]) -> str:
    for _ in range(len(macros)):
        text = re.sub(r"\w+", lambda m: macros.get(m[0], m[0]), text)
    return text


def _parameter(declaration: str) -> Parameter:
    declaration = re.sub(r"\b(const|volatile|__restrict__|__grid_constant__|struct)\b", " ", declaration)
    match = re.fullmatch(r"\s*(?P<type>[\w:\s]+?|[\w:]+<.*>)\s*(?P<stars>[*\s]*)\b(?P<name>\w+)\s*", declaration)
    if match is None:
        raise ValueError(f"cannot read the kernel parameter {' '.join(declaration.split())!r}")
    c_type, stars = " ".join(match["type"].split()), match["stars"].count("*")
    vector = re.fullmatch(r"([a-z]+)([24])", c_type)
    if stars > 1:
        dtype, alignment = "uint64", 8  # a table of addresses
    elif stars and vector and vector[1] in _VECTOR_BASES:
        dtype = _VECTOR_BASES[vector[1]]
        alignment = min(16, np.dtype(dtype).itemsize * int(vector[2]))
    else:
        dtype, alignment = DTYPE_OF_C.get(c_type.removeprefix("std::"), ""), 1
    return Parameter(match["name"], c_type + "*" * stars, stars > 0, dtype or None, alignment)


def for_host(text: str, kernels: list[str]) -> str:
    """The text as the emulator compiles it: shared variables are requested from its runtime, and each kernel has an
    entry function."""
    entries = "".join(f"\nGPUCONV_ENTRY({name})" for name in kernels)
    return f'#include "device.h"\n{_SHARED.sub(_shared_on_host, blank_comments(text))}{entries}\n'


def _shared_on_host(match: re.Match[str]) -> str:
    words, c_type = match["words"].split(), f"{match['before'] or ''}{match['type']}".strip()
    alignment = _ALIGNMENT.search(c_type)
    c_type = ("volatile " if "volatile" in words else "") + _ALIGNMENT.sub("", c_type)
    least = alignment[1] if alignment else "1"
    found = []
    for name, extents in re.findall(rf"(\w+)({_EXTENTS})\s*(?:,|$)", match["variables"]):
        if "extern" in words:
            found.append(
                f"{c_type}* const {name} = static_cast<{c_type}*>("
                f"gpuconv_dynamic_shared({least} > alignof({c_type}) ? {least} : alignof({c_type})));"
            )
        else:
            found.append(
                f"static char {name}_key; using {name}_type = {c_type} {extents.strip()}; "
                f'auto& {name} = *static_cast<{name}_type*>(gpuconv_shared(&{name}_key, "{name}", sizeof({name}_type), '
                f"{least} > alignof({name}_type) ? {least} : alignof({name}_type)));"
            )
    return " ".join(found) + "\n" * match[0].count("\n")
