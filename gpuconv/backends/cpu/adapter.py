"""The adapter of "numpy": it creates arrays, and nothing has to be copied or waited for."""

from __future__ import annotations

from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import DTypeLike


class NumpyDevice:
    name = "numpy"
    description = "NumPy on the CPU"

    def from_host(self, x: np.ndarray) -> np.ndarray:
        return x

    def to_numpy(self, x: np.ndarray) -> np.ndarray:
        return x

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        return np.empty(shape, dtype)

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
        return np.zeros(shape, dtype)

    def synchronize(self) -> None:
        pass

    def identity(self) -> str:
        from gpuconv.backends.cpu.parallel import threads

        return f"NumPy {np.__version__}, {threads()} threads"

    def same_bits(self) -> AbstractContextManager[None]:
        from gpuconv.backends.cpu.parallel import fixed_parts

        return fixed_parts()
