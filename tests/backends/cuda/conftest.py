"""A fixture with a stand-in for CuPy (fake_cupy.py)."""

from __future__ import annotations

import sys

import pytest

from tests.backends.cuda.fake_cupy import FakeCupy


@pytest.fixture
def cupy(monkeypatch):
    fake = FakeCupy(count=2)
    monkeypatch.setitem(sys.modules, "cupy", fake)
    return fake
