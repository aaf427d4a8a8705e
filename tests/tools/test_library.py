"""The files of the library that a mutation run changes."""

from __future__ import annotations

from tests.sources import ROOT, imports
from tools.mutation import library


def test_nested_packages_are_mutated_too():
    files = library.files()
    assert {"gpuconv/training/trainer.py", "gpuconv/training/optimizers/sgd.py", "gpuconv/system/files.py"} <= set(
        files
    )
    assert len(files) == len(set(files))


def test_the_process_whose_forks_test_the_mutants_imports_nothing_of_the_library():
    """Otherwise the forks would test the shipped library instead of the mutants."""
    assert not any(
        imports(ROOT / "tools" / "mutation" / f"{name}.py") for name in ("campaign", "library", "python_faults")
    )
