"""Batch and group normalization: launchers of kernels/batch_norm.cu and group_norm.cu."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gpuconv.backends.cuda.gemm.product import ACTIVATIONS
from gpuconv.backends.cuda.ops.column_reduce import MAP_STEPS, distribute, finish_grid, partials, width_of
from gpuconv.backends.cuda.ops.conv import conv2d_dgrad_sums, conv2d_moments
from gpuconv.backends.cuda.ops.conv_struct import expect_within_limits
from gpuconv.backends.cuda.runtime.kernel import Module, load, until_replaced
from gpuconv.backends.cuda.runtime.new_arrays import empty
from gpuconv.backends.cuda.runtime.outputs import THREADS, buffer, ceil_div, contiguous, pack_width, put_back, store
from gpuconv.backends.cuda.runtime.rows import rows_of, rows_to_sum
from gpuconv.dtypes import accumulation_dtype
from gpuconv.problems import Conv2dProblem, Epilogue
from gpuconv.types import Array, ArrayT

# One launch adds up at most _MOST_CHUNKS partial results; if there are more, a launch before it merges them into at
# most _MERGED_CHUNKS.
_MOST_CHUNKS, _MERGED_CHUNKS = 1024, 256


def batch_norm(
    x: ArrayT,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    *,
    training: bool,
    momentum: float,
    eps: float,
    activation: str | None,
    addend: ArrayT | None,
    out: ArrayT | None,
) -> tuple[ArrayT, Array, Array]:
    channels = x.shape[-1]
    gamma, beta = contiguous(gamma, beta)
    y = buffer(out, x.shape, x.dtype, like=x, pitched=True)
    mean, inv_std = _channel_vector(x), _channel_vector(x)
    if not channels:
        return store(y, out), mean, inv_std
    rows = x.size // channels
    running = contiguous(running_mean, running_var)
    if training:
        given = rows_to_sum(x)
        _statistics(rows, (mean, inv_std, *running), given, momentum, eps, activation)
        _compute("batch_norm_normalize", y, given, addend, (given[0], gamma, beta, mean, inv_std), activation)
    else:
        given = rows_of(x)
        arguments = mean, inv_std, given[0], gamma, beta, *running, eps
        _compute("batch_norm_inference", y, given, addend, arguments, activation)
    put_back((running_mean, running_var), running)
    return store(y, out), mean, inv_std


def conv2d_batch_norm(
    x: ArrayT,
    w: ArrayT,
    bias: ArrayT | None,
    gamma: Array,
    beta: Array,
    running_mean: Array,
    running_var: Array,
    conv: tuple[Conv2dProblem, Epilogue, str, bool],
    *,
    momentum: float,
    eps: float,
    activation: str | None,
    addend: ArrayT | None,
    out: ArrayT | None,
) -> tuple[Array, ...]:
    problem, epilogue, algo, tf32 = conv
    given, moments, mask = conv2d_moments(x, w, bias, problem, epilogue, algo=algo, tf32=tf32)
    channels, exact = problem.k, accumulation_dtype(given.dtype)
    y = buffer(out, given.shape, given.dtype, like=given, pitched=True)
    mean, inv_std = empty((channels,), exact, like=given), empty((channels,), exact, like=given)
    saved: tuple[Array, ...] = (given, mean, inv_std) if mask is None else (given, mean, inv_std, mask)
    if moments is None:
        return store(y, out), *saved
    gamma, beta, *running = contiguous(gamma, beta, running_mean, running_var)
    module = _kernels(given.dtype, width_of(channels, given), activation)
    moments = _merged(moments, module, "batch_norm_merge")
    finish = module.kernel("batch_norm_statistics_finish")
    finish(finish_grid(channels), THREADS, mean, inv_std, *running, moments, momentum, eps, len(moments), channels)
    arguments = given, gamma, beta, mean, inv_std
    _compute("batch_norm_normalize", y, (given, channels), addend, arguments, activation)
    put_back((running_mean, running_var), running)
    return store(y, out), *saved


def batch_norm_backward(
    dy: ArrayT,
    x: ArrayT,
    gamma: Array,
    mean: Array,
    inv_std: Array,
    *,
    beta: Array | None,
    activation: str | None,
    saved: ArrayT | None,
    training: bool,
    mask: Array | None,
    w: ArrayT | None,
    conv: tuple[Conv2dProblem, Epilogue, str, bool] | None,
    out: ArrayT | None,
    dgamma: Array | None,
    dbeta: Array | None,
    accumulate: bool,
) -> tuple[Array, ...]:
    gamma, beta, mean, inv_std, w = contiguous(gamma, beta, mean, inv_std, w)
    vectors = gamma, beta, mean, inv_std
    pool = conv[0] if conv is not None and mask is not None else None
    if pool is not None:
        read = _read_pooled(dy, x, activation, pool)
    elif conv is not None:
        read = _read_next_conv(dy, x, activation, vectors, w, conv)
    else:
        read = _Read(*_sizes(x), *rows_to_sum(dy), *rows_to_sum(x), activation)
    if saved is not None:
        read = _read_saved(read, saved, mean)
    dx: Array | None = out
    if dx is None and pool is None and conv is not None:
        dx = read.dy  # dx takes the place of the gradient that the next convolution's dgrad wrote
    elif dx is None:
        dx = empty(x.shape if pool is None else pool.y_shape, x.dtype, like=x)
    dgamma = _channel_vector(x) if dgamma is None else dgamma
    dbeta = _channel_vector(x) if dbeta is None else dbeta
    if read.channels:
        dx_there, *gradients = there = contiguous(dx, dgamma, dbeta)
        module, width, unpool = _backward_kernels(read, dx_there, pool, mask)
        sums = _backward_sums(read, vectors, gradients, accumulate, module, width)
        _backward_dx(dx_there, read, vectors, sums, training, module, width, unpool)
        put_back((dx, dgamma, dbeta), there)
    return (dx, dgamma, dbeta) if saved is None else (dx, dgamma, dbeta, read.dy)


class _Read(NamedTuple):
    """What the kernels of backward read.

    rows, channels: the numbers of both of the norm's input. dy, x: as `rows_of` gives them, with their pitches.
    activation: the one between the norm and dy. parts: the partial sums over dy and x, if another kernel has computed
    them.
    """

    rows: int
    channels: int
    dy: Array
    dy_pitch: int
    x: Array
    x_pitch: int
    activation: str | None
    parts: Array | None = None


def _sizes(x: Array) -> tuple[int, int]:
    """The rows and the channels of a norm's input."""
    return math.prod(x.shape[:-1]), x.shape[-1]


def _read_pooled(dy: ArrayT, x: ArrayT, activation: str | None, pool: Conv2dProblem) -> _Read:
    """dy and x of a pooled volume."""
    expect_within_limits(pool)
    (x,) = contiguous(x)
    rows, channels = _sizes(x)
    return _Read(rows, channels, *rows_to_sum(dy, channels // pool.groups), x, channels, activation)


def _read_next_conv(
    dy: ArrayT,
    x: ArrayT,
    activation: str | None,
    vectors: tuple[Array, ...],
    w: ArrayT,
    conv: tuple[Conv2dProblem, Epilogue, str, bool],
) -> _Read:
    """The gradient of the input of the next convolution, with the sums that its dgrad computes; dy is that of its
    output. vectors: gamma, beta, mean, inv_std."""
    gamma, beta, mean, inv_std = vectors
    (x,) = contiguous(x)
    norm = (x, mean, gamma, beta, inv_std) if activation else (x, mean, None, None, None)
    dx, parts = conv2d_dgrad_sums(dy, w, norm, *conv)
    rows, channels = _sizes(x)
    return _Read(rows, channels, dx, channels, x, channels, activation, parts)


def _read_saved(read: _Read, saved: ArrayT, mean: Array) -> _Read:
    """The gradient of the activation's input, which `saved` holds, with the sums that its kernel computes."""
    rows, channels, dy, dy_pitch, x, x_pitch, activation, _ = read
    dz = empty(saved.shape, saved.dtype, like=saved)
    if not channels:
        return _Read(rows, channels, dz, channels, x, x_pitch, None)
    kept, pitch = rows_to_sum(saved)
    width = width_of(channels, x, dy, kept, pitches=(dy_pitch, x_pitch, pitch))
    columns = distribute(rows, channels, width, None)
    parts = empty((columns.chunks, channels, 2), mean.dtype, like=saved)
    reduce = _kernels(saved.dtype, width, activation).kernel("batch_norm_backward_sums_saved")
    arrays = parts, dz, dy, x, kept, mean
    reduce(columns.grid, columns.threads, *arrays, columns.struct, dy_pitch, x_pitch, pitch)
    return _Read(rows, channels, dz, channels, x, x_pitch, None, parts)


def _backward_kernels(
    read: _Read, dx: Array, pool: Conv2dProblem | None, mask: Array | None
) -> tuple[Module, int, tuple[object, ...]]:
    """The kernels, the numbers that move at once, and the further arguments that dx of a pooled volume needs."""
    _, channels, dy, dy_pitch, x, x_pitch, activation, _ = read
    if pool is None:
        width = width_of(channels, x, dy, dx, pitches=(dy_pitch, x_pitch))
        return _kernels(x.dtype, width, activation), width, ()
    filters = channels // pool.groups
    width = pack_width(x.dtype, x, dy, dx, count=math.gcd(filters, dy_pitch))
    unpool = (*contiguous(mask), *pool.y_shape[1:3], *x.shape[1:3], filters)
    return _kernels(x.dtype, width, activation, masked=True), width, unpool


def _backward_sums(
    read: _Read, vectors: tuple[Array, ...], gradients: list[Array], accumulate: bool, module: Module, width: int
) -> Array:
    """The sums (C, 2) over dy and over dy times the normalized x; writes dgamma and dbeta, the `gradients`, too.
    vectors: gamma, beta, mean, inv_std."""
    rows, channels, dy, dy_pitch, x, x_pitch, _, parts = read
    sums = empty((channels, 2), vectors[0].dtype, like=x)
    if parts is None:
        columns = distribute(rows, channels, width, None)
        parts = partials(columns, 2, x.dtype, x)
        reduce, arrays = module.kernel("batch_norm_backward_sums"), (*gradients, sums, parts, dy, x, *vectors)
        reduce(columns.grid, columns.threads, *arrays, accumulate, columns.struct, dy_pitch, x_pitch)
    else:
        parts = _merged(parts, module, "batch_norm_backward_merge")
    if parts is not None:
        finish, arrays = module.kernel("batch_norm_backward_finish"), (*gradients, sums, parts, vectors[3])
        finish(finish_grid(channels), THREADS, *arrays, accumulate, len(parts), channels)
    return sums


def _backward_dx(
    dx: Array,
    read: _Read,
    vectors: tuple[Array, ...],
    sums: Array,
    training: bool,
    module: Module,
    width: int,
    unpool: tuple[object, ...],
) -> None:
    """Write dx. vectors: gamma, beta, mean, inv_std. unpool: further arguments, see `_backward_kernels`."""
    rows, channels, dy, dy_pitch, x, x_pitch, activation, _ = read
    spread = distribute(rows, channels, width, MAP_STEPS)
    launch = module.kernel("batch_norm_backward_dx_unpooled" if unpool else "batch_norm_backward_dx")
    arrays = dx, dy, x if training or activation else None, *vectors, sums
    launch(spread.grid, spread.threads, *arrays, rows, training, spread.struct, dy_pitch, x_pitch, *unpool)


def _merged(states: Array, module: Module, merge: str) -> Array:
    """The states of each tile and channel, merged by the kernel `merge` if one launch cannot add up so many."""
    if len(states) <= _MOST_CHUNKS:
        return states
    parts, channels, numbers = states.shape
    share = ceil_div(parts, _MERGED_CHUNKS)
    fewer = empty((ceil_div(parts, share), channels, numbers), states.dtype, like=states)
    grid = finish_grid(channels), len(fewer)
    module.kernel(merge)(grid, THREADS, fewer, states, parts, share, channels)
    return fewer


def _compute(
    kernel: str,
    y: Array,
    given: tuple[Array, int],
    addend: Array | None,
    arguments: tuple[object, ...],
    activation: str | None,
) -> None:
    """Launch a kernel that computes y, or its form with an addend; y and the addend may be rows with a pitch.

    given: `rows_of(x)`. arguments: the kernel's, between y and the columns.
    """
    channels, (flat, y_pitch), (x, x_pitch) = y.shape[-1], rows_of(y), given
    more, more_pitch = (None, channels) if addend is None else rows_of(addend)
    width = width_of(channels, x, flat, more, pitches=(y_pitch, x_pitch, more_pitch))
    spread = distribute(y.size // channels, channels, width, MAP_STEPS)
    module = _kernels(x.dtype, width, activation)
    launch = module.kernel(kernel if addend is None else f"{kernel}_addend")
    last = () if addend is None else (more, more_pitch)
    launch(spread.grid, spread.threads, flat, *arguments, spread.struct, y_pitch, x_pitch, *last)


def _statistics(
    rows: int, outputs: tuple[Array, ...], given: tuple[Array, int], momentum: float, eps: float, activation: str | None
) -> None:
    """Fill mean and inv_std, and update the running statistics. outputs: mean, inv_std, running mean and running
    variance. given: `rows_to_sum(x)`. activation: that of the normalization, so that both use one module."""
    channels, (x, pitch) = len(outputs[0]), given
    width = width_of(channels, x, pitches=(pitch,))
    module = _kernels(x.dtype, width, activation)
    columns = distribute(rows, channels, width, None)
    chunks = partials(columns, 3, x.dtype, x)
    module.kernel("batch_norm_statistics")(
        columns.grid, columns.threads, *outputs, chunks, x, momentum, eps, columns.struct, pitch
    )
    if chunks is not None:
        finish = module.kernel("batch_norm_statistics_finish")
        finish(finish_grid(channels), THREADS, *outputs, chunks, momentum, eps, columns.chunks, channels)


@until_replaced
def _kernels(dtype: np.dtype, width: int, activation: str | None, masked: bool = False) -> Module:
    macros = {"DTYPE": dtype, "WIDTH": width, "ACTIVATION": ACTIVATIONS[activation], "MASK": 4 if masked else 0}
    return load("batch_norm.cu", macros)


def _channel_vector(x: ArrayT) -> ArrayT:
    return empty(x.shape[-1:], accumulation_dtype(x.dtype), like=x)


def group_norm(
    x: ArrayT, gamma: Array, beta: Array, *, groups: int, eps: float, out: ArrayT | None
) -> tuple[ArrayT, Array, Array]:
    x, gamma, beta = contiguous(x, gamma, beta)
    y = buffer(out, x.shape, x.dtype, like=x, pitched=True)
    mean, inv_std = (empty((len(x), groups), accumulation_dtype(x.dtype), like=x) for _ in range(2))
    if x.size:
        flat, pitch = rows_of(y)
        module = load("group_norm.cu", {"DTYPE": x.dtype, "WIDTH": 1})
        threads, sizes = _threads_of_groups(x, groups)
        module.kernel("group_norm_forward")(
            len(x) * groups, threads, flat, mean, inv_std, x, gamma, beta, eps, *sizes, pitch
        )
    return store(y, out), mean, inv_std


def group_norm_backward(
    dy: ArrayT,
    x: ArrayT,
    gamma: Array,
    mean: Array,
    inv_std: Array,
    *,
    out: ArrayT | None,
    dgamma: Array | None,
    dbeta: Array | None,
    accumulate: bool,
) -> tuple[ArrayT, Array, Array]:
    x, gamma, mean, inv_std = contiguous(x, gamma, mean, inv_std)
    dy, pitch = rows_to_sum(dy)
    dx = empty(x.shape, x.dtype, like=x) if out is None else out
    dgamma = _channel_vector(x) if dgamma is None else dgamma
    dbeta = _channel_vector(x) if dbeta is None else dbeta
    channels, groups = x.shape[-1], mean.shape[1]
    if not channels:
        return dx, dgamma, dbeta
    dx_there, *gradients = there = contiguous(dx, dgamma, dbeta)
    an_image = math.prod(x.shape[1:])
    width = width_of(channels, x, dy, pitches=(pitch,))
    width = 1 if an_image % width else width
    module = load("group_norm.cu", {"DTYPE": x.dtype, "WIDTH": width})
    columns = distribute(x.size // channels, channels, width, None)
    chunks = partials(columns, 2, x.dtype, x)
    module.kernel("group_norm_backward_sums")(
        columns.grid,
        columns.threads,
        *gradients,
        chunks,
        dy,
        x,
        mean,
        inv_std,
        max(1, an_image // width),
        groups,
        accumulate,
        columns.struct,
        pitch,
    )
    if chunks is not None:
        finish = module.kernel("group_norm_backward_finish")
        finish(finish_grid(channels), THREADS, *gradients, chunks, accumulate, columns.chunks, channels)
    if x.size:
        threads, sizes = _threads_of_groups(x, groups)
        module.kernel("group_norm_backward_dx")(
            len(x) * groups, threads, dx_there, dy, x, gamma, mean, inv_std, *sizes, pitch
        )
    put_back((dx, dgamma, dbeta), there)
    return dx, dgamma, dbeta


def _threads_of_groups(x: Array, groups: int) -> tuple[int, tuple[int, int, int, int]]:
    """The threads of a block, each for about four numbers of the block's group, and the kernels' arguments pixels,
    channels, groups and columns."""
    pixels, channels = math.prod(x.shape[1:-1]), x.shape[-1]
    width = channels // groups
    threads = min(THREADS, max(32, 1 << (ceil_div(pixels * width, 4) - 1).bit_length()))
    columns = min(threads, 1 << (width - 1).bit_length())
    return threads, (pixels, channels, groups, columns)
