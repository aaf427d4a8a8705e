"""Runs the cases on a device and collects the outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuconv import backends, ops
from gpuconv.algorithms import UnservedError
from gpuconv.arguments import integer
from gpuconv.dtypes import full_name
from gpuconv.names import canonical
from gpuconv.text import html
from gpuconv.types import Array
from gpuconv.verify.cases.case import DTYPES, Case
from gpuconv.verify.compare import compare, results
from gpuconv.verify.oracle import expected_results


@dataclass(frozen=True)
class Outcome:
    """The result of one case.

    Args:
        case: The problem.
        dtype: The dtype in which it ran.
        error: The difference from the oracle at the worst value, where error / bound is largest.
        bound: The error bound there.
        share: error / bound there; above 1 is wrong.
        failure: The wrong value or the exception, in words; "" if the case passed.
    """

    case: Case
    dtype: str
    error: float
    bound: float
    share: float
    failure: str = ""

    @property
    def passed(self) -> bool:
        return not self.failure


@dataclass
class Row:
    """The outcomes of one op and dtype.

    Args:
        op: Its name.
        dtype: The dtype in which it ran.
        outcomes: One for each case.
    """

    op: str
    dtype: str
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def worst(self) -> Outcome:
        return max(self.outcomes, key=lambda outcome: (not outcome.passed, outcome.share))

    def _repr_html_(self) -> str:
        rows = [[e.case.name, f"{e.error:.1e}", f"{e.bound:.1e}", e.failure or "ok"] for e in self.outcomes]
        return html.table(["case", "error", "bound", ""], rows, f"{self.op} in {self.dtype}")

    @property
    def smallest_failure(self) -> Outcome | None:
        """The first failure. If the cases are in the order of `cases()`, it is in the first tier that has one."""
        return next((outcome for outcome in self.outcomes if not outcome.passed), None)


def run_case(case: Case, dtype: str, device: str, seed: int = 0) -> Outcome:
    """Run one case on a device and compare it with the oracle. A RuntimeError or MemoryError of the op fails the case.

    Args:
        case: The problem.
        dtype: One of the case's dtypes.
        device: The device's name.
        seed: The seed of the case's numbers.
    """
    arrays, options = case.arguments(dtype, seed)
    moved = [to_device(array, device) for array in arrays]
    moved_options = {name: to_device(value, device) for name, value in options.items()}
    expected = expected_results(case.op, [copied(a) for a in arrays], options)
    try:
        returned = getattr(ops, case.op)(*moved, **moved_options)
        found = [backends.to_numpy(array) for array in results(case.op, moved, returned).values()]
    except (RuntimeError, MemoryError) as error:
        return Outcome(case, dtype, np.inf, 0.0, np.inf, f"{type(error).__name__}: {error}")
    differences = [compare(one, result) for one, result in zip(expected, found, strict=True)]
    worst = max(differences, key=lambda difference: difference.share)
    return Outcome(case, dtype, worst.error, worst.bound, worst.share, worst.text if worst.wrong else "")


def to_device(value: object, device: str) -> object:
    """A host array, or each one in a list or tuple, on a device; anything else as it is. A slice of the channels of a
    volume, such as x[..., 2:5], becomes the same slice of the volume on the device."""
    return map_arrays(lambda array: _to_device(array, device), value)


def _to_device(array: np.ndarray, device: str) -> Array:
    volume = array.base
    if array.flags.c_contiguous or not isinstance(volume, np.ndarray) or not _are_channels_of(array, volume):
        return backends.asarray(array, device)
    begin = (array.ctypes.data - volume.ctypes.data) // array.itemsize
    return backends.asarray(volume, device)[..., begin : begin + array.shape[-1]]


def _are_channels_of(array: np.ndarray, volume: np.ndarray) -> bool:
    same_pixels = array.shape[:-1] == volume.shape[:-1] and array.strides == volume.strides
    return same_pixels and array.dtype == volume.dtype and volume.flags.c_contiguous


def copied(value: object) -> object:
    """A copy of a host array, or of each one in a list or tuple; anything else as it is."""
    return map_arrays(lambda array: array.copy(), value)


def map_arrays(
    function: Callable[[Any], Any],
    value: object,
    is_array: Callable[[object], bool] = lambda x: isinstance(x, np.ndarray),
) -> Any:  # noqa: ANN401 - an array, or another argument
    """function(value) for an array, and a list or tuple with function(array) for each array in it; anything else as it
    is. is_array: which values are arrays; by default those of the host."""
    if isinstance(value, (list, tuple)):
        return type(value)(map_arrays(function, entry, is_array) for entry in value)
    return function(value) if is_array(value) else value


def verify(chosen: Iterable[Case], dtypes: Iterable[str], device: str, seed: int = 0) -> Iterator[Row]:
    """Run cases on a device, op by op and dtype by dtype; yields each row when it is done. A case that names an
    algorithm which does not serve its shapes is left out.

    Args:
        chosen: The cases.
        dtypes: Names of dtypes, or the name of one, also short ones; a case runs in those of them that it accepts.
        device: The device's name.
        seed: The seed of the cases' numbers, at least 0.

    Raises ValueError or TypeError for an unknown dtype, and for a wrong seed, before the first row is asked for.
    """
    listed = [dtypes] if isinstance(dtypes, str) else dtypes
    named = [canonical("dtype", full_name(dtype), DTYPES) for dtype in listed]
    return _rows(chosen, named, device, integer("seed", seed, 0))


def _rows(chosen: Iterable[Case], dtypes: list[str], device: str, seed: int) -> Iterator[Row]:
    by_op: dict[str, list[Case]] = {}
    for case in chosen:
        by_op.setdefault(case.op, []).append(case)
    for op, listed in by_op.items():
        for dtype in dtypes:
            row = Row(op, dtype)
            for case in listed:
                if dtype in case.dtypes:
                    with suppress(UnservedError):
                        row.outcomes.append(run_case(case, dtype, device, seed))
            if row.outcomes:
                yield row
