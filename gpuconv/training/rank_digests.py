"""Short digests of code and weights, which ranks compare with those of rank 0."""

from __future__ import annotations

from functools import cache
from pathlib import Path


def of(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()[:16]


@cache
def code() -> dict[str, str]:
    """The digest of each of gpuconv's source files, kernels included, by the file's path."""
    from importlib import resources

    kernels = Path(str(resources.files("gpuconv.kernels")))
    roots = {"gpuconv": Path(__file__).parents[1], "kernels": kernels}
    return {
        f"{name}/{path.relative_to(root).as_posix()}": of(path.read_bytes())
        for name, root in roots.items()
        for path in sorted(root.rglob("*"))
        if path.suffix in (".py", ".cu", ".cuh", ".h")
    }
