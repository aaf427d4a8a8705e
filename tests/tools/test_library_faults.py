"""Which files of the library a mutation run breaks."""

from __future__ import annotations

import pytest

pytest.importorskip("coverage")


def test_packages_within_packages_are_broken_too():
    from tools.mutation import library

    found = library.files()
    assert {"gpuconv/training/trainer.py", "gpuconv/training/optimizers/sgd.py", "gpuconv/files.py"} <= set(found)
    assert len(found) == len(set(found))
