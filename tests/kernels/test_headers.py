"""The header comment of each kernel file, and the page with its performance."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gpuconv.backends.cuda.analysis.variants import MACROS
from gpuconv.backends.cuda.runtime import source

PAGES = Path(__file__).parents[2] / "docs" / "kernels"


def header(file: str) -> str:
    """The comment at the start of a file, as one line."""
    lines = source.resolve(file).read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("//"))
    return " ".join(line.removeprefix("//").strip() for line in lines[:end])


@pytest.mark.parametrize("file", MACROS)
def test_a_header_has_macros_limits_and_floor(file):
    """A tensor-core kernel has the macros of its SIMT counterpart, which it names."""
    text = header(file)
    simt = re.sub("_(wg)?mma(_cluster)?", "", file)
    macros = "Macros:" if simt == file else rf"\bmacros are those of {re.escape(simt)}"
    for words in (macros, "Limits:", "Floor[:,]"):
        assert re.search(words, text), f"{file} does not have {words}"


def test_headers_contain_no_predictions_or_measurements():
    for path in sorted(source.directory().glob("*.cu*")):
        history = re.search(r"[Pp]redict|measured|GPU has run|\d registers|H200", header(path.name))
        assert not history, f"{path.name} says {history[0]!r}: that belongs in docs/kernels"


def test_every_kernel_file_has_its_page():
    listed = re.findall(
        r"^\| \[(\w+\.cu)\]\(\S+/kernels/\1\) \| \[[^]]+\]\((\w+\.md)\) \|$", (PAGES / "README.md").read_text(), re.M
    )
    assert sorted(file for file, _ in listed) == sorted(path.name for path in source.directory().glob("*.cu"))
    for file, page in listed:
        text = (PAGES / page).read_text()
        assert f"[{file}](../../kernels/{file})" in text, f"{page} does not name {file}"
        for word in ("predicted", "measured"):
            assert re.search(rf"^## .*{word}", text, re.M | re.I), f"{page} has no section on what was {word}"
