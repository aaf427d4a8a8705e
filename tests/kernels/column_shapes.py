"""Shapes of matrices for the kernels that sum columns: the bias gradient and batch normalization."""

import pytest

from gpuconv.dtypes import FLOAT_NAMES

SHAPES = {
    "one channel": (7, 1),
    "ragged end": (5, 3),
    "twelve channels": (2, 3, 5, 12),
    "prime sizes": (3, 7, 11, 5),
    "a net's layer": (4, 8, 8, 64),
    "several chunks": (20000, 7),
    "several chunks of one channel": (40001, 1),
    "all columns side by side": (33, 1000),  # in float64, two tiles
    "tiles": (9, 4376),  # the last one is narrower
}
SINGLE_NUMBERS = (17, 1031)  # columns in tiles, moved one number at a time
shapes_and_dtypes = pytest.mark.parametrize(
    ("shape", "dtype"),
    [(shape, dtype) for shape in SHAPES.values() for dtype in FLOAT_NAMES] + [(SINGLE_NUMBERS, "float32")],
)


def all_axes_but_the_last(x):
    return tuple(range(x.ndim - 1))
