"""How the kernels that reduce columns divide a matrix among threads (column_reduce.cuh)."""

import numpy as np
import pytest

from gpuconv import asarray
from gpuconv.backends.cuda.ops import column_reduce
from gpuconv.backends.cuda.runtime.grids import THREADS


def elements_of(columns, width):
    """The indices of the elements that the launch's threads visit, by the arithmetic of `walk` in column_reduce.cuh."""
    size, stride, chunk, _, tile, rows = columns.struct.tolist()
    chunks, tiles = columns.grid
    thread = np.arange(columns.threads)
    visited = []
    for block in range(tiles):
        first = block * (tile // width) + thread
        inside = (thread * width < rows * tile) & (first < stride)
        for begin in range(0, chunks * chunk, chunk):
            for step in range(begin, begin + chunk):
                indices = ((first[inside] + step * stride) * width)[:, None] + np.arange(width)
                visited.append(indices[indices < size])
    return np.concatenate([np.zeros(0, int), *visited])


@pytest.mark.parametrize("width", [1, 2, 4, 8])
@pytest.mark.parametrize("most_steps", [None, column_reduce.MAP_STEPS])
@pytest.mark.parametrize(
    "shape", [(1, 1), (0, 5), (5, 3), (100, 12), (4099, 1), (37, 64), (9, 255), (11, 1000), (3, 5000), (7, 20480)]
)
def test_each_element_is_visited_once_and_lanes_keep_their_column(shape, width, most_steps):
    rows, channels = shape
    if np.lcm(channels, width) > THREADS * width and channels % width:
        width = 1
    columns = column_reduce.distribute(rows, channels, width, most_steps)
    np.testing.assert_array_equal(np.sort(elements_of(columns, width)), np.arange(rows * channels))
    assert int(columns.struct["stride"]) * width % channels == 0
    assert columns.threads <= THREADS
    assert columns.threads % 32 == 0


def test_every_element_of_a_matrix_past_2_to_the_31_is_visited():
    rows, channels, width = 2**29, 24, 8
    columns = column_reduce.distribute(rows, channels, width, None)
    size, stride, chunk, _, _, step_rows = columns.struct.tolist()
    assert size == rows * channels
    assert (columns.chunks - 1) * chunk * step_rows < rows <= columns.chunks * chunk * step_rows
    assert columns.chunks <= 1024
    assert stride * width == step_rows * channels
    spread = column_reduce.distribute(rows, channels, width, column_reduce.MAP_STEPS)
    assert spread.chunks * column_reduce.MAP_STEPS * step_rows >= rows


@pytest.mark.parametrize(
    ("channels", "width"), [(1, 4), (3, 4), (12, 4), (255, 4), (1000, 4), (4360, 4), (257, 1), (1031, 1)]
)
def test_packs_are_used_wherever_whole_packs_keep_their_columns(device, channels, width):
    aligned = asarray(np.zeros(64, np.float32), device)
    assert column_reduce.width_of(channels, aligned) == width
    assert column_reduce.width_of(channels, aligned[1:]) == 1
