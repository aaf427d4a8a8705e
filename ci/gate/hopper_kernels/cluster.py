"""A ring of stages that the two blocks of a cluster fill for each other, by multicasting boxes of a tensor map."""

from __future__ import annotations

import numpy as np

import gpuconv as gc
from ci.gate.hopper_kernels.printing import print_case, print_comparison, print_summary
from ci.gate.hopper_kernels.ring import counts
from ci.gate.hopper_kernels.warpgroup import TEST_KERNELS
from gpuconv.backends.cuda.runtime.kernel import Module, load
from gpuconv.backends.cuda.runtime.tensor_map import tensor_map


def module() -> Module:
    """The kernels of the check."""
    return load(TEST_KERNELS / "clusters.cu", {"SIZE": 2})


def check(device: str, small: bool) -> int:
    failed, clusters = 0, 3
    for count in counts(small):
        print_case(f"{count} tiles through a ring of 2 stages in each block of a cluster")
        x = np.random.default_rng(count).integers(-9, 10, (clusters * count * 2, 32)).astype(np.float32)
        y = gc.asarray(np.full((clusters * 2, 64), np.nan, np.float32), device)
        source = gc.asarray(x, device)
        module().kernel("correct")(clusters * 2, 96, y, tensor_map(source, (1, 32)), count)
        found, expected = gc.to_numpy(y), x.reshape(clusters, count, 64).sum(1).repeat(2, axis=0)
        failed += not print_comparison(expected, found)
    return print_summary(failed, len(counts(small)), "rings of clusters")
