"""Helpers of all rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuconv import ops
from gpuconv.types import Options
from gpuconv.verify.compare import Expected, results

Arrays = Sequence[Any]
Rule = Callable[[str, Arrays, Options, np.dtype], list[Expected]]


def wide(x: Any) -> Any:
    """Float arrays in float64; lists entry by entry, anything else as it is."""
    if isinstance(x, list):
        return [wide(entry) for entry in x]
    is_float = isinstance(x, np.ndarray) and x.dtype.kind not in "iub"
    return x.astype(np.float64) if is_float else x


def same_bits(op: str, arrays: Arrays, options: Options) -> list[Expected]:
    """The results that the op must give bit for bit."""
    found = results(op, arrays, getattr(ops, op)(*arrays, **options))
    return [Expected(name, wide(array), 0.0) for name, array in found.items()]
