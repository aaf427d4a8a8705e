"""Compares a user's implementation of an operation with the oracle: `gpuconv.checks.compare`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

from gpuconv import backends, random
from gpuconv.arguments import integer, number, seed_value
from gpuconv.devices import Device, device_of, kind_of
from gpuconv.dtypes import as_dtype
from gpuconv.names import canonical_keys
from gpuconv.ops.registry import arrays_of
from gpuconv.text import html
from gpuconv.text.plain_text import size_text
from gpuconv.text.text_table import align_columns
from gpuconv.types import Options
from gpuconv.verify import compare as comparer

_LAYOUTS = {"NHWC": None, "NCHW": (0, 3, 1, 2)}


@dataclass(frozen=True)
class Comparison:
    """The comparison of the user's results with the oracle's in one case.

    Args:
        case: The arguments of the case, as text.
        error: The largest difference from the oracle, relative to the oracle's largest finite value; infinity if there
            was no result to compare.
        passed: Whether the error is within the tolerance.
        details: What is wrong and where, and what was not compared; "" if neither applies.
    """

    case: str
    error: float
    passed: bool
    details: str = ""


class Comparisons(list[Comparison]):
    """The results of `compare`; printed, or shown in a notebook, as a table."""

    HEADING = ("case", "error", "", "")

    @property
    def passed(self) -> bool:
        """Whether all cases passed."""
        return all(found.passed for found in self)

    def rows(self) -> list[list[str]]:
        """A row of the table for each case."""
        return [[each.case, f"{each.error:.1e}", "ok" if each.passed else "WRONG", each.details] for each in self]

    def __str__(self) -> str:
        return align_columns([[*self.HEADING], *self.rows()])

    def _repr_html_(self) -> str:
        return html.table(self.HEADING, self.rows(), "your function against the oracle")


def compare(
    mine: Callable[..., object],
    op: Callable[..., object],
    cases: Iterable[Mapping[str, Any]],
    *,
    dtype: DTypeLike = "float64",
    layout: str = "NHWC",
    tolerance: float | None = None,
    seed: int = 0,
) -> Comparisons:
    """Run a function and the oracle of an operation, such as `gpuconv.ops.conv2d`, on the same numbers.

    Args:
        mine: A function that is called like the operation: with the operation's positional arrays by position, and with
            options and its keyword-only arrays, such as ``addend``, by name. It returns all results of the operation,
            or ``out, cache`` as in the CS231n assignments, or only the first result; for the last two forms the details
            say what was not compared.
        op: The operation.
        cases: The operation's arguments by name; arrays are given as NumPy arrays, or as shapes for random normal
            numbers: ``[dict(x=(2, 5, 5, 3), w=(4, 3, 3, 3), padding=1), ...]``. Both functions receive copies.
        dtype: The dtype of these numbers.
        layout: "NHWC", or "NCHW", which passes volumes and filters in PyTorch's layout, and expects volumes in that
            layout in return.
        tolerance: The largest accepted error, which may be infinite; by default 1000 times the machine epsilon of
            `dtype`.
        seed: Of the random numbers.

    A case in which `mine` raises, or returns another shape or other NaNs, counts as failed. If the operation itself
    rejects a case, its error is raised. Raises ValueError for an unknown layout or argument, an argument given twice, a
    negative tolerance or seed, a negative size in a shape, or no cases at all. Raises TypeError for a tolerance that is
    not a number, a seed or a size that is not an integer, an array of another device, a case that is not a mapping, or
    a function that is not callable.
    """
    if layout not in _LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(_LAYOUTS)}, received {layout!r}")
    for each in (mine, op):
        if not callable(each):
            raise TypeError(f"compare takes two functions, received {type(each).__name__}")
    dtype, seed = as_dtype(dtype), seed_value("seed", seed)
    if tolerance is None:
        tolerance = 1000 * float(ml_dtypes.finfo(dtype).eps)
    allowed = tolerance if tolerance == math.inf else number("tolerance", tolerance, 0.0)
    kinds = inspect.signature(op).parameters
    slots = arrays_of(op)
    by_name = {name for name in slots if kinds[name].kind is inspect.Parameter.KEYWORD_ONLY}
    found = Comparisons()
    what = f"argument of {getattr(op, '__name__', 'the operation')}"
    for index, written_case in enumerate([cases] if isinstance(cases, Mapping) else cases):
        if not isinstance(written_case, Mapping):
            raise TypeError(f"a case is a dictionary of arguments by name, received {type(written_case).__name__}")
        case = canonical_keys(what, written_case, kinds)
        arrays = {
            name: _array(name, case[name], dtype, seed + index, slots.index(name)) for name in slots if name in case
        }
        options = {name: value for name, value in case.items() if name not in slots}
        with backends.oracle():
            expected = _called(op, arrays, by_name, options, None)
        call = functools.partial(_called, mine, arrays, by_name, options, _LAYOUTS[layout])
        found.append(_compare_case(call, _case_name(arrays, options), expected, allowed, _LAYOUTS[layout]))
    if not found:
        raise ValueError("there is no case; compare takes at least one")
    return found


def _called(
    function: Callable[..., object],
    arrays: Mapping[str, Any],
    by_name: Collection[str],
    options: Options,
    axes: Sequence[int] | None,
) -> object:
    """The result of a function on copies of the arrays, in the layout that `axes` gives. by_name: the keyword-only
    arrays."""
    given = {name: _copied(array, axes) for name, array in arrays.items()}
    positional = [array for name, array in given.items() if name not in by_name]
    return function(*positional, **{name: given[name] for name in given if name in by_name}, **options)


def _copied(given: object, axes: Sequence[int] | None) -> object:
    """A copy of an array, or of a list of arrays; other values are returned as they are."""
    if isinstance(given, (list, tuple)):
        return [_copied(each, axes) for each in given]
    return _laid_out(given.copy(), axes) if isinstance(given, np.ndarray) else given


def _array(name: str, given: Any, dtype: np.dtype, seed: int, substream: int) -> Any:  # noqa: ANN401 - see `compare`
    """An array argument, which may be a shape for random numbers."""
    # On a device that runs kernels, the operation would run them, not the oracle.
    for each in given if isinstance(given, (tuple, list)) else [given]:
        if kind_of(each) is not None and Device.named(device := device_of(each, name)).runs_kernels:
            raise TypeError(f"{name} is given as a NumPy array or as a shape, received an array on {device}")
    if not isinstance(given, (tuple, list)) or any(isinstance(each, np.ndarray) for each in given):
        return given
    shape = tuple(integer(f"{name}[{axis}], a size,", size, 0) for axis, size in enumerate(given))
    drawn = random.normal(shape, seed=seed, stream=random.DATA, substream=substream, dtype="float64")
    return drawn.astype(dtype)


def _case_name(arrays: Mapping[str, Any], options: Options) -> str:
    shapes = [f"{name} {_shape_text(array)}" for name, array in arrays.items() if array is not None]
    return ", ".join([*shapes, *(f"{name}={value}" for name, value in options.items())])


def _shape_text(array: Any) -> str:  # noqa: ANN401 - an array or a list of arrays
    return "+".join(map(_shape_text, array)) if isinstance(array, (list, tuple)) else size_text(np.shape(array))


def _compare_case(
    call: Callable[[], object], name: str, expected: object, allowed: float, axes: Sequence[int] | None
) -> Comparison:
    """The results of `call`, the user's function on one case, compared with the expected ones."""
    try:
        received = call()
    except Exception as error:
        return Comparison(name, float("inf"), False, f"{type(error).__name__}: {error}")
    results, all_expected = _as_tuple(received), _as_tuple(expected)
    left_out = ""
    if len(results) != len(all_expected) or not all(map(_is_result_of_op, results[1:], all_expected[1:])):
        if len(results) > 2:
            why = f"{len(results)} results, not {len(all_expected)}"
            if len(results) == len(all_expected):
                kinds = ", ".join(type(each).__name__ for each in results[1:])
                why = f"results after the first are {kinds}, not arrays like the operation's"
            return Comparison(name, float("inf"), False, why)
        left_out = "cache not compared" if len(results) == 2 else f"the first of {len(all_expected)} results compared"
        results = results[:1]
    worst = max(
        (_difference(name, *pair, allowed, axes) for pair in zip(results, all_expected)), key=lambda each: each.error
    )
    return dataclasses.replace(worst, details="; ".join(filter(None, (worst.details, left_out))))


def _is_result_of_op(received: object, expected: np.ndarray) -> bool:
    """Whether a result after the first is a result of the operation, not a cache for backward. It must be an array: of
    integers if the operation returns integers there, otherwise of floats."""
    return hasattr(received, "dtype") and (backends.to_numpy(received).dtype.kind in "iub") == (
        expected.dtype.kind in "iub"
    )


def _difference(
    name: str, received: object, expected: np.ndarray, allowed: float, axes: Sequence[int] | None
) -> Comparison:
    """One result compared with the expected one. allowed: the largest accepted error, relative to the largest
    expected number."""
    expected = _laid_out(backends.to_numpy(expected), axes)
    try:
        received = backends.to_numpy(received)
        if received.dtype.kind == "c":
            return Comparison(name, float("inf"), False, f"the result is {received.dtype.name}, not real numbers")
        received.astype(np.float64)
    except (TypeError, ValueError):
        return Comparison(
            name, float("inf"), False, f"the result is {type(received).__name__}, not an array of numbers"
        )
    finite = np.abs(expected[np.isfinite(expected)].astype(np.float64))
    scale = float(np.max(finite, initial=0.0)) or 1.0
    found = comparer.compare(comparer.Expected("the result", expected, allowed * scale), received)
    return Comparison(name, found.error / scale, not found.wrong, found.text if found.wrong else "")


def _as_tuple(result: object) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)


def _laid_out(array: np.ndarray, axes: Sequence[int] | None) -> np.ndarray:
    return array if axes is None or array.ndim != 4 else np.ascontiguousarray(array.transpose(axes))
