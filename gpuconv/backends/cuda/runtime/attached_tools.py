"""Detects NVIDIA tools that run this process and distort kernel times."""

from __future__ import annotations

import functools
import os

_TOOLS = {  # by the prefix of the environment variables that they set
    "NV_NSIGHT_INJECTION_": "Nsight Compute",
    "NV_SANITIZER_INJECTION_": "compute-sanitizer",
}


@functools.cache
def tool() -> str | None:
    """The name of the tool that runs this process, or None."""
    set_by = (name for prefix, name in _TOOLS.items() if any(variable.startswith(prefix) for variable in os.environ))
    return next(set_by, None)
