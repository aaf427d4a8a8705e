"""Structs that the launchers pass to kernels."""

from __future__ import annotations

import numpy as np

from gpuconv.backends.cuda.runtime.structs import fast_divmod


def test_division_by_multiplication_is_exact_for_31_bit_numbers():
    rng = np.random.default_rng(0)
    for d in [1, 2, 3, 5, 7, 2**16 - 1, 2**16, 2**16 + 1, 2**31 - 1, *map(int, rng.integers(1, 2**31, 200))]:
        _, multiplier, shift = fast_divmod(d)
        assert multiplier < 2**32
        near = [(2**31 - 1) // d * d - 1, (2**31 - 1) // d * d, 2**31 - 1, 0, d - 1, d]
        for n in [*near, *map(int, rng.integers(0, 2**31, 50))]:
            if 0 <= n < 2**31:
                assert ((2 * n * multiplier) >> 32) >> shift == n // d
