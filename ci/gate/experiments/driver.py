"""Runs a kernel with CuPy for CUDA 12 under a driver of CUDA 12."""

from __future__ import annotations

from ci.gate.experiments import Answer, UnknownError


def ask(device: str, small: bool) -> Answer:
    import cupy
    import numpy as np

    import gpuconv as gc
    from gpuconv import ops

    driver, runtime = cupy.cuda.runtime.driverGetVersion(), cupy.cuda.runtime.runtimeGetVersion()
    if driver >= 13000 or runtime >= 13000:
        raise UnknownError(f"the driver is of CUDA {driver // 1000}, CuPy of CUDA {runtime // 1000}")
    host = np.arange(-8, 8, dtype=np.float32)
    right = np.array_equal(gc.to_numpy(ops.relu(gc.asarray(host, device))), np.maximum(host, 0))
    return ("yes" if right else "no"), f"driver {driver}, runtime {runtime}, a kernel ran"
