"""Asynchronous copies into shared memory (async_copy.cuh)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpuconv import asarray, to_numpy
from gpuconv.algorithms import find
from gpuconv.backends.cuda.runtime.kernel import load


def test_a_conditional_copy_writes_data_or_zeros(device, rng):
    x, exists = rng.standard_normal(256).astype(np.float32), rng.integers(0, 2, 64).astype(np.int32)
    macros = find("mma-64x64", "float16").defines("float16") | dict(ACTIVATION="Identity", VECTOR_C=8, VECTOR_K=8)
    run = load(Path(__file__).with_name("tiles.cu"), macros).kernel("copy_or_zeros")
    y = asarray(np.full(256, 7, np.float32), device)
    run(1, 64, y, asarray(x, device), asarray(exists, device), shared=1024)
    np.testing.assert_array_equal(to_numpy(y), x * np.repeat(exists, 4))
