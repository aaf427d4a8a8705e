"""A case, which is one problem of one op, and functions that make the arguments and names of cases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpuconv.dtypes import FLOAT_NAMES, as_dtype
from gpuconv.types import Options, Shape

TIERS = ("tiny", "odd", "real", "random")
DTYPES = FLOAT_NAMES

Arguments = tuple[list[Any], Options]
Make = Callable[[np.random.Generator, np.dtype], Arguments]


@dataclass(frozen=True)
class Case:
    """One problem of one op.

    Args:
        op: Its name.
        tier: "tiny", "odd", "real" or "random".
        name: The problem's name, unique among the op's cases of this tier.
        make: make(rng, dtype) returns the op's arrays, on the host and in the order of its parameters, and its options.
        dtypes: The dtypes in which the case runs.
    """

    op: str
    tier: str
    name: str
    make: Make = field(repr=False, compare=False)
    dtypes: tuple[str, ...] = DTYPES

    def arguments(self, dtype: str, seed: int = 0) -> Arguments:
        """The op's arrays and options for `dtype`; the same `seed` gives the same numbers."""
        return self.make(np.random.default_rng([seed, *self.name.encode()]), as_dtype(dtype))


def normal(rng: np.random.Generator, shape: int | Shape, dtype: DTypeLike) -> np.ndarray:
    """Numbers from the standard normal distribution."""
    return np.asarray(rng.standard_normal(shape), dtype)


def normal_arrays(*shapes: int | Shape | None, **options: object) -> Make:
    """The arguments of an op that takes arrays of normally distributed numbers. shapes: None for an absent array."""
    return lambda rng, dtype: ([None if shape is None else normal(rng, shape, dtype) for shape in shapes], options)


def text_of(options: Options) -> str:
    return " ".join(f"{name}={value}" for name, value in options.items())
