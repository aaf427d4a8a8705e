"""Freed arrays stay with the process for the next ones of their size.

glibc gives a large freed block back to the kernel, which clears every page anew when a training step asks for the same
block again: a sixth of a small net's step, measured. How large is large adapts to the largest block freed so far, up
to 32 MiB ("M_MMAP_THRESHOLD" in mallopt(3)), so freeing one block of that size, never touched, settles it.
"""

from __future__ import annotations

import numpy as np

LARGE = 31 << 20  # bytes: 32 MiB would be past the limit with the block's header


def keep_freed_memory() -> None:
    np.empty(LARGE, np.uint8)
