"""Output sizes and argument checks of every op, once, before any backend is entered.

A check has the signature of its op in `gpuconv.backends.contract`. It raises before anything is computed
(ValueError for a bad size or value, TypeError for a bad type or dtype), naming what was received and what
would be accepted, and returns the keyword arguments in the one form the backends take:

- ``stride``, ``dilation``, ``kernel_size``: ``(height, width)``
- ``padding``: ``((top, bottom), (left, right))``
- ``input_shape``: the full ``(N, H, W, C)``
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuconv import algorithms
from gpuconv.dtypes import FLOAT_NAMES, accumulation_dtype, as_dtype, is_float
from gpuconv.names import canonical, lookup

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

FITS = {name: name for name in ("floor", "exact", "cover")}
ACTIVATIONS = {name: name for name in ("relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu")}

# --- sizes -------------------------------------------------------------------------------------


def output_size(size: int, kernel: int, stride: int, padding: Pair, dilation: int, fit: str) -> int:
    """How many windows fit along one axis.

    With span = dilation * (kernel - 1) + 1 and room = size + before + after - span, "floor" gives
    room // stride + 1 and drops the rest, "exact" demands that there is none, and "cover" adds a last
    partial window where that window would begin inside the input (PyTorch's ``ceil_mode``).
    """
    span = dilation * (kernel - 1) + 1
    room = size + sum(padding) - span
    if room < 0:
        raise ValueError(
            f"the filter spans {span} but the padded input only {size + sum(padding)} "
            f"(size {size}, padding {padding[0]} + {padding[1]}); use a larger input, "
            "more padding or a smaller kernel_size or dilation"
        )
    whole, rest = divmod(room, stride)
    if not rest or fit == "floor":
        return whole + 1
    if fit == "cover":
        starts_inside = (whole + 1) * stride < size + padding[0]
        return whole + 1 + starts_inside
    would_fit = [near for near in (size - rest, size - rest + stride) if near > 0]
    raise ValueError(
        f"fit='exact': windows of span {span} at stride {stride} do not tile a padded input of "
        f"{size + sum(padding)}; input sizes that would fit: {' or '.join(map(str, would_fit))}"
    )


def output_hw(
    hw: Sequence[int], kernel_size: Pair, stride: Pair, padding: Padding, dilation: Pair = (1, 1), fit: str = "floor"
) -> Pair:
    """(P, Q): `output_size` along height and width."""
    p, q = (
        output_size(hw[axis], kernel_size[axis], stride[axis], padding[axis], dilation[axis], fit)
        for axis in (0, 1)
    )
    return p, q


def same_padding(kernel_size: Pair, dilation: Pair = (1, 1)) -> Padding:
    """The padding that keeps H and W at stride 1; the odd cell of an even span goes below and right."""
    def split(kernel: int, dilated: int) -> Pair:
        total = dilated * (kernel - 1)
        return total // 2, total - total // 2

    return split(kernel_size[0], dilation[0]), split(kernel_size[1], dilation[1])


# --- arguments that are no arrays --------------------------------------------------------------


INT32, INT63 = 2**31 - 1, 2**63 - 1  # the largest numbers of the signed integers of a device


def integer(name: str, value: Any, minimum: int, maximum: int = INT63) -> int:
    """`value` as an int; a bool, a fraction, an array or a number outside [minimum, maximum] raises."""
    if type(value) is int and minimum <= value <= maximum:  # nearly always
        return value
    try:
        if isinstance(value, (bool, np.bool_)) or _is_array(value):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, received {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, received {shown(number)}")
    if number > maximum:
        limit = f"below 2**{maximum.bit_length()}" if maximum & (maximum + 1) == 0 else f"at most {maximum}"
        raise ValueError(f"{name} must be {limit}, received {shown(number)}")
    return number


def shown(number: int) -> str:
    """An integer as text, of a huge one how many digits it has: Python writes no more than 4300."""
    bits = number.bit_length()
    return str(number) if bits < 256 else f"a number of some {bits * 30103 // 100000} digits"


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape") and not isinstance(value, np.generic)


def pair(name: str, value: Any, minimum: int) -> Pair:
    """One integer for both axes, or (height, width)."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name} must be an integer or (height, width), received {value!r}")
        return integer(f"{name}[0]", value[0], minimum, INT32), integer(f"{name}[1]", value[1], minimum, INT32)
    number = integer(name, value, minimum, INT32)
    return number, number


def padding_pairs(padding: Any, kernel_size: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Padding:
    """p, (height, width), ((top, bottom), (left, right)), "same" or "valid" as the third form."""
    if isinstance(padding, str):
        if lookup("padding", padding, {"same": "same", "valid": "valid"}) == "valid":
            return (0, 0), (0, 0)
        if stride != (1, 1):
            raise ValueError(f"padding='same' is defined at stride 1, received stride {stride}")
        return same_padding(kernel_size, dilation)
    if isinstance(padding, (tuple, list)) and any(isinstance(side, (tuple, list)) for side in padding):
        if len(padding) != 2 or not all(isinstance(side, (tuple, list)) for side in padding):
            raise ValueError(f"padding must be ((top, bottom), (left, right)), received {padding!r}")
        return pair("padding[0]", padding[0], 0), pair("padding[1]", padding[1], 0)
    vertical, horizontal = pair("padding", padding, 0)
    return (vertical, vertical), (horizontal, horizontal)


def number(
    name: str, value: Any, low: float, high: float = math.inf, *, open_high: bool = False, beside: Sequence[Any] = ()
) -> float:
    """`value` as a float in [low, high], or in [low, high) with `open_high`. Infinity never lies inside.

    beside: the arrays that it is computed with; a number that would be infinite in their accumulation dtype raises.
    """
    known = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, (bool, np.timedelta64))
    if not known:
        raise TypeError(f"{name} must be a number, received {value!r}")
    try:
        given, value = value, float(value)
    except OverflowError:
        raise ValueError(f"{name} must be a number that a float can hold, received {shown(value)}") from None
    if not low <= value <= high or not math.isfinite(value) or (open_high and value == high):
        interval = f"{'(' if low == -math.inf else '['}{low}, {high}{')' if open_high or high == math.inf else ']'}"
        raise ValueError(f"{name} must lie in {interval}, received {given}")
    if abs(value) > _LARGEST_32 and any(array.dtype != np.float64 for array in beside):
        raise ValueError(f"{name} must be a number that float32 can hold, received {given}")
    return value


_LARGEST_32 = float(np.finfo(np.float32).max)


def step_scalar(name: str, value: Any, beside: Sequence[Any] = (), dtypes: Sequence[Any] = (np.float64,)) -> Any:
    """A number from 0 on, or a one-element array that a captured step reads on the device (not looked into).

    beside: as in `number`. dtypes: those that the array may have.
    """
    return _one_element(name, value, dtypes) if _is_array(value) else number(name, value, 0.0, beside=beside)


def step_integer(name: str, value: Any, minimum: int = 0) -> Any:
    """An integer, or a one-element int64 array that a captured step reads on the device (not looked into)."""
    return _one_element(name, value, [np.int64]) if _is_array(value) else integer(name, value, minimum)


def _rate(lr: Any, params: Sequence[Any]) -> Any:
    return step_scalar("lr", lr, params, (np.float32, np.float64))


def _one_element(name: str, array: Any, dtypes: Sequence[Any]) -> Any:
    if array.dtype not in dtypes:
        accepted = " or ".join(np.dtype(dtype).name for dtype in dtypes)
        raise TypeError(f"{name} must be a number or an array of {accepted}, received one of {array.dtype}")
    if math.prod(array.shape) != 1:
        raise ValueError(f"{name} must be a number or hold one element, received shape {array.shape}")
    return array


def seed_value(name: str, value: Any) -> int:
    return integer(name, value, 0, 2**64 - 1)


def stream_word(name: str, value: Any) -> int:
    """One of the 32-bit words that keep random numbers apart: a stream, a substream, an epoch."""
    return integer(name, value, 0, 2**32 - 1)


def expect_within(name: str, values: Any, count: int) -> None:
    """Every integer of a host array is in [0, count)."""
    wrong = np.flatnonzero((values < 0) | (values >= count))
    if wrong.size:
        raise ValueError(f"{name} must lie in [0, {count}), received {values[wrong[0]]} at index {wrong[0]}")


# --- arrays ------------------------------------------------------------------------------------


def volume(name: str, array: Any, layout: str) -> tuple[int, ...]:
    """The shape of a float array with one axis per letter of `layout`, such as "N H W C"."""
    axes = layout.split()
    if not is_float(array.dtype):
        raise TypeError(
            f"{name} must be a float array ({', '.join(FLOAT_NAMES)}), received {array.dtype.name}; "
            "convert it, for example with array.astype('float32') / 255 for images"
        )
    if len(array.shape) != len(axes):
        raise ValueError(f"{name} must have the axes ({', '.join(axes)}), received shape {tuple(array.shape)}")
    return tuple(array.shape)


def any_float(name: str, array: Any, minimum_rank: int = 0) -> tuple[int, ...]:
    """The shape of a float array of any rank from `minimum_rank`."""
    if len(array.shape) < minimum_rank:
        raise ValueError(f"{name} must have at least {minimum_rank} axes, received shape {tuple(array.shape)}")
    return volume(name, array, " ".join("." * len(array.shape)))


def same_dtype(**arrays: Any) -> None:
    """All that are not None share one dtype."""
    if len({array.dtype for array in arrays.values() if array is not None}) <= 1:
        return  # without asking NumPy for names, which it makes up each time
    dtypes = {name: array.dtype.name for name, array in arrays.items() if array is not None}
    if len(set(dtypes.values())) > 1:
        listed = ", ".join(f"{name} {dtype}" for name, dtype in dtypes.items())
        raise TypeError(f"all arrays of one call must have one dtype, received {listed}")


def expect_shape(name: str, array: Any, shape: Sequence[int], why: str) -> None:
    if tuple(array.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)} ({why}), received {tuple(array.shape)}")


def expect_out(out: Any, shape: Sequence[int], dtype: np.dtype, name: str = "out") -> None:
    """`out`, when given, has the result's shape and dtype."""
    if out is None:
        return
    expect_shape(name, out, shape, "the result's shape")
    if out.dtype != dtype:
        raise TypeError(f"{name} must have the result's dtype {dtype.name}, received {out.dtype.name}")


def expect_accumulate(accumulate: bool, **outs: Any) -> None:
    missing = [name for name, out in outs.items() if out is None]
    if accumulate and missing:
        raise ValueError(f"accumulate=True adds to {' and '.join(missing)}, which was not given")


def volume_shape(name: str, shape: Any) -> tuple[int, int, int, int]:
    if not isinstance(shape, (tuple, list)) or len(shape) != 4:
        raise ValueError(f"{name} must be (N, H, W, C), received {shape!r}")
    n, h, w, c = (integer(f"{name}[{axis}]", size, 0) for axis, size in enumerate(shape))
    return expect_memory(name, (n, h, w, c))


def expect_memory(name: str, shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """The shape; ValueError where no memory can hold a volume of it."""
    if math.prod(shape) > INT63 // 8 or max(shape) > INT63 // 8:
        raise ValueError(f"{name} must fit into memory, received {shape}")
    return shape


# --- convolution -------------------------------------------------------------------------------


# The window of a linear op, which is a convolution of 1 x 1 maps.
PIXEL: dict[str, Any] = dict(stride=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1, fit="floor")


def convolution(
    input_shape: Sequence[int], filters: int, filter_channels: int, kernel_size: Any,
    stride: Any, padding: Any, dilation: Any, groups: Any, fit: str,
) -> tuple[dict[str, Any], tuple[int, int, int, int]]:
    """The normalised window arguments of a convolution, and its output shape."""
    kernel_size = pair("kernel_size", kernel_size, 1)
    stride, dilation = pair("stride", stride, 1), pair("dilation", dilation, 1)
    padding = padding_pairs(padding, kernel_size, stride, dilation)
    groups = integer("groups", groups, 1)
    fit = lookup("fit", fit, FITS)
    n, h, w, channels = input_shape
    if channels % groups or filters % groups:
        raise ValueError(
            f"groups must divide the channels and the filters, received groups {groups}, "
            f"{channels} channels, {filters} filters"
        )
    if filter_channels * groups != channels:
        raise ValueError(
            f"the filters read {filter_channels} channels in each of {groups} group(s), so the input must have "
            f"{filter_channels * groups} channels, received {channels}"
        )
    p, q = output_hw((h, w), kernel_size, stride, padding, dilation, fit)
    options = dict(stride=stride, padding=padding, dilation=dilation, groups=groups, fit=fit)
    return options, expect_memory("the output", (n, p, q, filters))


def conv2d(
    x, w, bias=None, *, stride=1, padding=0, dilation=1, groups=1, activation=None, fit="floor", algo="auto",
    tf32=False, out=None,
):
    x_shape, (k, r, s, c) = volume("x", x, "N H W C"), volume("w", w, "K R S C/groups")
    same_dtype(x=x, w=w, bias=bias)
    options, y_shape = convolution(x_shape, k, c, (r, s), stride, padding, dilation, groups, fit)
    if bias is not None:
        expect_shape("bias", bias, (k,), "one value for each filter")
    expect_out(out, y_shape, x.dtype)
    asked = _convolution_s(x.dtype, algo, tf32, options, x_shape, (r, s), y_shape, forward=True)
    return options | dict(activation=_activation(activation)) | asked


def _arithmetic(dtype: np.dtype, algo: Any, tf32: Any, **serves: bool) -> dict[str, Any]:
    """The algorithm's listed name, and tf32 as a bool. serves: what `algorithms.checked` is told of a convolution."""
    if not isinstance(tf32, (bool, np.bool_)):
        raise TypeError(f"tf32 must be True or False, received {tf32!r}")
    if tf32 and dtype != np.float32:
        raise TypeError(f"tf32=True multiplies float32 arrays, received {dtype.name}")
    arithmetic = algorithms.arithmetic_of(dtype, bool(tf32))
    return dict(algo=algorithms.checked(algo, arithmetic, **serves), tf32=bool(tf32))


def _convolution_s(
    dtype: np.dtype, algo: Any, tf32: Any, options: dict[str, Any], x_shape: Sequence[int], kernel_size: Pair,
    y_shape: Sequence[int], pool: int = 1, *, plain: bool = True, forward: bool = False,
) -> dict[str, Any]:
    """`_arithmetic` of a convolution. plain: it makes or takes y alone, with no mask and no statistics."""
    groups, window = options["groups"], [options[name] for name in ("stride", "padding", "dilation", "groups")]
    arithmetic, first = algorithms.arithmetic_of(dtype, bool(tf32)), 0
    if algo != algorithms.AUTO:  # which every convolution has
        first = algorithms.first_bytes(tuple(x_shape), kernel_size, *window, tuple(y_shape[1:3]), pool, arithmetic)
    depthwise = plain and groups > 1 and x_shape[3] == groups
    return _arithmetic(dtype, algo, tf32, depthwise=depthwise, first=first > 0, forward=forward)


def conv2d_relu(
    x, w, bias=None, *, pool=1, stride=1, padding=0, dilation=1, groups=1, fit="floor", algo="auto", tf32=False,
    out=None,
):
    x_shape, (k, r, s, c) = volume("x", x, "N H W C"), volume("w", w, "K R S C/groups")
    same_dtype(x=x, w=w, bias=bias)
    options, y_shape = convolution(x_shape, k, c, (r, s), stride, padding, dilation, groups, fit)
    if bias is not None:
        expect_shape("bias", bias, (k,), "one value for each filter")
    y_shape = pooled(y_shape, pool)
    expect_out(out, y_shape, x.dtype)
    asked = _convolution_s(x.dtype, algo, tf32, options, x_shape, (r, s), y_shape, pool, plain=False, forward=True)
    return options | dict(pool=pool) | asked


def pooled(y_shape: tuple[int, int, int, int], pool: Any) -> tuple[int, int, int, int]:
    """The shape of a convolution's output after a max pool of `pool` x `pool` windows at stride `pool`, 1 or 2."""
    if integer("pool", pool, 1) > 2:
        raise ValueError(f"pool must be 1 (none) or 2 (2 x 2 windows), received {pool}")
    n, p, q, k = y_shape
    if min(p, q) < pool:
        raise ValueError(f"a pool of 2 x 2 windows needs maps of at least 2 x 2, received {p} x {q}")
    return n, p // pool, q // pool, k


def mask_shape(y_shape: Sequence[int], groups: int, pool: int) -> tuple[int, int, int, int]:
    """The shape of the mask that conv2d_relu returns with a y of this shape."""
    n, p, q, k = y_shape
    return n, p, q, groups * -(-(k // groups) * pool**2 // 8)


def _masked_gradient(dy: Any, y_shape: Any, mask: Any, pool: Any, groups: int) -> int:
    """Check dy, and the mask where there is one, against a convolution's output; returns the pool."""
    dy_shape = pooled(y_shape, pool)
    if mask is None:
        if pool != 1:
            raise ValueError(f"pool={pool} needs the mask that conv2d_relu returned, received none")
        expect_shape("dy", dy, y_shape, "the convolution's output")
        return pool
    expect_shape("dy", dy, dy_shape, "the output of conv2d_relu")
    if mask.dtype != np.uint8:
        raise TypeError(f"mask must be uint8, as conv2d_relu returns it, received {mask.dtype.name}")
    expect_shape("mask", mask, mask_shape(dy_shape, groups, pool), "as conv2d_relu returns it")
    return pool


def _activation(activation: str | None) -> str | None:
    return None if activation is None else lookup("activation", activation, ACTIVATIONS)


def conv2d_dgrad(
    dy, w, *, input_shape, stride=1, padding=0, dilation=1, groups=1, fit="floor", algo="auto", tf32=False,
    mask=None, pool=1, out=None,
):
    (k, r, s, c), input_shape = volume("w", w, "K R S C/groups"), volume_shape("input_shape", input_shape)
    volume("dy", dy, "N P Q K")
    same_dtype(dy=dy, w=w)
    options, y_shape = convolution(input_shape, k, c, (r, s), stride, padding, dilation, groups, fit)
    pool = _masked_gradient(dy, y_shape, mask, pool, options["groups"])
    expect_out(out, input_shape, dy.dtype)
    asked = _convolution_s(dy.dtype, algo, tf32, options, input_shape, (r, s), dy.shape, pool, plain=mask is None)
    return options | dict(input_shape=input_shape, pool=pool) | asked


def conv2d_wgrad(
    dy, x, *, kernel_size, stride=1, padding=0, dilation=1, groups=1, fit="floor", algo="auto", tf32=False,
    mask=None, pool=1, out=None, db=None, accumulate=False,
):
    x_shape, dy_shape = volume("x", x, "N H W C"), volume("dy", dy, "N P Q K")
    same_dtype(dy=dy, x=x)
    kernel_size, groups = pair("kernel_size", kernel_size, 1), integer("groups", groups, 1)
    filters, filter_channels = dy_shape[3], x_shape[3] // groups
    options, y_shape = convolution(
        x_shape, filters, filter_channels, kernel_size, stride, padding, dilation, groups, fit
    )
    pool = _masked_gradient(dy, y_shape, mask, pool, groups)
    expect_out(out, (filters, *kernel_size, filter_channels), x.dtype)
    _expect_db(db, filters, filter_channels, x.dtype)
    expect_accumulate(accumulate, out=out)
    asked = _convolution_s(x.dtype, algo, tf32, options, x_shape, kernel_size, dy_shape, pool, plain=mask is None)
    return options | dict(kernel_size=kernel_size, pool=pool) | asked


def conv2d_backward(
    dy, x, w, *, stride=1, padding=0, dilation=1, groups=1, fit="floor", algo="auto", tf32=False, mask=None, pool=1,
    out=None, dw=None, db=None, accumulate=False,
):
    x_shape, (k, r, s, c) = volume("x", x, "N H W C"), volume("w", w, "K R S C/groups")
    volume("dy", dy, "N P Q K")
    same_dtype(dy=dy, x=x, w=w)
    options, y_shape = convolution(x_shape, k, c, (r, s), stride, padding, dilation, groups, fit)
    pool = _masked_gradient(dy, y_shape, mask, pool, options["groups"])
    expect_out(out, x_shape, x.dtype)
    expect_out(dw, w.shape, w.dtype, "dw")
    _expect_db(db, k, c, x.dtype)
    expect_accumulate(accumulate, dw=dw)
    asked = _convolution_s(x.dtype, algo, tf32, options, x_shape, (r, s), dy.shape, pool, plain=mask is None)
    return options | dict(pool=pool) | asked


def _expect_db(db: Any, filters: int, channels: int, dtype: np.dtype) -> None:
    expect_out(db, (filters,), dtype, "db")
    if db is not None and not channels:
        raise ValueError("db is made beside the gradient of a weight that reads something, received one of no channels")


def bias_grad(dy, *, out=None, accumulate=False):
    shape = any_float("dy", dy, 2)
    expect_out(out, shape[-1:], dy.dtype)
    expect_accumulate(accumulate, out=out)
    return {}


# --- pooling -----------------------------------------------------------------------------------


def pooling(
    input_shape: Sequence[int], kernel_size: Any, stride: Any, padding: Any, fit: str
) -> tuple[dict[str, Any], tuple[int, int, int, int]]:
    """The normalised window arguments of a pool, and its output shape."""
    kernel_size = pair("kernel_size", kernel_size, 1)
    stride = kernel_size if stride is None else pair("stride", stride, 1)
    padding = padding_pairs(padding, kernel_size, stride)
    fit = lookup("fit", fit, FITS)
    if any(side >= kernel_size[axis] for axis in (0, 1) for side in padding[axis]):
        raise ValueError(
            f"a pool's padding must be smaller than its kernel_size {kernel_size}, or a window would hold "
            f"padding alone; received {padding}"
        )
    n, h, w, c = input_shape
    if h * w == 0:
        raise ValueError(f"a pool needs maps of at least one pixel, received shape {(n, h, w, c)}")
    p, q = output_hw((h, w), kernel_size, stride, padding, fit=fit)
    options = dict(kernel_size=kernel_size, stride=stride, padding=padding, fit=fit)
    return options, expect_memory("the output", (n, p, q, c))


def argmax_dtype(kernel_size: Pair) -> np.dtype:
    """The smallest unsigned dtype that holds every index inside the window."""
    return np.min_scalar_type(kernel_size[0] * kernel_size[1] - 1)


def max_pool2d(x, *, kernel_size, stride=None, padding=0, fit="floor", out=None):
    options, y_shape = pooling(volume("x", x, "N H W C"), kernel_size, stride, padding, fit)
    expect_out(out, y_shape, x.dtype)
    return options


def max_pool2d_backward(
    dy, argmax, *, input_shape, kernel_size, stride=None, padding=0, fit="floor", out=None
):
    input_shape = volume_shape("input_shape", input_shape)
    options, y_shape = pooling(input_shape, kernel_size, stride, padding, fit)
    volume("dy", dy, "N P Q C")
    expect_shape("dy", dy, y_shape, "the pool's output")
    expect_shape("argmax", argmax, y_shape, "the pool's output")
    wanted = argmax_dtype(options["kernel_size"])
    if argmax.dtype != wanted:
        raise TypeError(f"argmax must be {wanted.name}, as max_pool2d returns it, received {argmax.dtype.name}")
    expect_out(out, input_shape, dy.dtype)
    return options | dict(input_shape=input_shape)


def avg_pool2d(
    x, *, kernel_size, stride=None, padding=0, count_include_pad=True, fit="floor", out=None
):
    options, y_shape = pooling(volume("x", x, "N H W C"), kernel_size, stride, padding, fit)
    expect_out(out, y_shape, x.dtype)
    return options | dict(count_include_pad=bool(count_include_pad))


def avg_pool2d_backward(
    dy, *, input_shape, kernel_size, stride=None, padding=0, count_include_pad=True, fit="floor", out=None
):
    input_shape = volume_shape("input_shape", input_shape)
    options, y_shape = pooling(input_shape, kernel_size, stride, padding, fit)
    volume("dy", dy, "N P Q C")
    expect_shape("dy", dy, y_shape, "the pool's output")
    expect_out(out, input_shape, dy.dtype)
    return options | dict(input_shape=input_shape, count_include_pad=bool(count_include_pad))


def global_avg_pool2d(x, *, out=None):
    n, h, w, c = volume("x", x, "N H W C")
    if h * w == 0:
        raise ValueError(f"the mean over an empty map is undefined, received shape {(n, h, w, c)}")
    expect_out(out, (n, 1, 1, c), x.dtype)
    return {}


def global_avg_pool2d_backward(dy, *, input_shape, out=None):
    n, h, w, c = volume_shape("input_shape", input_shape)
    volume("dy", dy, "N 1 1 C")
    expect_shape("dy", dy, (n, 1, 1, c), "one value for each map")
    expect_out(out, (n, h, w, c), dy.dtype)
    return dict(input_shape=(n, h, w, c))


# --- activations -------------------------------------------------------------------------------


def _elementwise(x: Any, out: Any) -> None:
    expect_out(out, any_float("x", x), x.dtype)


def _elementwise_backward(saved_name: str, dy: Any, saved: Any, out: Any) -> None:
    shape = any_float("dy", dy)
    same_dtype(**{"dy": dy, saved_name: saved})
    expect_shape(saved_name, saved, shape, "dy's shape")
    expect_out(out, shape, dy.dtype)


def relu(x, *, out=None):
    _elementwise(x, out)
    return {}


def relu_backward(dy, y, *, out=None):
    _elementwise_backward("y", dy, y, out)
    return {}


def leaky_relu(x, *, negative_slope=0.01, out=None):
    _elementwise(x, out)
    return dict(negative_slope=number("negative_slope", negative_slope, 0.0, beside=[x]))


def leaky_relu_backward(dy, y, *, negative_slope=0.01, out=None):
    _elementwise_backward("y", dy, y, out)
    return dict(negative_slope=number("negative_slope", negative_slope, 0.0, beside=[dy]))


sigmoid = tanh = silu = relu
sigmoid_backward = tanh_backward = relu_backward


def silu_backward(dy, x, *, out=None):
    _elementwise_backward("x", dy, x, out)
    return {}


GELU_FORMS = {"none": "none", "tanh": "tanh"}


def gelu(x, *, approximate="none", out=None):
    _elementwise(x, out)
    return dict(approximate=lookup("GELU approximation", approximate, GELU_FORMS))


def gelu_backward(dy, x, *, approximate="none", out=None):
    _elementwise_backward("x", dy, x, out)
    return dict(approximate=lookup("GELU approximation", approximate, GELU_FORMS))


def softmax(x, *, out=None):
    volume("x", x, "N classes")
    _elementwise(x, out)
    return {}


# --- arithmetic --------------------------------------------------------------------------------


def add(a, b, *, out=None):
    same_dtype(a=a, b=b)
    expect_shape("b", b, any_float("a", a), "a's shape")
    expect_out(out, a.shape, a.dtype)
    return {}


def scale(x, *, factor, out=None):
    _elementwise(x, out)
    return dict(factor=number("factor", factor, -math.inf, beside=[x]))


def add_metrics(totals, loss, scores, labels):
    if totals.dtype != np.float64 or tuple(totals.shape) != (4,):
        raise TypeError(f"totals must be float64 of shape (4,), received {totals.dtype.name} of {tuple(totals.shape)}")
    _scores_and_labels("scores", scores, labels, None)
    if labels.dtype != np.int64:
        raise TypeError(f"labels must be int64 here, received {labels.dtype.name}")
    expect_shape("loss", loss, (), "a batch's mean")
    if loss.dtype != accumulation_dtype(scores.dtype):
        wanted = accumulation_dtype(scores.dtype).name
        raise TypeError(f"loss must be {wanted} beside {scores.dtype.name} scores, received {loss.dtype.name}")
    return {}


# --- linear ------------------------------------------------------------------------------------


def linear(x, w, bias=None, *, activation=None, algo="auto", tf32=False, out=None):
    (n, features), (k, c) = volume("x", x, "N in_features"), volume("w", w, "out_features in_features")
    same_dtype(x=x, w=w, bias=bias)
    if features != c:
        raise ValueError(f"w reads {c} features, so x must have {c} columns, received {features}")
    if bias is not None:
        expect_shape("bias", bias, (k,), "one value for each output feature")
    expect_out(out, (n, k), x.dtype)
    return dict(activation=_activation(activation)) | _arithmetic(x.dtype, algo, tf32)


def linear_dgrad(dy, w, *, algo="auto", tf32=False, out=None):
    (n, rows), (k, c) = volume("dy", dy, "N out_features"), volume("w", w, "out_features in_features")
    same_dtype(dy=dy, w=w)
    if rows != k:
        raise ValueError(f"w has {k} output features, so dy must have {k} columns, received {rows}")
    expect_out(out, (n, c), dy.dtype)
    return _arithmetic(dy.dtype, algo, tf32)


def linear_wgrad(dy, x, *, algo="auto", tf32=False, out=None, db=None, accumulate=False):
    (n, k), (x_n, c) = volume("dy", dy, "N out_features"), volume("x", x, "N in_features")
    same_dtype(dy=dy, x=x)
    if n != x_n:
        raise ValueError(f"dy and x must have one batch size, received {n} and {x_n}")
    expect_out(out, (k, c), dy.dtype)
    _expect_db(db, k, c, dy.dtype)
    expect_accumulate(accumulate, out=out)
    return _arithmetic(dy.dtype, algo, tf32)


# --- normalisation and dropout -----------------------------------------------------------------


def _channel_vectors(x: Any, shape: Sequence[int], **vectors: Any) -> None:
    """Each is (C,) in the dtype that x accumulates in."""
    wanted = accumulation_dtype(x.dtype)
    for name, vector in vectors.items():
        if vector is None:
            continue
        expect_shape(name, vector, shape[-1:], "one value for each channel")
        if vector.dtype != wanted:
            raise TypeError(f"{name} must be {wanted.name} beside {x.dtype.name} data, received {vector.dtype.name}")


def batch_norm(
    x, gamma, beta, running_mean, running_var, *, training, momentum=0.1, eps=1e-5, activation=None, out=None
):
    shape = any_float("x", x, 2)
    _channel_vectors(x, shape, gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var)
    if training and math.prod(shape[:-1]) < 2:
        raise ValueError(f"batch statistics need more than one value for each channel, received shape {shape}")
    expect_out(out, shape, x.dtype)
    return dict(
        training=bool(training), momentum=number("momentum", momentum, 0.0, 1.0),
        eps=number("eps", eps, 0.0, beside=[x]),
        activation=_activation(activation),
    )


def conv2d_batch_norm(
    x, w, bias, gamma, beta, running_mean, running_var, *, stride=1, padding=0, dilation=1, groups=1, fit="floor",
    momentum=0.1, eps=1e-5, activation=None, algo="auto", tf32=False, out=None
):
    x_shape, (k, r, s, c) = volume("x", x, "N H W C"), volume("w", w, "K R S C/groups")
    same_dtype(x=x, w=w, bias=bias)
    options, y_shape = convolution(x_shape, k, c, (r, s), stride, padding, dilation, groups, fit)
    if bias is not None:
        expect_shape("bias", bias, (k,), "one value for each filter")
    _channel_vectors(x, y_shape, gamma=gamma, beta=beta, running_mean=running_mean, running_var=running_var)
    if math.prod(y_shape[:-1]) < 2:
        raise ValueError(f"batch statistics need more than one value for each filter, received maps of {y_shape}")
    expect_out(out, y_shape, x.dtype)
    asked = _convolution_s(x.dtype, algo, tf32, options, x_shape, (r, s), y_shape, plain=False, forward=True)
    return options | asked | dict(
        momentum=number("momentum", momentum, 0.0, 1.0), eps=number("eps", eps, 0.0, beside=[x]),
        activation=_activation(activation),
    )


def batch_norm_backward(
    dy, x, gamma, mean, inv_std, *, beta=None, activation=None, training=True, out=None, dgamma=None, dbeta=None,
    accumulate=False
):
    shape = any_float("x", x, 2)
    same_dtype(dy=dy, x=x)
    expect_shape("dy", dy, shape, "x's shape")
    _channel_vectors(x, shape, gamma=gamma, mean=mean, inv_std=inv_std, beta=beta, dgamma=dgamma, dbeta=dbeta)
    if activation is not None and beta is None:
        raise ValueError(f"the gradient of activation={activation!r} needs beta, which was not given")
    expect_out(out, shape, x.dtype)
    expect_accumulate(accumulate, dgamma=dgamma, dbeta=dbeta)
    return dict(training=bool(training), activation=_activation(activation))


def _dropout(array: Any, p: Any, seed: Any, substream: Any, offset: Any, out: Any) -> dict[str, Any]:
    _elementwise(array, out)
    return dict(
        p=number("p", p, 0.0, 1.0, open_high=True), seed=seed_value("seed", seed),
        substream=stream_word("substream", substream), offset=step_integer("offset", offset),
    )


def dropout(x, *, p, seed, substream=0, offset=0, out=None):
    return _dropout(x, p, seed, substream, offset, out)


def dropout_backward(dy, *, p, seed, substream=0, offset=0, out=None):
    return _dropout(dy, p, seed, substream, offset, out)


# --- losses ------------------------------------------------------------------------------------


def _scores_and_labels(name: str, scores: Any, labels: Any, out: Any) -> None:
    n, classes = volume(name, scores, "N classes")
    if n == 0 or classes == 0:
        raise ValueError(f"a mean loss needs at least one sample and one class, received shape {(n, classes)}")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, received {labels.dtype.name}")
    expect_shape("labels", labels, (n,), "one label for each row")
    expect_out(out, (n, classes), scores.dtype)


def softmax_cross_entropy(logits, labels, *, label_smoothing=0.0, grad_scale=1.0, out=None):
    _scores_and_labels("logits", logits, labels, out)
    return dict(
        label_smoothing=number("label_smoothing", label_smoothing, 0.0, 1.0),
        grad_scale=step_scalar("grad_scale", grad_scale, [logits]),
    )


def svm_hinge(scores, labels, *, delta=1.0, grad_scale=1.0, out=None):
    _scores_and_labels("scores", scores, labels, out)
    return dict(
        delta=number("delta", delta, 0.0, beside=[scores]),
        grad_scale=step_scalar("grad_scale", grad_scale, [scores]),
    )


# --- optimizer steps ---------------------------------------------------------------------------


def _lists(dtypes: bool = True, **lists: Any) -> None:
    """Lists of one length whose arrays agree in shape and, with `dtypes`, dtype, entry by entry."""
    first_name, first = next(iter(lists.items()))
    for name, arrays in lists.items():
        if not isinstance(arrays, (list, tuple)):
            raise TypeError(f"{name} must be a list of arrays, received {type(arrays).__name__}")
        if len(arrays) != len(first):
            raise ValueError(f"{name} must have as many arrays as {first_name} ({len(first)}), received {len(arrays)}")
        for index, (array, param) in enumerate(zip(arrays, first)):
            any_float(f"{name}[{index}]", array)
            expect_shape(f"{name}[{index}]", array, param.shape, f"the shape of {first_name}[{index}]")
            if dtypes and array.dtype != param.dtype:
                raise TypeError(
                    f"{name}[{index}] must be {param.dtype.name} as {first_name}[{index}] is, "
                    f"received {array.dtype.name}"
                )


def _decay(weight_decay: Any, params: Sequence[Any]) -> tuple[float, ...]:
    count = len(params)
    if not isinstance(weight_decay, (tuple, list)):
        return (number("weight_decay", weight_decay, 0.0, beside=params),) * count
    if len(weight_decay) != count:
        raise ValueError(
            f"weight_decay must be one number or one for each of {count} params, received {len(weight_decay)}"
        )
    return tuple([number("weight_decay", value, 0.0, beside=params) for value in weight_decay])


def _step(params: Any, grads: Any, masters: Any, scaling: Any, **states: Any) -> None:
    """The lists of a step: gradients like the parameters, state like the masters."""
    _lists(params=params, grads=grads)
    if scaling is not None:
        _scaling(scaling)
    if masters is None:
        _lists(params=params, **states)
        return
    _lists(dtypes=False, params=params, masters=masters)
    for index, (param, master) in enumerate(zip(params, masters)):
        wanted = accumulation_dtype(param.dtype)
        if master.dtype != wanted:
            raise TypeError(
                f"masters[{index}] must be {wanted.name} beside {param.dtype.name}, received {master.dtype.name}"
            )
    _lists(masters=masters, **states)


def _scaling(scaling: Any) -> None:
    if scaling.dtype != np.float64 or tuple(scaling.shape) != (4,):
        raise TypeError(
            f"scaling must be float64 of shape (4,), received {scaling.dtype.name} of {tuple(scaling.shape)}"
        )


def sgd_step(
    params, grads, velocities=None, masters=None, scaling=None, *, lr, momentum=0.0, nesterov=False, weight_decay=0.0
):
    if velocities is None and momentum:
        raise ValueError(f"momentum {momentum} needs velocities, which were not given")
    _step(params, grads, masters, scaling, **({} if velocities is None else {"velocities": velocities}))
    momentum = number("momentum", momentum, 0.0, 1.0)
    if nesterov and not momentum:
        raise ValueError("nesterov=True needs a momentum above 0")
    return dict(
        lr=_rate(lr, params), momentum=momentum, nesterov=bool(nesterov),
        weight_decay=_decay(weight_decay, params),
    )


def adagrad_step(params, grads, square_sums, masters=None, scaling=None, *, lr, eps=1e-10, weight_decay=0.0):
    _step(params, grads, masters, scaling, square_sums=square_sums)
    return dict(
        lr=_rate(lr, params), eps=number("eps", eps, 0.0, beside=params),
        weight_decay=_decay(weight_decay, params)
    )


def rmsprop_step(
    params, grads, square_averages, masters=None, scaling=None, *, lr, alpha=0.99, eps=1e-8, weight_decay=0.0
):
    _step(params, grads, masters, scaling, square_averages=square_averages)
    return dict(
        lr=_rate(lr, params), alpha=number("alpha", alpha, 0.0, 1.0),
        eps=number("eps", eps, 0.0, beside=params),
        weight_decay=_decay(weight_decay, params),
    )


def adam_step(
    params, grads, exp_avgs, exp_avg_sqs, masters=None, scaling=None, *, lr, step, beta1=0.9, beta2=0.999, eps=1e-8,
    weight_decay=0.0, decoupled=False,
):
    _step(params, grads, masters, scaling, exp_avgs=exp_avgs, exp_avg_sqs=exp_avg_sqs)
    return dict(
        lr=_rate(lr, params), step=step_integer("step", step, 1),
        beta1=number("beta1", beta1, 0.0, 1.0, open_high=True),
        beta2=number("beta2", beta2, 0.0, 1.0, open_high=True), eps=number("eps", eps, 0.0, beside=params),
        weight_decay=_decay(weight_decay, params), decoupled=bool(decoupled),
    )


def update_loss_scale(scaling, grads, *, growth=2.0, backoff=0.5, interval=2000):
    _scaling(scaling)
    _lists(grads=grads)
    return dict(
        growth=number("growth", growth, 1.0), backoff=number("backoff", backoff, 0.0, 1.0),
        interval=integer("interval", interval, 1),
    )


MOST_NEWTON_SCHULZ = 100  # steps; five bring the singular values near 1, and no more bring them nearer
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # a, b, c of muon_step, Jordan's: steep at 0, near 1 at 1


def muon_step(
    params, grads, velocities, masters=None, scaling=None, *, lr, momentum=0.0, nesterov=False, steps=5
):
    _step(params, grads, masters, scaling, velocities=velocities)
    for index, param in enumerate(params):
        if len(param.shape) < 2:
            raise ValueError(f"muon_step takes params of rank 2 or more, received params[{index}] of {param.shape}")
    momentum = number("momentum", momentum, 0.0, 1.0)
    if nesterov and not momentum:
        raise ValueError("nesterov=True needs a momentum above 0")
    return dict(
        lr=_rate(lr, params), momentum=momentum, nesterov=bool(nesterov),
        steps=integer("steps", steps, 0, MOST_NEWTON_SCHULZ),
    )


# --- batches -----------------------------------------------------------------------------------


BORDERS = ("zero", "reflect")


def flip_value(flip: Any) -> bool | str:
    """False, True or "alternating"; TypeError and ValueError for anything else."""
    if isinstance(flip, (bool, np.bool_)):
        return bool(flip)
    if not isinstance(flip, str):
        raise TypeError(f"flip must be True, False or 'alternating', received {flip!r}")
    return lookup("flip", flip, {"alternating": "alternating"})


def load_batch(
    images, labels, indices, *, mean, std, flip=False, shift=0, border="zero", cutout=0, seed=0, offset=0, start=0,
    count=None, dtype="float32", out=None,
):
    if images.dtype != np.uint8 or len(images.shape) != 4:
        raise TypeError(
            f"images must be uint8 (M, H, W, C), received {images.dtype.name} of shape {tuple(images.shape)}"
        )
    m, h, w, c = images.shape
    for name, vector in (("labels", labels), ("indices", indices)):
        if vector.dtype != np.int64 or len(vector.shape) != 1:
            raise TypeError(
                f"{name} must be int64 of rank 1, received {vector.dtype.name} of shape {tuple(vector.shape)}"
            )
    expect_shape("labels", labels, (m,), "one label for each image")
    for name, values in (("mean", mean), ("std", std)):
        if values.dtype != np.float32 or tuple(values.shape) not in ((c,), (h, w, c)):
            raise ValueError(
                f"{name} must be float32 of shape {(c,)} or {(h, w, c)}, "
                f"received {values.dtype.name} {tuple(values.shape)}"
            )
    shift, cutout = integer("shift", shift, 0), integer("cutout", cutout, 0, INT32)
    if shift >= min(h, w):
        raise ValueError(f"shift must be smaller than the image ({h} x {w}), received {shift}")
    start, count = _part_of("indices", indices.shape[0], step_integer("start", start), count)
    dtype = as_dtype(dtype)
    expect_out(out, (count, h, w, c), dtype)
    return dict(
        flip=flip_value(flip), shift=shift, border=canonical("border", border, BORDERS),
        cutout=cutout, seed=seed_value("seed", seed),
        offset=step_integer("offset", offset), start=start, count=count, dtype=dtype,
    )


def _part_of(name: str, length: int, start: Any, count: Any) -> tuple[Any, int]:
    """Where a part begins and how long it is, inside `length` entries as far as the host can tell."""
    on_device = _is_array(start)
    if on_device and count is None:
        raise ValueError("a start in device memory needs a count: how long the batch is must be known before it runs")
    first = 0 if on_device else integer("start", start, 0)
    count = max(0, length - first) if count is None else integer("count", count, 0)
    if first + count > length:
        raise ValueError(f"{name} has {length} entries; a batch of {count} from {first} on does not fit")
    return (start if on_device else first), count


def batch_indices(indices: Any, start: Any, count: int, images: int) -> Any:
    """indices[start : start + count] where the host can read them; ValueError unless each is one of the images."""
    first = int(start.item() if _is_array(start) else start)
    if not 0 <= first <= len(indices) - count:
        raise ValueError(f"indices has {len(indices)} entries; a batch of {count} from {first} on does not fit")
    part = indices[first : first + count]
    expect_within("indices", part, images)
    return part


# --- the training clock -----------------------------------------------------------------------


def advance_clock(clock, lr, rates, *, batch_size):
    _expect_counters("clock", clock, 4)
    if lr.dtype not in (np.float32, np.float64) or rates.dtype != lr.dtype:
        raise TypeError(
            f"lr and rates must both be float32 or both float64, received {lr.dtype.name} and {rates.dtype.name}"
        )
    if len(lr.shape) != 1 or tuple(rates.shape[1:]) != tuple(lr.shape):
        raise ValueError(f"rates must be rows like lr, (T, L) and (L,), received {rates.shape} and {lr.shape}")
    return dict(batch_size=integer("batch_size", batch_size, 0))


def advance_counter(counter, *, by):
    _expect_counters("counter", counter, 1)
    return dict(by=integer("by", by, 0))


def _expect_counters(name: str, array: Any, length: int) -> None:
    if array.dtype != np.int64 or tuple(array.shape) != (length,):
        raise TypeError(f"{name} must be int64 of shape ({length},), received {array.dtype.name} {tuple(array.shape)}")


# --- random numbers ----------------------------------------------------------------------------


def _place_of_a_draw(seed: Any, **words: Any) -> dict[str, int]:
    """The seed and the other words that say where in the stream a draw begins."""
    return dict(seed=seed_value("seed", seed), **{name: stream_word(name, word) for name, word in words.items()})


def random_uniform(y, *, low=0.0, high=1.0, seed, stream=0, substream=0, offset=0):
    any_float("y", y)
    low, high = number("low", low, -math.inf), number("high", high, -math.inf)
    if not low <= high:
        raise ValueError(f"low must not exceed high, received {low} and {high}")
    if not math.isfinite(high - low):
        raise ValueError(f"high - low must be finite, received {low} and {high}")
    return _place_of_a_draw(seed, stream=stream, substream=substream) | dict(offset=integer("offset", offset, 0))


def random_normal(y, *, mean=0.0, std=1.0, seed, stream=0, substream=0, offset=0):
    any_float("y", y)
    number("mean", mean, -math.inf)
    number("std", std, 0.0)
    return _place_of_a_draw(seed, stream=stream, substream=substream) | dict(offset=integer("offset", offset, 0))


def random_permutation(order, *, seed, epoch=0, stream=1):
    if order.dtype != np.int64 or len(order.shape) != 1:
        raise TypeError(f"order must be int64 of rank 1, received {order.dtype.name} of shape {tuple(order.shape)}")
    return _place_of_a_draw(seed, epoch=epoch, stream=stream)
