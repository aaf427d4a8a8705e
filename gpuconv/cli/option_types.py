"""Types of options for argparse: functions that read an option's text, or raise an error that says what is expected."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from gpuconv import spec
from gpuconv.text import parse_numbers


def switch(text: str) -> int:
    """1 or 0, also from a word such as "yes" or "off"."""
    try:
        return int(spec.parse_flag(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(least: int) -> Callable[[str], int]:
    """The type of an integer that is at least `least`."""

    def read(text: str) -> int:
        try:
            number = parse_numbers.integer(text)
        except ValueError:
            number = None
        if number is None or number < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, received {text!r}")
        if number >= 2**63:
            raise argparse.ArgumentTypeError(f"expected a whole number below 2^63, received {text!r}")
        return number

    return read


def positive(text: str) -> float:
    """A finite number above zero."""
    number = _real(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, received {text!r}")
    return number


def fraction(text: str) -> float:
    """A number from 0 to below 1."""
    number = _real(text)
    if not 0 <= number < 1:
        raise argparse.ArgumentTypeError(f"expected a fraction from 0 to below 1, received {text!r}")
    return number


def share(text: str) -> float:
    """A share above 0 and at most 1, such as 0.02 or 2%."""
    number = _real(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(
            f"expected a share above 0 and at most 1, such as 2% or 0.02, received {text!r}"
        )
    return number


def _real(text: str) -> float:
    """The number in the text. NaN, which lies in no range, if the text is not a number."""
    try:
        return parse_numbers.real(text)
    except ValueError:
        return math.nan
