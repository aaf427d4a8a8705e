"""The processor's cores."""

from __future__ import annotations

import os


def available_cores() -> int:
    """The number of cores that this process may use, where the system tells; else of all cores; 1 if unknown."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
