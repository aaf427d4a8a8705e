"""The loaded BLAS libraries, the processor for which they chose kernels, and whether they leave AVX-512 unused."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

# OpenBLAS's names of processors without AVX-512:
OLDER = frozenset({"Prescott", "Core2", "Nehalem", "Sandybridge", "Haswell", "Zen"})

WITHOUT_AVX512 = "slow: this processor has AVX-512, which OpenBLAS leaves unused; see docs/devices.md"


@functools.cache
def libraries() -> list[Any]:
    """The threadpoolctl controllers of the BLAS libraries that are loaded at the first call: NumPy's, and for example
    SciPy's; empty without threadpoolctl."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return []
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def kernels() -> str:
    """The processor for which NumPy's BLAS chose its kernels, such as "Haswell"; empty if it does not report one."""
    return next((str(name) for library in libraries() if (name := getattr(library, "architecture", None))), "")


def leaves_avx512_unused() -> bool:
    """Whether the processor has AVX-512 but OpenBLAS chose kernels without it."""
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])  # no key if none is found
    has_avx512 = not {"AVX512_SKX", "X86_V4"}.isdisjoint(found)  # X86_V4 since NumPy 2.4, AVX512_SKX before
    return has_avx512 and kernels() in OLDER
