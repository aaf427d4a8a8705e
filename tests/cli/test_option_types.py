"""The types of the numbers that options take."""

from __future__ import annotations

import argparse

import pytest

from gpuconv.cli import option_types


def test_integers_have_a_minimum_and_fit_64_bits():
    for minimum, number in ((0, 0), (1, 1), (1, 2**63 - 1)):
        assert option_types.count(minimum)(str(number)) == number
    for minimum, text in ((0, "-1"), (1, "0"), (1, "1.5"), (0, "x"), (0, str(2**63))):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number"):
            option_types.count(minimum)(text)


def test_numbers_are_positive_and_finite():
    assert option_types.positive("1e-300") == 1e-300
    for text in ("0", "-1", "inf", "nan", "x", ""):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a number above 0"):
            option_types.positive(text)
