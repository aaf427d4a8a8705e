"""Compares the results of an op with the expected ones, for `gpuconv verify`, the tests, the benchmark and the lab."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv.ops import OPS
from gpuconv.types import Array
from gpuconv.verify.bounds import Bound


@dataclass(frozen=True)
class Expected:
    """One result of an op: its name, the value, and the bound on |result - value| (0: they must be equal)."""

    name: str
    value: np.ndarray
    bound: Bound


@dataclass(frozen=True)
class Difference:
    """The worst difference between a result and its expected values: the one with the largest share.

    share: error / bound; above 1 the result is wrong. text: the difference in words. result, at: the result's name and
    the index of the difference. given, expected: the result's value and the expected one there."""

    error: float
    bound: float
    share: float
    text: str = ""
    result: str = ""
    at: tuple[int, ...] = ()
    given: float = 0.0
    expected: float = 0.0

    @property
    def wrong(self) -> bool:
        return self.share > 1


def compare(expected: Expected, result: object) -> Difference:
    """The worst difference of a host array from the expected one. NaN equals NaN, and differs from every number."""
    value, bound = np.asarray(expected.value, np.float64), np.asarray(expected.bound, np.float64)
    given = np.asarray(result).astype(np.float64)
    if given.shape != value.shape:
        return Difference(
            np.inf, 0.0, np.inf, f"{expected.name} has shape {given.shape}, not {value.shape}", expected.name
        )
    if not given.size:
        return Difference(0.0, 0.0, 0.0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        same = (given == value) | (np.isnan(given) & np.isnan(value))
        error = np.where(same, 0.0, np.abs(given - value))
        error[np.isnan(error)] = np.inf  # only one of the two values is NaN
        share = np.where(error == 0, 0.0, error / bound)
    share[np.isnan(share)] = np.inf  # the bound is NaN, or infinite like the error
    worst = np.unravel_index(np.argmax(share), share.shape)
    limit = float(np.broadcast_to(bound, error.shape)[worst])
    place = tuple(map(int, worst))
    found, correct = float(given[worst]), float(value[worst])
    text = f"{expected.name}{[*place]} is {found:.9g}, expected {correct:.9g} within {limit:.3g}"
    return Difference(float(error[worst]), limit, float(share[worst]), text, expected.name, place, found, correct)


def relative_error(expected: Expected, result: object) -> float:
    """||result - value|| / ||value||, or ||result|| if all values are 0; infinite for another shape, NaN if either
    contains NaN."""
    value, given = np.asarray(expected.value, np.float64), np.asarray(result).astype(np.float64)
    if given.shape != value.shape:
        return np.inf
    return float(np.linalg.norm(given - value)) / (float(np.linalg.norm(value)) or 1.0)


def results(op: str, arrays: Sequence[Any], returned: object) -> dict[str, Array]:
    """All results of a call of an op, by name: the arrays that it returned, then those that it changed in place."""
    given = dict(zip(OPS[op].arrays, arrays))
    found: dict[str, Array] = {}
    for name in OPS[op].changes:
        if isinstance(given.get(name), (list, tuple)):
            found |= {f"{name}[{index}]": array for index, array in enumerate(given[name])}
        elif given.get(name) is not None:
            found[name] = given[name]
    listed = returned if isinstance(returned, tuple) else () if returned is None else (returned,)
    new = [array for array in listed if all(array is not each for each in found.values())]
    return {f"result {index}" if index else "result": array for index, array in enumerate(new)} | found
