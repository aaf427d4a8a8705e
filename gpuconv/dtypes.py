"""The float dtypes of operations, their accumulation dtypes, and the precisions of nets."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from gpuconv.names import canonical

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

NameT = TypeVar("NameT")

FLOAT_NAMES = ("float64", "float32", "float16", "bfloat16")

# A dtype, or "tf32": float32 arrays multiplied in TF32.
PRECISIONS = ("float32", "tf32", "float16", "bfloat16", "float64")
_SHORT = {"fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp64": "float64"}


def full_name(name: NameT) -> NameT | str:
    """The long name of a short one, such as "bfloat16" of "bf16"; anything else as it is."""
    return _SHORT.get(name.lower(), name) if isinstance(name, str) else name


@functools.cache  # cached: called for every convolution and linear layer, and NumPy builds the name each time
def precision_of(dtype: np.dtype, tf32: bool) -> str:
    """The one of `PRECISIONS` in which arrays of a dtype are multiplied."""
    return "tf32" if tf32 else dtype.name


def as_dtype(dtype: DTypeLike) -> np.dtype:
    """Return the NumPy dtype of one of `FLOAT_NAMES`, in this machine's byte order, given its name (also a short one,
    such as "fp16" or "bf16"), a type or a dtype.

    bfloat16 comes from ``ml_dtypes``, which is imported only if needed. Raises TypeError for any other dtype.
    """
    resolved = dtype if isinstance(dtype, np.dtype) else _resolved(dtype)
    if not is_float(resolved):
        raise TypeError(f"dtype must be one of {', '.join(FLOAT_NAMES)}, received {resolved.name}")
    return resolved if resolved.isnative else resolved.newbyteorder("=")


def _resolved(dtype: DTypeLike) -> np.dtype:
    """The dtype of a name or a type."""
    try:
        if dtype is None:  # NumPy would take it for float64
            raise TypeError
        return _named(dtype) if isinstance(dtype, str) else np.dtype(dtype)
    except TypeError:
        raise TypeError(f"dtype must be one of {', '.join(FLOAT_NAMES)}, received {dtype!r}") from None


@functools.cache
def _named(name: str) -> np.dtype:
    """The dtype of NumPy's name, of "bfloat16" or of a short name."""
    name = full_name(name)
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


@functools.cache  # cached: called for every argument of every op, and NumPy builds the name each time
def is_float(dtype: np.dtype) -> bool:
    """Whether this is one of `FLOAT_NAMES`."""
    return dtype.name in FLOAT_NAMES


@functools.cache
def is_numeric(dtype: np.dtype) -> bool:
    """Whether arrays of this dtype are accepted: bools, and numbers of up to 64 bits (complex: per part) in this
    machine's byte order."""
    known = (dtype.kind in "biufc" and dtype.char not in "gG") or dtype.type.__module__.partition(".")[0] == "ml_dtypes"
    return known and dtype.isnative


def as_numeric(name: str, dtype: DTypeLike) -> np.dtype:
    """A dtype of numbers in this machine's byte order. Raises TypeError for objects, text, dates, records
    and numbers of more than 64 bits (complex: per part)."""
    if dtype is None:  # NumPy would take it for float64
        raise TypeError(f"{name} must have a dtype of numbers, received None")
    given = _named(dtype) if isinstance(dtype, str) else np.dtype(dtype)
    native = given if given.isnative else given.newbyteorder("=")
    if not is_numeric(native):
        raise TypeError(f"{name} must hold numbers of at most 64 bits, received dtype {given}")
    return native


def converted(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A copy in another dtype, rounded. Raises ValueError that names the array if a finite float would become
    infinite."""
    with np.errstate(all="ignore"):
        found = array.astype(dtype)
    if is_float(dtype) and dtype != array.dtype and (lost := np.isinf(found) & np.isfinite(array)).any():
        raise ValueError(f"{name} holds {float(array[lost][0]):g}, which is out of the range of {dtype.name}")
    return found


@functools.cache
def accumulation_dtype(dtype: np.dtype) -> np.dtype:
    """The accumulation dtype: float64 for float64, float32 for all others; 16-bit results are rounded once."""
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)


def as_precision(dtype: DTypeLike | None = None, precision: DTypeLike | None = None) -> tuple[np.dtype, bool]:
    """The dtype of a net's arrays, and whether they are multiplied in TF32, from a dtype or a precision; by default
    float32.

    precision: one of `PRECISIONS`, a short name, or a dtype or type of NumPy whose name is one of them. Raises
    ValueError for another name and if both arguments are given, TypeError for another dtype and for a precision of
    another type.
    """
    if precision is None:
        return as_dtype("float32" if dtype is None else dtype), False
    if dtype is not None:
        raise ValueError(f"give a dtype or a precision, received dtype {dtype!r} and precision {precision!r}")
    if isinstance(precision, np.dtype) or (isinstance(precision, type) and issubclass(precision, np.generic)):
        precision = np.dtype(precision).name
    name = canonical("precision", full_name(precision), PRECISIONS)
    return as_dtype("float32" if name == "tf32" else name), name == "tf32"
