"""The digests of the source files that ranks compare."""

from __future__ import annotations

from gpuconv.training import rank_digests


def test_a_kernel_has_one_digest_and_the_same_path_in_a_checkout_and_in_a_wheel():
    digests = rank_digests.code()
    assert {"kernels/pool.cuh", "gpuconv/losses.py", "gpuconv/backends/cuda/emulator/device.h"} <= digests.keys()
    assert not [name for name in digests if name.startswith("gpuconv/kernels/") and not name.endswith(".py")]
