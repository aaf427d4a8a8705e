"""stmatrix stores matrices directly and transposed."""

from pathlib import Path

import numpy as np

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.runtime.kernel import load

FILE = Path(__file__).with_name("bulk_copies.cu")


def test_matrices_are_stored_directly_and_transposed():
    halves = np.arange(256, dtype=np.uint16).reshape(4, 8, 8)
    lanes = np.arange(32)
    fragments = np.stack([halves[m, lanes // 4, lanes % 4 * 2 + i] for m in range(4) for i in range(2)], axis=-1)
    y = emulator.empty((2, 32, 4), np.uint32)
    load(FILE).kernel("matrices")(1, 32, y, emulator.asarray(np.ascontiguousarray(fragments).view(np.uint32)))
    direct, transposed = np.asarray(y).view(np.uint16).reshape(2, 4, 8, 8)
    np.testing.assert_array_equal(direct, halves)
    np.testing.assert_array_equal(transposed, halves.transpose(0, 2, 1))
