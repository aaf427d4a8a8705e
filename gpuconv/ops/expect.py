"""Checks of an op's array arguments.

Each raises TypeError or ValueError, naming what was received and what would be accepted.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from gpuconv import algorithms
from gpuconv.activations import ACTIVATIONS
from gpuconv.arguments import flag, integer
from gpuconv.dtypes import FLOAT_NAMES, is_float, precision_of
from gpuconv.names import lookup
from gpuconv.ops.overlap import Written, disjoint, overlap, written
from gpuconv.problems import Conv2dProblem, Epilogue
from gpuconv.types import Array
from gpuconv.window_sizes import expect_memory


def expect_any_float(name: str, array: Array, minimum_rank: int = 0) -> tuple[int, ...]:
    """The shape of a float array of rank `minimum_rank` or more."""
    if array.ndim < minimum_rank:
        raise ValueError(f"{name} must have at least {minimum_rank} axes, received shape {array.shape}")
    if not is_float(array.dtype):
        raise TypeError(
            f"{name} must be a float array ({', '.join(FLOAT_NAMES)}), received {array.dtype.name}; "
            "convert it, for example with array.astype('float32') / 255 for images"
        )
    return array.shape


def expect_float(name: str, array: Array, axes: str) -> tuple[int, ...]:
    """The shape of a float array with these axes, such as "N H W C"."""
    shape = expect_any_float(name, array)
    if len(shape) != axes.count(" ") + 1:
        raise ValueError(f"{name} must have the axes ({axes.replace(' ', ', ')}), received shape {shape}")
    return shape


def expect_same_dtype(**arrays: Array | None) -> None:
    """Raise unless all arrays that are not None have the same dtype."""
    if len({array.dtype for array in arrays.values() if array is not None}) <= 1:
        return
    listed = ", ".join(f"{name} {array.dtype.name}" for name, array in arrays.items() if array is not None)
    raise TypeError(f"all arrays of one call must have one dtype, received {listed}")


def expect_shape(name: str, array: Array, shape: tuple[int, ...], why: str) -> None:
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape} ({why}), received {array.shape}")


def expect_bias(bias: Array | None, size: int, why: str = "one value for each filter") -> None:
    if bias is not None:
        expect_shape("bias", bias, (size,), why)


def expect_volume_shape(name: str, shape: object) -> tuple[int, int, int, int]:
    if not isinstance(shape, (tuple, list)) or len(shape) != 4:
        raise ValueError(f"{name} must be (N, H, W, C), received {shape!r}")
    n, h, w, c = (integer(f"{name}[{axis}]", size, 0) for axis, size in enumerate(shape))
    expect_memory(name, (n, h, w, c))
    return n, h, w, c


def expect_activation(activation: str | None) -> str | None:
    return None if activation is None else lookup("activation", activation, ACTIVATIONS).name


def expect_algorithm(algo: object, tf32: object, dtype: np.dtype, direction: str) -> tuple[str, bool]:
    """The full name of an algorithm for a direction of a linear layer in this dtype, and tf32 as a bool."""
    precision = _precision(dtype, tf32)
    return algorithms.for_product(algo, precision, direction), bool(tf32)


def expect_conv_algorithm(
    algo: object, tf32: object, dtype: np.dtype, problem: Conv2dProblem, epilogue: Epilogue, direction: str
) -> tuple[str, bool]:
    """As `expect_algorithm`, for a direction of a convolution."""
    precision = _precision(dtype, tf32)
    return algorithms.for_convolution(algo, problem, epilogue, precision, direction), bool(tf32)


def expect_mask(mask: Array, problem: Conv2dProblem, pool: int) -> None:
    """Raise unless mask has the dtype and shape of conv2d_relu's mask for this problem and pool."""
    if mask.dtype != np.uint8:
        raise TypeError(f"mask must be uint8, as conv2d_relu returns it, received {mask.dtype.name}")
    expect_shape("mask", mask, problem.mask_shape(pool), "as conv2d_relu returns it")


def expect_tf32(tf32: object, dtype: np.dtype) -> None:
    """Raise unless tf32 is a bool, and True only for float32 arrays."""
    if not isinstance(tf32, (bool, np.bool_)):
        raise TypeError(f"tf32 must be True or False, received {tf32!r}")
    if tf32 and dtype != np.float32:
        raise TypeError(f"tf32=True multiplies float32 arrays, received {dtype.name}")


def _precision(dtype: np.dtype, tf32: object) -> str:
    expect_tf32(tf32, dtype)
    return precision_of(dtype, bool(tf32))


# --- outputs -----------------------------------------------------------------------------------


def expect_out(out: Array | None, shape: tuple[int, ...], dtype: np.dtype, name: str = "out") -> None:
    """Raise unless `out`, if given, has the result's shape and dtype and is writable."""
    if out is None:
        return
    expect_shape(name, out, shape, "the result's shape")
    if out.dtype != dtype:
        raise TypeError(f"{name} must have the result's dtype {dtype.name}, received {out.dtype.name}")
    if _is_read_only(out):
        raise _read_only(name)


def expect_elementwise(x: Array, out: Array | None, name: str = "x") -> None:
    """Raise unless x is a float array and `out`, if given, has its shape and dtype."""
    expect_out(out, expect_any_float(name, x), x.dtype)


def expect_bias_gradient(db: Array | None, filters: int, channels: int, dtype: np.dtype) -> None:
    expect_out(db, (filters,), dtype, "db")
    if db is not None and not channels:
        raise ValueError("db needs a weight with at least one input channel, received a weight with none")


def expect_accumulate(accumulate: bool, option: str = "accumulate", **outs: Array | None) -> None:
    missing = [name for name, out in outs.items() if out is None]
    if flag(option, accumulate) and missing:
        verb = "was" if len(missing) == 1 else "were"
        raise ValueError(f"{option}=True adds to {' and '.join(missing)}, which {verb} not given")


def expect_writable(**arrays: Array | None) -> None:
    """Raise if an array that is written to is read-only. None is skipped."""
    for name, array in arrays.items():
        if array is not None and _is_read_only(array):
            raise _read_only(name)


def expect_disjoint(**outputs: Array | None) -> Written:
    """Raise if two outputs share memory. Returns those that are not None, with their address ranges."""
    found = written(outputs.values())
    if not disjoint(found):
        given = [(name, array) for name, array in outputs.items() if array is not None]
        raise next(_shared_memory_error(a, b) for (a, x), (b, y) in combinations(given, 2) if overlap(x, y))
    return found


def expect_writable_lists(**lists: Sequence[Array] | None) -> None:
    """Raise if an array in the lists is read-only or occurs twice. A parameter may be its own master."""
    everything = [array for arrays in lists.values() for array in arrays or ()]
    on_host = any(isinstance(array, np.ndarray) for array in everything[:1])  # all arrays are on one device
    if len(set(map(id, everything))) == len(everything) and not (on_host and any(map(_is_read_only, everything))):
        return
    places: dict[int, tuple[str, int]] = {}
    for name, arrays in lists.items():
        for index, array in enumerate(arrays or ()):
            if _is_read_only(array):
                raise _read_only(f"{name}[{index}]")
            other = places.setdefault(id(array), (name, index))
            if other != (name, index) and (name, *other) != ("masters", "params", index):
                raise _shared_memory_error("{}[{}]".format(*other), f"{name}[{index}]")


def _is_read_only(array: Array) -> bool:
    return isinstance(array, np.ndarray) and not array.flags.writeable


def _read_only(name: str) -> ValueError:
    return ValueError(f"{name} is written to, and must not be read-only; array.copy() can be written")


def _shared_memory_error(a: str, b: str) -> ValueError:
    return ValueError(f"{a} and {b} share memory, and both are written to; give each its own")
