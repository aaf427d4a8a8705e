"""A fixture with a stand-in for a GPU on which algorithms are timed (stand_in_gpu.py)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from gpuconv.backends.cuda.cache import Cache
from gpuconv.backends.cuda.gemm import tuner


@pytest.fixture
def use_gpu(monkeypatch, tmp_path):
    """A function that makes emulated arrays count as arrays on a given stand-in GPU. The disk cache and the choices in
    memory start empty."""
    monkeypatch.setattr(tuner, "cache", SimpleNamespace(default=lambda: Cache(tmp_path / "cache")))
    monkeypatch.delenv("GPUCONV_AUTOTUNE", raising=False)
    monkeypatch.setattr(tuner, "known_choices", {})

    def use(gpu, forget=False):
        monkeypatch.setattr(tuner, "gpu_of", lambda array: gpu)
        monkeypatch.setattr(tuner, "gpu_named", lambda device: gpu)
        if forget:
            tuner.known_choices.clear()  # the state of a new process
        return gpu

    return use
