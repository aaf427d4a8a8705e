"""The least FLOPs of an entry of the suite, and the fewest bytes that it moves."""

from __future__ import annotations

import math

from gpuconv.dtypes import as_dtype
from gpuconv.problems import Conv2dProblem
from gpuconv.profiling.work import Work, convolution


def conv_work(problem: Conv2dProblem, op: str, dtype: str) -> Work:
    """The work of an op of the suite's convolutions. A fused 2x2 pool leaves a quarter of the output to write."""
    size = as_dtype(dtype).itemsize
    one = convolution(problem, size)
    if op in ("dgrad", "wgrad"):
        return one
    y_bytes, bias = math.prod(problem.y_shape) * size, Work(0.0, problem.k * size)
    if op == "backward":  # dy is used twice but has to be read only once
        return one + one + Work(math.prod(problem.y_shape), -y_bytes) + bias
    return one + bias + Work(0.0, -0.75 * y_bytes if op == "fprop_relu_pool" else 0.0)


def step_work(workload: tuple[str, int], steps: int = 1) -> Work:
    """The FLOPs of training steps: forward, plus twice that for backward, minus the first convolution's input gradient,
    and its weight gradient if the weight is frozen; bytes are not counted."""
    from gpuconv import models

    layers = [layer for layer in models.build(workload[0], initialize=False).walk() if layer.variables]
    counted = [layer.mult_adds for layer in layers if layer.mult_adds and not layer.children()]
    first = counted[0] * (2 if "weight" in layers[0].frozen else 1)
    return Work(2.0 * steps * workload[1] * (3 * sum(counted) - first), 0.0)
