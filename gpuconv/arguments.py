"""Checks of arguments other than arrays, for ops, layers, training and the command line.

A check returns the value in one normal form, or raises TypeError or ValueError, naming what was received and what would
be accepted. `expect_accepts` and `accepts` are for functions that users pass.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, SupportsIndex, TypeGuard

import numpy as np

from gpuconv.types import Array, Pair, Scalar

if TYPE_CHECKING:
    from numpy.typing import DTypeLike
    from torch import Tensor


INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1  # the largest signed integers on a device
_LARGEST_32 = float(np.finfo(np.float32).max)


def integer(name: str, value: object, minimum: int, maximum: int = INT64_MAX) -> int:
    """`value` as an int. Raises for a bool, a fraction, an array or a number outside [minimum, maximum]."""
    if type(value) is int and minimum <= value <= maximum:  # fast path: the usual case
        return value
    try:
        if isinstance(value, (bool, np.bool_)) or is_array(value) or not isinstance(value, SupportsIndex):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, received {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, received {integer_text(number)}")
    if number > maximum:
        bits = maximum.bit_length()
        limit = f"below 2**{bits}" if maximum == 2**bits - 1 and bits >= 16 else f"at most {maximum}"
        raise ValueError(f"{name} must be {limit}, received {integer_text(number)}")
    return number


def flag(name: str, value: object) -> bool:
    """`value` as a bool; 1 and 0 are accepted too. Raises TypeError for anything else, even for text such as "no",
    which Python counts as true."""
    if isinstance(value, (bool, np.bool_)) or (type(value) is int and value in (0, 1)):
        return bool(value)
    raise TypeError(f"{name} must be True or False, received {value!r}")


def integer_text(number: int) -> str:
    """An integer as text; for a huge one, its approximate number of digits (Python refuses to print more than 4300)."""
    bits = number.bit_length()
    return str(number) if bits < 256 else f"a number of some {bits * 30103 // 100000} digits"


def is_array(value: object) -> TypeGuard[Array]:
    return hasattr(value, "dtype") and hasattr(value, "shape") and not isinstance(value, np.generic)


def is_torch(array: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor of PyTorch, or of a class derived from that, such as torchvision's images."""
    return any(base.__module__.partition(".")[0] == "torch" for base in type(array).__mro__)


def pair(name: str, value: object, minimum: int) -> Pair:
    """`value` as (height, width); one integer stands for both. Raises for an integer below `minimum`."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name} must be an integer or (height, width), received {value!r}")
        return integer(f"{name}[0]", value[0], minimum, INT32_MAX), integer(f"{name}[1]", value[1], minimum, INT32_MAX)
    number = integer(name, value, minimum, INT32_MAX)
    return number, number


def is_real(value: object) -> TypeGuard[float]:
    """Whether `value` is an integer or a float of Python or NumPy, or a bfloat16, which is not an np.floating."""
    if isinstance(value, np.generic):
        return value.dtype.kind in "iuf" or value.dtype.name == "bfloat16"
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def number(
    name: str,
    value: object,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
    used_with: Sequence[Array] = (),
) -> float:
    """`value` as a float in [low, high], without `low` if `open_low` and without `high` if `open_high`. Infinity is
    never accepted.

    used_with: arrays with which the number is combined; it must not overflow their accumulation dtype.
    """
    closed = not (open_low or open_high)
    if type(value) is float and low <= value <= high and -_LARGEST_32 <= value <= _LARGEST_32 and closed:
        return value  # fast path: nearly always
    if not is_real(value):
        raise TypeError(f"{name} must be a number, received {value!r}")
    try:
        given, value = value, float(value)
    except OverflowError:
        raise ValueError(
            f"{name} must be a number that a float can hold, received {integer_text(int(value))}"
        ) from None
    left_out = (open_low and value == low) or (open_high and value == high)
    if not low <= value <= high or not math.isfinite(value) or left_out:
        begin, end = "(" if open_low or low == -math.inf else "[", ")" if open_high or high == math.inf else "]"
        interval = f"{begin}{low}, {high}{end}"
        raise ValueError(f"{name} must lie in {interval}, received {given}")
    if abs(value) > _LARGEST_32 and any(array.dtype != np.float64 for array in used_with):
        raise ValueError(f"{name} must be a number that float32 can hold, received {given}")
    return value


def bounds(low: object, high: object) -> tuple[float, float]:
    """`low` and `high` as finite floats, low <= high, whose difference is finite."""
    low, high = number("low", low, -math.inf), number("high", high, -math.inf)
    if not low <= high:
        raise ValueError(f"low must not exceed high, received {low} and {high}")
    if not math.isfinite(high - low):
        raise ValueError(f"high - low must be finite, received {low} and {high}")
    return low, high


def positive(name: str, value: object, used_with: Sequence[Array] = ()) -> float:
    """`value` as a finite float above 0. used_with: as in `number`; their accumulation dtype must not round the number
    to 0."""
    if type(value) is float and 0.0 < value <= _LARGEST_32:  # fast path: nearly always
        found = value
    elif is_real(value) and not value > 0:  # NaN too
        raise ValueError(f"{name} must be above 0, received {value}")
    else:
        found = number(name, value, 0.0, used_with=used_with)
    if any(array.dtype != np.float64 for array in used_with) and np.float32(found) == 0:
        raise ValueError(f"{name} must be above 0 in float32, received {value}")
    return found


def step_scalar(
    name: str,
    value: object,
    used_with: Sequence[Array] = (),
    dtypes: Sequence[DTypeLike] = (np.float64,),
    least: float = 0.0,
) -> Scalar:
    """A number >= `least`, or a one-element array that a captured step reads on the device (its value is not checked).

    used_with: as in `number`. dtypes: the accepted dtypes of the array.
    """
    return _one_element(name, value, dtypes) if is_array(value) else number(name, value, least, used_with=used_with)


def step_integer(name: str, value: object, minimum: int = 0) -> int | Array:
    """An integer, or a one-element int64 array that a captured step reads on the device (its value is not checked)."""
    return _one_element(name, value, [np.int64]) if is_array(value) else integer(name, value, minimum)


def learning_rate(lr: object, params: Sequence[Array]) -> Scalar:
    return step_scalar("lr", lr, params, (np.float32, np.float64))


def _one_element(name: str, array: Array, dtypes: Sequence[DTypeLike]) -> Array:
    if array.dtype not in dtypes:
        accepted = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise TypeError(f"{name} must be a number or an array of {accepted}, received an array of {array.dtype}")
    if math.prod(array.shape) != 1:
        raise ValueError(f"{name} must be a number or hold one element, received shape {array.shape}")
    return array


def class_number(name: str, value: object, maximum: int = INT64_MAX) -> int:
    """A class, from 0 to `maximum`: an integer, or an array that holds one, such as a label of a batch."""
    if is_array(value) and math.prod(value.shape) == 1:
        value = value.item()
    return integer(name, value, 0, maximum)


def seed_value(name: str, value: object) -> int:
    return integer(name, value, 0, 2**64 - 1)


def stream_word(name: str, value: object) -> int:
    """A 32-bit word that selects a sequence of random numbers: a stream, a substream or an epoch."""
    return integer(name, value, 0, 2**32 - 1)


def accepts(function: Callable[..., object], *given: object, **options: object) -> bool:
    """Whether a user's function can be called with these arguments; True for C functions without a signature."""
    try:
        inspect.signature(function).bind(*given, **options)
    except TypeError:
        return False
    except ValueError:
        return callable(function)
    return True


def expect_accepts(name: str, function: Callable[..., object], *given: str) -> None:
    """Raise TypeError if a user's function cannot be called with arguments of these names, in this order."""
    if not callable(function):
        raise TypeError(f"{name} must be a function of ({', '.join(given)}), received {function!r}")
    if not accepts(function, *given):
        plain = (each.replace(annotation=each.empty) for each in inspect.signature(function).parameters.values())
        raise TypeError(f"{name} is called with ({', '.join(given)}), but takes ({', '.join(map(str, plain))})")
