"""Makes glibc keep the memory of freed arrays for later arrays.

glibc returns a freed block above a threshold to the kernel, which must clear its pages when a training step allocates
it again. This was measured to take a sixth of a small net's step. The threshold adapts to the largest block freed so
far, up to 32 MiB ("M_MMAP_THRESHOLD" in mallopt(3)), so freeing one untouched block of nearly that size raises it to
the maximum.
"""

from __future__ import annotations

import numpy as np

LARGE = 31 << 20  # bytes: 32 MiB would exceed the limit, with the block's header


def keep_freed_memory() -> None:
    np.empty(LARGE, np.uint8)
