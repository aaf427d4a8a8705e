"""Whether one of NVIDIA's tools runs this process, which makes a kernel's time meaningless."""

from __future__ import annotations

import functools
import os

_TOOLS = {"NV_NSIGHT_INJECTION_": "Nsight Compute", "NV_SANITIZER_INJECTION_": "compute-sanitizer"}  # by what they set


@functools.cache
def tool() -> str | None:
    """The tool's name; None where there is none."""
    return next((name for start, name in _TOOLS.items() if any(known.startswith(start) for known in os.environ)), None)
