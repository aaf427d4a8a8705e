"""What a kernel file says of itself before its first line of code."""

from __future__ import annotations

import re

import pytest

from gpuconv.backends.cuda.analysis.variants import MACROS
from gpuconv.backends.cuda.runtime import source


def header(file: str) -> str:
    """The comment that a file begins with, as one line."""
    lines = source.resolve(file).read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("//"))
    return " ".join(line.removeprefix("//").strip() for line in lines[:end])


@pytest.mark.parametrize("file", MACROS)
def test_it_tells_its_macros_its_floor_and_labels_what_it_predicts(file):
    """Those of a tensor-core convolution stand in its SIMT twin and in the main loop's own file."""
    text = header(file)
    if file.endswith("_mma.cu"):
        assert file.replace("_mma", "") in text
        text += header(file.replace("_mma", "")) + header("gemm_mma.cuh")
    assert re.search(r"\bMacros\b", text)
    assert re.search(r"\bFloor|bytes|FLOPs", text)
    assert re.search(r"Prediction, not measured: \w|\(prediction\b", text)
