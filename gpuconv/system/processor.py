"""The processor's cores."""

from __future__ import annotations

import os


def available_cores() -> int:
    """How many cores this process may use; where the system does not tell, the number of all cores, or 1 if that is
    unknown."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
