"""Makes glibc keep the memory of freed arrays, so that later arrays reuse it.

glibc returns a freed block above a threshold to the operating system, which must clear new pages for the next array of
that size. Clearing them was measured to take a sixth of a small net's training step. The threshold adapts to the
largest block freed so far, up to 32 MiB ("M_MMAP_THRESHOLD" in mallopt(3)), so allocating and freeing one block of
nearly that size raises it nearly to the maximum.
"""

from __future__ import annotations

import numpy as np

LARGE = 31 << 20  # bytes: a block of 32 MiB and its header would exceed the limit


def keep_freed_memory() -> None:
    np.empty(LARGE, np.uint8)
