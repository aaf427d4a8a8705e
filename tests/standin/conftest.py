"""Fixtures of the tests on the stand-in."""

from __future__ import annotations

import pytest

from tests import standin


@pytest.fixture(autouse=True)
def _gpuconv_has_its_own_functions_again():
    """After a test gpuconv has its own functions again: other tests in this process may use a GPU."""
    with standin.functions_restored():
        yield


@pytest.fixture
def untimed(monkeypatch):
    """The tuner times nothing: the cost model chooses."""
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")


@pytest.fixture(params=["early", "late"])
def schedule(request):
    """When the stand-in runs queued work: at once, or as late as the rules allow."""
    return request.param
