"""A ring of stages in shared memory, between a producer and two consumers."""

from __future__ import annotations

import numpy as np

import gpuconv as gc
from ci.gate.hopper_kernels.printing import print_case, print_comparison, print_summary
from ci.gate.hopper_kernels.warpgroup import TEST_KERNELS
from gpuconv.backends.cuda.runtime.kernel import Module, load


def module() -> Module:
    """The kernels of the check."""
    return load(TEST_KERNELS / "warpgroups.cu")


def counts(small: bool) -> tuple[int, ...]:
    """The numbers of tiles that go through a ring, one after another."""
    return (1, 3) if small else (1, 2, 3, 4, 7, 10, 100, 1000)


def check(device: str, small: bool) -> int:
    failed, size, blocks = 0, 512, 2
    for count in counts(small):
        print_case(f"{count} tiles through a ring of 3 stages")
        x = np.random.default_rng(count).integers(-9, 10, (count, size)).astype(np.float32)
        y = gc.asarray(np.full((blocks * 2, size), np.nan, np.float32), device)
        module().kernel("correct")(blocks, 384, y, gc.asarray(x, device), count)
        found, expected = gc.to_numpy(y), np.broadcast_to(x.sum(0), (blocks * 2, size))
        failed += not print_comparison(expected, found)
    return print_summary(failed, len(counts(small)), "rings")
