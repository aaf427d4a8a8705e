"""Detects NVIDIA's tools that run this process and make kernel times meaningless."""

from __future__ import annotations

import functools
import os

_TOOLS = {"NV_NSIGHT_INJECTION_": "Nsight Compute", "NV_SANITIZER_INJECTION_": "compute-sanitizer"}  # by what they set


@functools.cache
def tool() -> str | None:
    """The tool's name, or None."""
    return next((name for start, name in _TOOLS.items() if any(known.startswith(start) for known in os.environ)), None)
