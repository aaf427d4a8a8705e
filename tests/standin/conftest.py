"""Fixtures of the tests on the stand-in."""

from __future__ import annotations

import pytest

from gpuconv.backends.cuda.runtime import nvrtc, tensor_map
from gpuconv.profiling import peaks, timer

REPLACED = [  # functions that the stand-in, or a test with made-up times, replaces
    (nvrtc, "compile_cubin"),
    (nvrtc, "find_cubin"),
    (tensor_map, "driver"),
    (peaks, "_on_gpu"),
    (timer, "CudaTimer"),
]


@pytest.fixture(autouse=True)
def _gpuconv_has_its_own_functions_again():
    """After a test gpuconv has its own functions again: other tests in this process may use a GPU."""
    before = [getattr(module, name) for module, name in REPLACED]
    yield
    assert [getattr(module, name) for module, name in REPLACED] == before


@pytest.fixture
def untimed(monkeypatch):
    """The tuner times nothing: the cost model chooses."""
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")


@pytest.fixture(params=["early", "late"])
def schedule(request):
    """When the stand-in runs queued work: at once, or as late as the rules allow."""
    return request.param
