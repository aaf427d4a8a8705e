"""A small session: 200 digits, a linear net, and a run in a temporary folder."""

from __future__ import annotations

import pytest

pytest.importorskip("starlette")

import gpuconv as gc
from gpuconv.live import DataSplits, Session
from tests.live.sessions import LINEAR, recipe_of


@pytest.fixture(scope="session")
def sets():
    train, test = gc.data.load("digits")
    return DataSplits(train.subset(slice(0, 200)), None, test.subset(slice(0, 60)))


@pytest.fixture
def open_session(sets, tmp_path):
    """Opens sessions in this test's folder; all are closed at the end."""
    made = []

    def make(layers=LINEAR, start=True, changes=None, **options):
        recipe = recipe_of(layers, **(changes or {}))
        session = Session(sets, options.pop("recipe", recipe), **{"device": "numpy", "home": tmp_path} | options)
        made.append(session)
        if start:
            session.start()
        return session

    yield make
    for session in made:
        session.close()
