"""The files of the library that a mutation run changes."""

from __future__ import annotations

from tools.mutation import library


def test_nested_packages_are_mutated_too():
    files = library.files()
    assert {"gpuconv/training/trainer.py", "gpuconv/training/optimizers/sgd.py", "gpuconv/system/files.py"} <= set(
        files
    )
    assert len(files) == len(set(files))
