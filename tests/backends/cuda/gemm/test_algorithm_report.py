"""The algorithms that a layer reports are those that run."""

from __future__ import annotations

from contextvars import ContextVar

import numpy as np
import pytest

from gpuconv import asarray
from gpuconv.backends.cuda.gemm import plan, tuner
from gpuconv.layers import Conv2D, Linear, MaxPool2D, ReLU
from gpuconv.layers.fused import ConvReLU
from tests.backends.cuda.gemm.stand_in_gpu import CONV2D, NAMES, StandInGpu, X, durations, run_op


def test_a_layer_reports_the_algorithm_that_runs_whether_measured_or_chosen_by_the_cost_model(use_gpu, monkeypatch):
    fastest = next(name for name in NAMES if name != plan.plan(CONV2D).algorithm.name)
    use_gpu(StandInGpu(durations(fastest)))
    layer = Conv2D(12, 3)
    layer.build(X.shape[1:], device="emulated")
    modeled = layer.algorithms(len(X))["fprop"]
    assert run_op()[0][-1] == layer.algorithms(len(X))["fprop"] == fastest
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")
    assert run_op()[0] == [layer.algorithms(len(X))["fprop"]] == [fastest]  # the measured choice is kept
    monkeypatch.setattr(tuner, "model_chooses", ContextVar("model_chooses", default=True))
    assert run_op()[0] == [layer.algorithms(len(X))["fprop"]] == [modeled]
    monkeypatch.delenv("GPUCONV_AUTOTUNE")
    assert run_op()[0] == [layer.algorithms(len(X))["fprop"]] == [modeled]


@pytest.mark.kernels
def test_a_layer_reports_the_measured_choice(use_gpu):
    use_gpu(StandInGpu(durations("simt-128x64")))
    fused = ConvReLU([Conv2D(12, 3), ReLU(), MaxPool2D(2)])
    for layer, x in ((Conv2D(12, 3), X), (Linear(6), np.ones((5, 8), np.float32)), (fused, X)):
        layer.build(x.shape[1:], device="emulated")
        modeled = layer.algorithms(len(x))
        y = layer.forward(asarray(x, "emulated"))
        assert layer.algorithms(len(x)) == modeled | {"fprop": "simt-128x64"} != modeled
        layer.backward(y)
        assert layer.algorithms(len(x)) == dict.fromkeys(modeled, "simt-128x64")
