"""Fixtures of the tests on the stand-in."""

from __future__ import annotations

import pytest


@pytest.fixture
def untimed(monkeypatch):
    """The tuner times nothing: the cost model chooses."""
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")


@pytest.fixture(params=["early", "late"])
def schedule(request):
    """When the stand-in runs queued work: at once, or as late as the rules allow."""
    return request.param
