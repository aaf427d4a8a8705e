"""The files of the library that a mutation run changes."""

from __future__ import annotations

import pytest

pytest.importorskip("coverage")


def test_nested_packages_are_mutated_too():
    from tools.mutation import library

    found = library.files()
    assert {"gpuconv/training/trainer.py", "gpuconv/training/optimizers/sgd.py", "gpuconv/files.py"} <= set(found)
    assert len(found) == len(set(found))
