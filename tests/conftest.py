"""What all tests share."""

from __future__ import annotations

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Where only NumPy is installed there is no bfloat16; a test that comes upon that steps aside."""
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if error.name != "ml_dtypes":
            raise
        pytest.skip("bfloat16 needs ml_dtypes")
