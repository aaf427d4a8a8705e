"""gpuconv's source files, the syntax trees of files, and what they import of the repository."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[1]


def modules() -> list[Path]:
    """The files of the package gpuconv."""
    return sorted((ROOT / "gpuconv").rglob("*.py"))


@functools.cache
def syntax(path: Path) -> tuple[ast.AST, ...]:
    """All nodes of a file's syntax tree."""
    return tuple(ast.walk(ast.parse(path.read_text())))


@functools.cache
def imports(path: Path, packages: tuple[str, ...] = ("gpuconv",)) -> frozenset[str]:
    """The modules of the given packages, and the names in modules, that a file's own statements import, also inside
    functions: such as "gpuconv", "gpuconv.names" and "gpuconv.names.lookup"."""
    names = set()
    for node in syntax(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports must be absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in names if name.partition(".")[0] in packages)
