"""Running the cases on a device, and what came out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuconv import backends, ops
from gpuconv.verify.cases import Case
from gpuconv.verify.oracle import Expected, expect


@dataclass(frozen=True)
class Outcome:
    """What one case gave. share: the worst error as a share of its bound, so that above 1 is wrong."""

    case: Case
    dtype: str
    error: float
    bound: float
    share: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem


@dataclass
class Row:
    """The outcomes of one op and dtype."""

    op: str
    dtype: str
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def worst(self) -> Outcome:
        return max(self.outcomes, key=lambda outcome: (not outcome.passed, outcome.share))

    @property
    def smallest_failure(self) -> Outcome | None:
        """The first that failed: cases come smallest first."""
        return next((outcome for outcome in self.outcomes if not outcome.passed), None)


def run_case(case: Case, dtype: str, device: str, seed: int = 0) -> Outcome:
    """Run one case on a device and compare it with the oracle. A fault of a kernel is an outcome too."""
    arrays, options = case.arguments(dtype, seed)
    moved, moved_options = [move(a, device) for a in arrays], {k: move(v, device) for k, v in options.items()}
    expected = expect(case.op, [_copy(a) for a in arrays], options)
    try:
        returned = getattr(ops, case.op)(*moved, **moved_options)
        results = _results(case.op, moved, returned)
    except (RuntimeError, MemoryError) as error:
        return Outcome(case, dtype, np.inf, 0.0, np.inf, f"{type(error).__name__}: {error}")
    outcomes = [_compare(case, dtype, wanted, result) for wanted, result in zip(expected, results, strict=True)]
    return max(outcomes, key=lambda outcome: (not outcome.passed, outcome.share))


def move(value: Any, device: str) -> Any:
    if isinstance(value, list):
        return [move(entry, device) for entry in value]
    return backends.asarray(value, device) if isinstance(value, np.ndarray) else value


def _copy(value: Any) -> Any:
    return (
        [_copy(v) for v in value]
        if isinstance(value, list)
        else value.copy()
        if isinstance(value, np.ndarray)
        else value
    )


# How many of its arrays, from the first on, an op changes.
_CHANGED = {"add_metrics": 1, "update_loss_scale": 1, "advance_clock": 2, "advance_counter": 1}


def _results(op: str, moved: list[Any], returned: Any) -> list[np.ndarray]:
    """Everything the op computed, in the order of the oracle's expectations."""
    if op.endswith("_step"):  # in place: each parameter, then its states and its master
        params, _, *rest = moved
        changed = [group for group in rest if isinstance(group, list)]
        found = [a for index, param in enumerate(params) for a in (param, *(group[index] for group in changed))]
    elif op in _CHANGED:
        found = moved[: _CHANGED[op]] + ([] if returned is None else [returned])
    else:
        found = list(returned) if isinstance(returned, tuple) else [returned]
    if op in ("batch_norm", "conv2d_batch_norm"):  # and the running statistics, in place
        found += moved[-2:]
    return [backends.to_numpy(a) for a in found]


def _compare(case: Case, dtype: str, wanted: Expected, result: np.ndarray) -> Outcome:
    value, bound = np.asarray(wanted.value, np.float64), np.asarray(wanted.bound, np.float64)
    given = np.asarray(result).astype(np.float64)
    if given.shape != value.shape:
        return Outcome(case, dtype, np.inf, 0.0, np.inf, f"{wanted.name} has shape {given.shape}, not {value.shape}")
    if not given.size:
        return Outcome(case, dtype, 0.0, 0.0, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        same = (given == value) | (np.isnan(given) & np.isnan(value))
        error = np.where(same, 0.0, np.abs(given - value))
        error = np.where(np.isnan(error), np.inf, error)
        share = np.where(error == 0, 0.0, error / np.broadcast_to(bound, error.shape))
    worst = np.unravel_index(np.argmax(share), share.shape)
    limit = float(np.broadcast_to(bound, error.shape)[worst])
    problem = ""
    if share[worst] > 1:
        at = tuple(int(i) for i in worst)
        problem = f"{wanted.name}{list(at)} is {given[worst]:.9g}, expected {value[worst]:.9g} within {limit:.3g}"
    return Outcome(case, dtype, float(error[worst]), limit, float(share[worst]), problem)


def verify(chosen: Iterable[Case], dtypes: Iterable[str], device: str, seed: int = 0) -> Iterator[Row]:
    """Run cases on a device, op by op and dtype by dtype; each row comes when it is done."""
    by_op: dict[str, list[Case]] = {}
    for case in chosen:
        by_op.setdefault(case.op, []).append(case)
    for op, listed in by_op.items():
        for dtype in dtypes:
            row = Row(op, dtype)
            for case in listed:
                if dtype in case.dtypes:
                    row.outcomes.append(run_case(case, dtype, device, seed))
            if row.outcomes:
                yield row
