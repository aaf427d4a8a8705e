"""Helpers of all rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuconv.verify.compare import Expected

Arrays = Sequence[Any]
Rule = Callable[[str, Arrays, dict[str, Any], Any], list[Expected]]


def wide(x: Any) -> Any:
    """Float arrays in float64; lists entry by entry, anything else as it is."""
    if isinstance(x, list):
        return [wide(entry) for entry in x]
    is_float = isinstance(x, np.ndarray) and x.dtype.kind not in "iub"
    return x.astype(np.float64) if is_float else x
