"""Checks that a call is refused."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest


def refused(error: type[Exception], words: str, call: Callable, *arguments, **options) -> None:
    """`call` raises exactly this type, with these words (literally) in its message."""
    with pytest.raises(error, match=re.escape(words)) as raised:
        call(*arguments, **options)
    assert raised.type is error
