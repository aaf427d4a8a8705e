"""Pixels to write into picture files."""

import numpy as np


def picture(height, width, value):
    """Pixels (height, width, 3) that are different for each value."""
    numbers = np.arange(height * width * 3).reshape(height, width, 3)
    return ((numbers * 5 + value * 11) % 256).astype(np.uint8)
