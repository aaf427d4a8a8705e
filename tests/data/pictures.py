"""Pictures to write into files."""

import numpy as np


def picture(height, width, value):
    rows = np.arange(height * width * 3).reshape(height, width, 3)
    return ((rows * 5 + value * 11) % 256).astype(np.uint8)
