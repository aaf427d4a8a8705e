"""Parametrized cases are named after their arguments."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.case_ids import identify
from tests.sources import ROOT

CASES = {
    "text": ("relu", None),
    "empty text": ("", "argument=''"),
    "number": (2, "argument=2"),
    "nothing": (None, "argument=None"),
    "shape": ((2, 3, 5), "2x3x5"),
    "one axis": ((7,), "argument=7"),
    "place": ((-1, 0), "argument=-1,0"),
    "no axes": ((), "no argument"),
    "pairs": (((1, 0), (2, 1)), "1x0,2x1"),
    "list": ([1, 2], "argument=1,2"),
    "list of fractions": ([0.5, 0.0], "argument=0.5,0.0"),
    "fractions": ((0.9, None), "argument=0.9,None"),
    "nested list": ((1, [2]), "1,2"),
    "options": ({"momentum": 0.9, "nesterov": True}, "momentum=0.9,nesterov=True"),
    "text like a number": ({"seed": "1"}, "seed='1'"),
    "no options": ({}, "no argument"),
    "array": (np.zeros((2, 3), np.uint8), "uint8 array of 2x3"),
    "class": (ValueError, "ValueError"),
    "exception": (OSError("full"), "OSError"),
    "function without a name": (lambda state: state.pop("conv1.weight"), "pop conv1.weight"),
    "object": (object(), "object"),
}


@pytest.mark.parametrize("kind", CASES)
def test_an_id_describes_the_argument(kind):
    value, name = CASES[kind]
    assert identify(value, "argument") == name


def test_only_kernel_variants_are_named_by_str():
    """`str` names an empty dict {}. Only the kernel variants use it: their text is long, and `identify` would cut
    it."""
    by_str = [path.name for path in (ROOT / "tests").rglob("*.py") if re.search(r"\bids=str\b", path.read_text())]
    assert by_str == ["test_machine_code.py"]
