"""CUDA's limits for a launch, and sizes that all GPUs share."""

from __future__ import annotations

WARP = 32  # threads of a warp
SCHEDULERS = 4  # schedulers of a multiprocessor, each with its share of the registers; a warp belongs to one

MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_BLOCK = (1024, 1024, 64)
MAX_THREADS = 1024  # threads of a block
MAX_CLUSTER = 8  # blocks of a cluster, on every GPU that has clusters
# Bytes of a block, the most of any GPU: kSharedCapacity of emulator/shared_memory.h. On a GPU with less, the launch
# raises CUDA's error.
MAX_SHARED = 232448
SHARED_WITHOUT_OPT_IN = 48 * 1024  # bytes of a block, including static shared memory; more needs a function attribute
