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
    return next((name for start, name in _TOOLS.items() if any(known.startswith(start) for known in os.environ)), None)
