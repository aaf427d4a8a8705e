"""A GPU on which each algorithm takes a given time: the emulated device computes, and a table gives the times."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.algorithms import serving
from gpuconv.backends.cuda.gemm import plan, tuner
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.profiling import launches

NAMES = [algorithm.name for algorithm in serving("float32")]
CONV2D = Product("conv2d_fprop", 2 * 4 * 5, 12, 72, 1, np.dtype(np.float32))  # of X and W
X, W = (np.random.default_rng(7).standard_normal(s).astype(np.float32) for s in ((2, 6, 7, 8), (12, 3, 3, 8)))


class StandInGpu:
    """A GPU on which each algorithm takes a given time. It records which algorithms are timed.

    durations: the seconds of a run of each algorithm. capture: whether a CUDA graph is being captured."""

    def __init__(self, durations, model="Make-Believe", capture=False):
        self.durations, self.model, self.capture = durations, model, capture
        self.timed, self.spent = [], 0.0

    def capturing(self):
        return self.capture

    def seconds(self, run, count):
        with launches.record_launches() as launched:
            for _ in range(count):
                run()
        names = {row["algorithm"] for row in launches.table(launched)} - {None}
        (name,) = names
        self.timed.append(name)
        self.spent += count * self.durations[name]
        return count * self.durations[name]


def durations(fastest, fast=1e-5, slow=3e-5):
    """The seconds of each algorithm: `fast` for the fastest one, `slow` for all others."""
    return {name: fast if name == fastest else slow for name in NAMES}


def choices(tmp_path):
    """The folders of the choices in the disk cache of `use_gpu`."""
    return sorted((tmp_path / "cache").glob("choice-*"))


def run_op(op="conv2d", arrays=(X, W), **options):
    """The algorithms that an op launched, in order, and the op's result."""
    moved = [asarray(a, "emulated") for a in arrays]
    with launches.record_launches() as launched:
        result = to_numpy(getattr(ops, op)(*moved, **options))
    return [row["algorithm"] for launch in launched for row in launches.table([launch]) if row["algorithm"]], result


def chosen_without_kernels(fastest):
    """The name of the algorithm that the tuner chooses, and how many runs it timed. The runs launch no kernel."""
    product, timed = Product("conv2d_fprop", 100, 100, 100, 1, np.dtype(np.float32)), []

    def seconds(call, count):
        call()
        return 1e-5 if timed[-1].algorithm.name == fastest else 3e-5

    gpu = StandInGpu({})
    gpu.seconds = seconds
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "gpu_of", lambda array: gpu)
        patch.setattr(tuner, "capability_of", lambda array: plan.NEWEST)
        return tuner.choose(product, "auto", None, timed.append).algorithm.name, len(timed)
