"""Short digests of code and weights, which ranks compare with those of rank 0."""

from __future__ import annotations

from functools import cache
from pathlib import Path


def of(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()[:16]


@cache
def code() -> dict[str, str]:
    """The digest of each of gpuconv's source files by its path: "kernels/pool.cuh" for a kernel's, also in a wheel,
    where the kernels lie in gpuconv/kernels."""
    from importlib import resources

    roots = {"kernels": Path(str(resources.files("gpuconv.kernels"))), "gpuconv": Path(__file__).parents[1]}
    names: dict[Path, str] = {}
    for name, root in roots.items():
        for path in sorted(root.rglob("*")):
            if path.suffix in (".py", ".cu", ".cuh", ".h"):
                names.setdefault(path.resolve(), f"{name}/{path.relative_to(root).as_posix()}")
    return {name: of(path.read_bytes()) for path, name in names.items()}
