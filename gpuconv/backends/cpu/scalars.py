"""Scalars that may be arrays of one element."""

from __future__ import annotations

import numpy as np


def value_of(scalar):
    """A number, extracted from a one-element array if necessary."""
    return scalar.item() if isinstance(scalar, np.ndarray) else scalar
