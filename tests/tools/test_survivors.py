"""The lists of mutants that no test can tell from the original."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gpuconv.backends.cuda.runtime import source
from tests.sources import ROOT
from tools.mutation import cuda_faults, python_faults
from tools.mutation.campaign import Mutant, known_survivors

Mutate = Callable[[str, str], Iterator[Mutant]]


@pytest.mark.parametrize(
    ("name", "folder", "mutate"),
    [
        ("kernels_survivors.toml", source.directory(), cuda_faults.mutants),
        ("library_survivors.toml", ROOT, python_faults.mutants),
    ],
    ids=["kernels", "library"],
)
def test_each_listed_survivor_is_a_mutant_of_the_code_as_it_is(name: str, folder: Path, mutate: Mutate):
    known = known_survivors(ROOT / "tools" / "mutation" / name)
    assert known
    for file in {key[0] for key in known}:
        keys = {mutant.key for mutant in mutate(file, (folder / file).read_text())}
        assert [key for key in known if key[0] == file and key not in keys] == []
