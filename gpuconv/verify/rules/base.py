"""Types and functions that the rules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuconv import ops
from gpuconv.types import Options
from gpuconv.verify.compare import Expected, results

Arrays = Sequence[Any]
Rule = Callable[[str, Arrays, Options, np.dtype], list[Expected]]


def as_float64(x: Any) -> Any:
    """A float array, or each one in a list, in float64; anything else as it is."""
    if isinstance(x, list):
        return [as_float64(entry) for entry in x]
    is_float = isinstance(x, np.ndarray) and x.dtype.kind not in "iub"
    return x.astype(np.float64) if is_float else x


def exact_results(op: str, arrays: Arrays, options: Options) -> list[Expected]:
    """The op's results, with a bound of 0: they must be reproduced bit for bit."""
    found = results(op, arrays, getattr(ops, op)(*arrays, **options))
    return [Expected(name, as_float64(array), 0.0) for name, array in found.items()]
