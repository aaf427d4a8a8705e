"""Batch and group normalization: launchers of kernels/batch_norm.cu and group_norm.cu."""

from __future__ import annotations

import math

import numpy as np

from gpuconv.backends.cuda.gemm.product import ACTIVATIONS
from gpuconv.backends.cuda.ops.column_reduce import MAP_STEPS, Columns, distribute, finish_grid, partials, width_of
from gpuconv.backends.cuda.ops.conv import conv2d_dgrad_sums, conv2d_moments, rows_to_sum
from gpuconv.backends.cuda.ops.conv_struct import expect_within_limits
from gpuconv.backends.cuda.runtime.grids import THREADS
from gpuconv.backends.cuda.runtime.kernel import Module, load
from gpuconv.backends.cuda.runtime.limits import WARP
from gpuconv.backends.cuda.runtime.new_arrays import empty
from gpuconv.backends.cuda.runtime.outputs import buffer, contiguous, pack_width, put_back, store
from gpuconv.backends.cuda.runtime.replaced_files import until_replaced
from gpuconv.backends.cuda.runtime.rows import rows_of
from gpuconv.dtypes import accumulation_dtype
from gpuconv.integers import ceil_div
from gpuconv.problems import Conv2dProblem, Epilogue
from gpuconv.types import Array, ArrayT

# One launch adds up at most _MOST_CHUNKS partial results. The norm's own reductions never make more (see `distribute`).
# If a convolution makes more, another launch first merges them into at most _MERGED_CHUNKS.
_MOST_CHUNKS, _MERGED_CHUNKS = 1024, 256


NormArrays = tuple[Array, Array | None, Array, Array | None, Array, Array]  # dy, x, gamma, beta, mean, inv_std


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
) -> tuple[ArrayT, ArrayT, ArrayT]:
    channels = x.shape[-1]
    gamma, beta = contiguous(gamma, beta)
    y = buffer(out, x.shape, x.dtype, like=x, pitched=True)
    mean, inv_std = _channel_vector(x), _channel_vector(x)
    if not channels:
        return store(y, out), mean, inv_std
    rows = x.size // channels
    running = contiguous(running_mean, running_var)
    if training:
        x_rows = rows_to_sum(x)
        _statistics(rows, (mean, inv_std, *running), x_rows, momentum, eps, activation)
        _compute("batch_norm_normalize", y, x_rows, addend, (x_rows[0], gamma, beta, mean, inv_std), activation)
    else:
        x_rows = rows_of(x)
        arguments = mean, inv_std, x_rows[0], gamma, beta, *running, eps
        _compute("batch_norm_inference", y, x_rows, addend, arguments, activation)
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
    z, moments, mask = conv2d_moments(x, w, bias, problem, epilogue, algo=algo, tf32=tf32)
    channels = problem.k
    y = buffer(out, z.shape, z.dtype, like=z, pitched=True)
    mean, inv_std = _channel_vector(z), _channel_vector(z)
    saved: tuple[Array, ...] = (z, mean, inv_std) if mask is None else (z, mean, inv_std, mask)
    if moments is None:  # y is empty
        return store(y, out), *saved
    gamma, beta, *running = contiguous(gamma, beta, running_mean, running_var)
    module = _kernels(z.dtype, width_of(channels, z), activation)
    moments = _merge_parts(moments, module, "batch_norm_merge")
    finish = module.kernel("batch_norm_statistics_finish")
    finish(finish_grid(channels), THREADS, mean, inv_std, *running, moments, momentum, eps, len(moments), channels)
    arguments = z, gamma, beta, mean, inv_std
    _compute("batch_norm_normalize", y, (z, channels), addend, arguments, activation)
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
    """conv: with a mask, the convolution before the pool that precedes the norm; without one, the convolution that
    follows the norm and has the filters w."""
    channels, conv_before_pool, parts = x.shape[-1], None, None
    unpool: tuple[object, ...] = ()
    flat_x, x_pitch = rows_to_sum(x) if conv is None else (x, channels)
    flat_x, gamma, beta, mean, inv_std, w = contiguous(flat_x, gamma, beta, mean, inv_std, w)
    if conv is None:
        dy, dy_pitch = rows_to_sum(dy)
    elif w is None:  # a pool precedes the norm
        conv_before_pool = conv[0]
        dy, dy_pitch = rows_to_sum(dy, channels // conv_before_pool.groups)
    else:  # a convolution follows the norm
        norm = (flat_x, mean, gamma, beta, inv_std) if activation else (flat_x, mean, None, None, None)
        dy, parts = conv2d_dgrad_sums(dy, w, norm, *conv)
        dy_pitch = channels
        out = dy if out is None else out  # dx may overwrite this new array
    if saved is not None:  # an addend and then an activation follow the norm
        dy, parts = _activation_backward_sums(dy, dy_pitch, flat_x, x_pitch, saved, mean, activation)
        dy_pitch, activation = channels, None
    dx = out
    if dx is None:
        dx = empty(x.shape if conv_before_pool is None else conv_before_pool.y_shape, x.dtype, like=x)
    dgamma = _channel_vector(x) if dgamma is None else dgamma
    dbeta = _channel_vector(x) if dbeta is None else dbeta
    if channels:
        dx_output, *gradients = outputs = contiguous(dx, dgamma, dbeta)
        arrays: NormArrays = dy, flat_x, gamma, beta, mean, inv_std
        pitches = dy_pitch, x_pitch
        if conv_before_pool is None:
            width = width_of(channels, flat_x, dy, dx_output, pitches=pitches)
        else:
            width, unpool = _unpool(conv_before_pool, x, dy, dy_pitch, mask, dx_output)
        module = _kernels(x.dtype, width, activation, conv_before_pool is not None)
        rows, sums = x.size // channels, empty((channels, 2), inv_std.dtype, like=x)
        if parts is None:
            columns = distribute(rows, channels, width, None)
            parts = _backward_sums(module, (*gradients, sums), arrays, accumulate, columns, pitches)
        else:
            parts = _merge_parts(parts, module, "batch_norm_backward_merge")
        if parts is not None:
            finish, count = module.kernel("batch_norm_backward_finish"), len(parts)
            finish(finish_grid(channels), THREADS, *gradients, sums, parts, inv_std, accumulate, count, channels)
        spread = distribute(rows, channels, width, MAP_STEPS)
        if not (training or activation):  # dx does not depend on x
            arrays = dy, None, *arrays[2:]
        last = module.kernel(
            "batch_norm_backward_dx" if conv_before_pool is None else "batch_norm_backward_dx_unpooled"
        )
        last(spread.grid, spread.threads, dx_output, *arrays, sums, rows, training, spread.struct, *pitches, *unpool)
        put_back((dx, dgamma, dbeta), outputs)
    return (dx, dgamma, dbeta) if saved is None else (dx, dgamma, dbeta, dy)


def _activation_backward_sums(
    dy: ArrayT, dy_pitch: int, x: Array, x_pitch: int, saved: ArrayT, mean: Array, activation: str | None
) -> tuple[ArrayT, Array]:
    """dz, the gradient of the activation's input, and the partial sums of the norm's backward pass. x, dy: rows with a
    pitch."""
    channels = saved.shape[-1]
    dz = empty(saved.shape, saved.dtype, like=saved)
    if not channels:
        return dz, empty((0, 0, 2), mean.dtype, like=saved)
    kept, pitch = rows_to_sum(saved)
    width = width_of(channels, x, dy, kept, pitches=(dy_pitch, x_pitch, pitch))
    columns = distribute(saved.size // channels, channels, width, None)
    parts = empty((columns.chunks, channels, 2), mean.dtype, like=saved)
    reduce = _kernels(saved.dtype, width, activation).kernel("batch_norm_backward_sums_saved")
    arrays = parts, dz, dy, x, kept, mean
    reduce(columns.grid, columns.threads, *arrays, columns.struct, dy_pitch, x_pitch, pitch)
    return dz, parts


def _unpool(
    conv_before_pool: Conv2dProblem, x: Array, dy: Array, dy_pitch: int, mask: Array | None, dx: Array
) -> tuple[int, tuple[object, ...]]:
    """The pack width, and the last arguments of the kernel that writes dx through the mask of a pool.

    conv_before_pool: the convolution before the pool; dx is the gradient of its output."""
    expect_within_limits(conv_before_pool)
    filters = x.shape[-1] // conv_before_pool.groups
    width = pack_width(x.dtype, x, dy, dx, count=math.gcd(filters, dy_pitch))
    return width, (*contiguous(mask), *conv_before_pool.y_shape[1:3], *x.shape[1:3], filters)


def _backward_sums(
    module: Module,
    outputs: tuple[Array, ...],
    arrays: NormArrays,
    accumulate: bool,
    columns: Columns,
    pitches: tuple[int, int],
) -> Array | None:
    """Launch the sums over dy, and over dy times the normalized x. Returns partial sums, or None if the launch
    computes the complete sums.

    outputs: dgamma, dbeta and the sums. pitches: those of dy and x.
    """
    inv_std = arrays[5]
    parts = partials(columns, 2, inv_std.dtype, inv_std)
    reduce = module.kernel("batch_norm_backward_sums")
    reduce(columns.grid, columns.threads, *outputs, parts, *arrays, accumulate, columns.struct, *pitches)
    return parts


def _merge_parts(parts: Array, module: Module, merge: str) -> Array:
    """Partial results, (count, channels, numbers), merged by the kernel `merge` if one launch cannot add up so many."""
    if len(parts) <= _MOST_CHUNKS:
        return parts
    count, channels, numbers = parts.shape
    share = ceil_div(count, _MERGED_CHUNKS)
    fewer = empty((ceil_div(count, share), channels, numbers), parts.dtype, like=parts)
    grid = finish_grid(channels), len(fewer)
    module.kernel(merge)(grid, THREADS, fewer, parts, count, share, channels)
    return fewer


def _compute(
    kernel: str,
    y: Array,
    x_rows: tuple[Array, int],
    addend: Array | None,
    arguments: tuple[object, ...],
    activation: str | None,
) -> None:
    """Launch a kernel that computes y; with an addend, the variant of this kernel that adds it. y and the addend may be
    rows with a pitch.

    x_rows: `rows_of(x)` or `rows_to_sum(x)`. arguments: the kernel's, between y and the columns.
    """
    channels, (flat, y_pitch), (x, x_pitch) = y.shape[-1], rows_of(y), x_rows
    flat_addend, addend_pitch = (None, channels) if addend is None else rows_of(addend)
    width = width_of(channels, x, flat, flat_addend, pitches=(y_pitch, x_pitch, addend_pitch))
    spread = distribute(y.size // channels, channels, width, MAP_STEPS)
    module = _kernels(x.dtype, width, activation)
    launch = module.kernel(kernel if addend is None else f"{kernel}_addend")
    added = () if addend is None else (flat_addend, addend_pitch)
    launch(spread.grid, spread.threads, flat, *arguments, spread.struct, y_pitch, x_pitch, *added)


def _statistics(
    rows: int,
    outputs: tuple[Array, ...],
    x_rows: tuple[Array, int],
    momentum: float,
    eps: float,
    activation: str | None,
) -> None:
    """Fill mean and inv_std, and update the running statistics. outputs: mean, inv_std, running mean and running
    variance. x_rows: `rows_to_sum(x)`. activation: the activation after the norm, so that the statistics
    and the norm use one module."""
    channels, (x, pitch) = len(outputs[0]), x_rows
    width = width_of(channels, x, pitches=(pitch,))
    module = _kernels(x.dtype, width, activation)
    columns = distribute(rows, channels, width, None)
    parts = partials(columns, 3, x.dtype, x)
    module.kernel("batch_norm_statistics")(
        columns.grid, columns.threads, *outputs, parts, x, momentum, eps, columns.struct, pitch
    )
    if parts is not None:
        finish = module.kernel("batch_norm_statistics_finish")
        finish(finish_grid(channels), THREADS, *outputs, parts, momentum, eps, columns.chunks, channels)


@until_replaced
def _kernels(dtype: np.dtype, width: int, activation: str | None, masked: bool = False) -> Module:
    """The kernels of batch_norm.cu. masked: whether dx is computed through the mask of a 2 x 2 pool; this mask has
    4 bits for each number."""
    macros = {"DTYPE": dtype, "WIDTH": width, "ACTIVATION": ACTIVATIONS[activation], "MASK": 4 if masked else 0}
    return load("batch_norm.cu", macros)


def _channel_vector(x: ArrayT) -> ArrayT:
    return empty(x.shape[-1:], accumulation_dtype(x.dtype), like=x)


def group_norm(
    x: ArrayT, gamma: Array, beta: Array, *, groups: int, eps: float, out: ArrayT | None
) -> tuple[ArrayT, ArrayT, ArrayT]:
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
    dx_output, *gradients = outputs = contiguous(dx, dgamma, dbeta)
    numbers_per_image = math.prod(x.shape[1:])
    width = width_of(channels, x, dy, pitches=(pitch,))
    width = 1 if numbers_per_image % width else width
    module = load("group_norm.cu", {"DTYPE": x.dtype, "WIDTH": width})
    columns = distribute(x.size // channels, channels, width, None)
    parts = partials(columns, 2, x.dtype, x)
    module.kernel("group_norm_backward_sums")(
        columns.grid,
        columns.threads,
        *gradients,
        parts,
        dy,
        x,
        mean,
        inv_std,
        max(1, numbers_per_image // width),
        groups,
        accumulate,
        columns.struct,
        pitch,
    )
    if parts is not None:
        finish = module.kernel("group_norm_backward_finish")
        finish(finish_grid(channels), THREADS, *gradients, parts, accumulate, columns.chunks, channels)
    if x.size:
        threads, sizes = _threads_of_groups(x, groups)
        module.kernel("group_norm_backward_dx")(
            len(x) * groups, threads, dx_output, dy, x, gamma, mean, inv_std, *sizes, pitch
        )
    put_back((dx, dgamma, dbeta), outputs)
    return dx, dgamma, dbeta


def _threads_of_groups(x: Array, groups: int) -> tuple[int, tuple[int, int, int, int]]:
    """The threads of a block: a power of two from a warp to THREADS, if possible one for every four numbers of the
    block's group. Also returns the kernels' arguments pixels, channels, groups and columns."""
    pixels, channels = math.prod(x.shape[1:-1]), x.shape[-1]
    group_channels = channels // groups
    threads = min(THREADS, max(WARP, 1 << (ceil_div(pixels * group_channels, 4) - 1).bit_length()))
    columns = min(threads, 1 << (group_channels - 1).bit_length())
    return threads, (pixels, channels, groups, columns)
