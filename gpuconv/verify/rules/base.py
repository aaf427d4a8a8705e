"""Types and functions that the rules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpuconv import ops
from gpuconv.types import Options
from gpuconv.verify.bounds import accumulation, rounding
from gpuconv.verify.compare import Expected, results

Arrays = Sequence[Any]  # arrays, lists of arrays, and None
Rule = Callable[[str, Arrays, Options, np.dtype], list[Expected]]


def as_float64(x: object) -> Any:  # noqa: ANN401 - of the same kind as x
    """A float array, or each one in a list, in float64; anything else as it is."""
    if isinstance(x, list):
        return [as_float64(entry) for entry in x]
    return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind not in "iub" else x


def number_of(options: Options, name: str, default: float | None = None) -> float:
    """An option that is a number or an array of one number. Raises KeyError if it is missing and has no default."""
    return float(np.asarray(options[name] if default is None else options.get(name, default)).item())


def expected_sum(one: Expected, before: np.ndarray) -> Expected:
    """The expected sum if an op adds the result `one` to an array. before: that array before the call."""
    old = as_float64(before)
    size = np.abs(old) + np.abs(one.value)
    bound = one.bound + accumulation(before.dtype, 1, size) + rounding(before.dtype, size)
    return Expected(one.name, one.value + old, bound)


def accumulating_rule(rule: Rule, option: str) -> Rule:
    """The rule of an op that adds its first result to `out` if an option says so."""

    def with_out(op: str, arrays: Arrays, options: Options, dtype: np.dtype) -> list[Expected]:
        plain = {name: value for name, value in options.items() if name not in ("out", option)}
        first, *others = rule(op, arrays, plain, dtype)
        return [expected_sum(first, options["out"]) if options.get(option) else first, *others]

    return with_out


def exact_results(op: str, arrays: Arrays, options: Options) -> list[Expected]:
    """The op's results, with a bound of 0: they must be reproduced value for value."""
    found = results(op, arrays, getattr(ops, op)(*arrays, **options))
    return [Expected(name, as_float64(array), 0.0) for name, array in found.items()]
