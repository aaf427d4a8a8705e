"""Launchers of kernels/optimizer.cu (one launch for all parameters of the same dtypes), clip.cu and loss_scale.cu."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.adapter import CudaDevice
from gpuconv.backends.cuda.ops.block_counters import block_counters
from gpuconv.backends.cuda.runtime.grids import THREADS
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.new_arrays import empty, zeros
from gpuconv.backends.cuda.runtime.outputs import contiguous, put_back
from gpuconv.backends.cuda.runtime.scalars import KINDS, device_scalar
from gpuconv.devices import address, device_of
from gpuconv.list_cache import ListCache
from gpuconv.types import Array, Scalar

_PER_BLOCK = 8192  # numbers per thread block; a multiple of 8, so that chunks keep their parameter's alignment

_CHUNK = np.dtype(  # the kernels' `struct Chunk`
    [
        ("param", np.uint64),
        ("grad", np.uint64),
        ("wide_grad", np.uint64),
        ("state0", np.uint64),
        ("state1", np.uint64),
        ("copy", np.uint64),
        ("average", np.uint64),
        ("count", np.int64),
        ("decay", np.float64),
    ],
    align=True,
)
_EXTENT = np.dtype([("numbers", np.uint64), ("count", np.int64), ("kind", np.int64)], align=True)


Rate = tuple[Array | None, Array | None, float]


def sgd_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    velocities: Sequence[Array] | None,
    masters: Sequence[Array] | None,
    scaling: Array | None,
    averages: Sequence[Array] | None,
    *,
    lr: Scalar,
    momentum: float,
    nesterov: bool,
    weight_decay: Sequence[float],
    ema: float,
) -> None:
    state = {"state0": velocities, "average": averages}
    scalars = (1 - ema, *rate_of(lr), momentum, nesterov)
    _step("sgd_step", params, grads, state, masters, weight_decay, scaling, *scalars)


def adagrad_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    square_sums: Sequence[Array],
    masters: Sequence[Array] | None,
    scaling: Array | None,
    averages: Sequence[Array] | None,
    *,
    lr: Scalar,
    eps: float,
    weight_decay: Sequence[float],
    ema: float,
) -> None:
    state = {"state0": square_sums, "average": averages}
    scalars = (1 - ema, *rate_of(lr), eps)
    _step("adagrad_step", params, grads, state, masters, weight_decay, scaling, *scalars)


def rmsprop_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    square_averages: Sequence[Array],
    masters: Sequence[Array] | None,
    scaling: Array | None,
    averages: Sequence[Array] | None,
    *,
    lr: Scalar,
    alpha: float,
    eps: float,
    weight_decay: Sequence[float],
    ema: float,
) -> None:
    state = {"state0": square_averages, "average": averages}
    scalars = (1 - ema, *rate_of(lr), alpha, eps)
    _step("rmsprop_step", params, grads, state, masters, weight_decay, scaling, *scalars)


def adam_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    exp_avgs: Sequence[Array],
    exp_avg_sqs: Sequence[Array],
    masters: Sequence[Array] | None,
    scaling: Array | None,
    averages: Sequence[Array] | None,
    *,
    lr: Scalar,
    step: Scalar,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: Sequence[float],
    decoupled: bool,
    ema: float,
) -> None:
    state = {"state0": exp_avgs, "state1": exp_avg_sqs, "average": averages}
    scalars = (1 - ema, *rate_of(lr), *device_scalar(step, np.int64), beta1, beta2, eps, decoupled)
    _step("adam_step", params, grads, state, masters, weight_decay, scaling, *scalars)


def lion_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    exp_avgs: Sequence[Array],
    masters: Sequence[Array] | None,
    scaling: Array | None,
    averages: Sequence[Array] | None,
    *,
    lr: Scalar,
    beta1: float,
    beta2: float,
    weight_decay: Sequence[float],
    ema: float,
) -> None:
    state = {"state0": exp_avgs, "average": averages}
    scalars = (1 - ema, *rate_of(lr), beta1, beta2)
    _step("lion_step", params, grads, state, masters, weight_decay, scaling, *scalars)


def clip_norm(clipped: Array, grads: Sequence[Array], scaling: Array | None, *, max_norm: float) -> None:
    extents, blocks, _kept = _extents_to_read(grads, clipped)
    partials = empty((blocks,), np.float64, like=clipped)
    run = load("clip.cu").kernel("clip_norm_factor")
    run(blocks, THREADS, clipped, scaling, partials, block_counters(clipped), extents, max_norm)


def clip_values(grads: Sequence[Array], scaling: Array | None, *, clip_value: float) -> None:
    written = [grad for grad in grads if grad.size]
    if not written:
        return
    outputs = contiguous(*written)
    extents = _table(_extents, {"numbers": outputs})
    load("clip.cu").kernel("clip_values_limit")(_blocks(extents), THREADS, scaling, extents, clip_value)
    put_back(written, outputs)


def update_loss_scale(scaling: Array, grads: Sequence[Array], *, growth: float, backoff: float, interval: int) -> None:
    extents, blocks, _kept = _extents_to_read(grads, scaling)
    run = load("loss_scale.cu").kernel("loss_scale_update")
    run(blocks, THREADS, scaling, block_counters(scaling), extents, growth, backoff, float(interval))


def _extents_to_read(grads: Sequence[Array], like: Array) -> tuple[Array, int, Sequence[Array]]:
    """The table of all gradients that are not empty, the number of blocks, and the arrays that the table points to.
    Some of these arrays may be new, and must live until the launch. If all gradients are empty, the table points to a
    single zero."""
    extents, read = _extents_of.get(grads), grads
    if extents is None:
        nonempty = [grad for grad in grads if grad.size]
        read = contiguous(*nonempty or [zeros((1,), np.float32, like=like)])
        extents = _table(_extents, {"numbers": read})
        if nonempty and all(a is b for a, b in zip(nonempty, read)):
            _extents_of.keep(grads, extents)
    return extents, _blocks(extents), read


def _blocks(extents: Array) -> int:
    return extents.size * 8 // _EXTENT.itemsize


_extents_of: ListCache[Array] = ListCache()  # the table of gradients that needed no copy


def rate_of(lr: Scalar) -> Rate:
    """The learning rate as the kernels take it: a float32 array or None, a float64 array or None, and a number, which
    counts only if both arrays are None."""
    if not isinstance(lr, (int, float, np.generic)) and lr.dtype == np.float32:
        return lr, None, 0.0
    return None, *device_scalar(lr, np.float64)


def _step(
    kernel: str,
    params: Sequence[Array],
    grads: Sequence[Array],
    state: Mapping[str, Sequence[Array] | None],
    masters: Sequence[Array] | None,
    decays: Sequence[float],
    scaling: Array | None,
    *scalars: object,
) -> None:
    """Launch a kernel over the parameters, once for each pair of dtypes of a master and its copy. state: the arrays of
    further members of `struct Chunk`; None for a member that this step does not use."""
    without_masters = masters is None
    masters = params if masters is None else masters
    states = {name: listed for name, listed in state.items() if listed is not None}
    arrays = [array for listed in (params, grads, masters, *states.values()) for array in listed]
    tables = _tables_of.get(arrays, without_masters, decays, *states)
    if tables is not None:
        for dtype, copy_dtype, chunks in tables:
            _launch(kernel, dtype, copy_dtype, chunks, scaling, *scalars)
        return
    tables, some_strided = [], False
    pairs = _dtype_pairs(masters, params)
    copies = [None if master is param else param for master, param in zip(masters, params)]
    changed: Columns = {"param": masters, **states, "copy": copies}
    for pair in dict.fromkeys(pairs):
        chosen = [i for i, param in enumerate(params) if pairs[i] == pair and param.size]
        if not chosen:
            continue
        dtype, copy_dtype = pair
        gradients, written = [grads[i] for i in chosen], [column[i] for column in changed.values() for i in chosen]
        read, outputs, count = contiguous(*gradients), contiguous(*written), len(chosen)
        columns = {name: outputs[at * count : (at + 1) * count] for at, name in enumerate(changed)} | {
            "grad": [grad if grad.dtype == copy_dtype else None for grad in read],
            "wide_grad": [None if grad.dtype == copy_dtype else grad for grad in read],
        }
        chunks = _table(_chunks, columns, [decays[i] for i in chosen])
        _launch(kernel, dtype, copy_dtype, chunks, scaling, *scalars)
        put_back(written, outputs)
        tables.append((dtype, copy_dtype, chunks))
        some_strided |= any(a is not b for a, b in zip((*gradients, *written), (*read, *outputs)))
    if not some_strided:
        _tables_of.keep(arrays, tables, without_masters, decays, *states)


def _dtype_pairs(masters: Sequence[Array], params: Sequence[Array]) -> list[tuple[np.dtype, np.dtype]]:
    """The dtypes of each master and of its copy, the parameter that is rounded from it. A parameter without a master
    counts as its own master, without a copy. If other masters of the same dtype have a 16-bit copy, the parameter gets
    their pair of dtypes, so that one launch serves them all."""
    copy_dtypes = {
        master.dtype: param.dtype for master, param in zip(masters, params) if master is not param and param.size
    }
    return [
        (master.dtype, copy_dtypes.get(master.dtype, param.dtype) if master is param else param.dtype)
        for master, param in zip(masters, params)
    ]


# The dtypes and the table of each launch, for lists of arrays that needed no copy.
_tables_of: ListCache[list[tuple[np.dtype, np.dtype, Array]]] = ListCache()


def _launch(
    kernel: str, dtype: np.dtype, copy_dtype: np.dtype, chunks: Array, scaling: Array | None, *scalars: object
) -> None:
    run = load("optimizer.cu", {"DTYPE": dtype, "GRAD": copy_dtype}).kernel(kernel)
    run(chunks.size * 8 // _CHUNK.itemsize, THREADS, chunks, scaling, *scalars)


TableKey = tuple[object, ...]

_tables: dict[TableKey, Array] = {}  # tables in device memory, by what they contain

Columns = Mapping[str, Sequence[Any]]  # arrays, or None for null pointers; the first column has only arrays


def _table(
    make: Callable[[Columns, Sequence[float]], np.ndarray], columns: Columns, decays: Sequence[float] = ()
) -> Array:
    """The table that `make` returns for these columns, on the device. As long as the arrays keep their addresses, later
    steps find it there and copy nothing from the host."""
    first = next(iter(columns.values()))[0]
    key = (
        device_of(first),
        *decays,
        *columns,
        *(
            None if array is None else (array.dtype, array.size, address(array))
            for arrays in columns.values()
            for array in arrays
        ),
    )
    return kept_table(key, lambda: make(columns, decays).view(np.uint64), first)


def kept_table(key: TableKey, make: Callable[[], np.ndarray], first: Array) -> Array:
    """``_tables[key]``. If it is missing, `make` makes the table, which is copied to the device and kept as long as
    `first`, an array to which it points.

    During a capture the copy runs on another stream: the capture would only record it, and a later call would read an
    empty table if the graph is never launched. Such a table is kept forever, because the graph needs it and does not
    keep it."""
    if key not in _tables:
        cupy = None if isinstance(first, np.ndarray) else sys.modules["cupy"]
        if cupy and cupy.cuda.get_current_stream().is_capturing():
            _tables[key] = CudaDevice(first.device.id).constant(make())
        else:
            _tables[key] = (cupy or emulator).asarray(make())
            weakref.finalize(first, _tables.pop, key, None).atexit = False
    return _tables[key]


def _chunks(columns: Columns, decays: Sequence[float]) -> np.ndarray:
    """A `struct Chunk` for each block; the columns are named after its members."""
    parts = []
    for index, decay in enumerate(decays):
        part = _split(_CHUNK, {name: arrays[index] for name, arrays in columns.items()})
        part["decay"] = decay
        parts.append(part)
    return np.concatenate(parts)


def _extents(columns: Columns, _: Sequence[float]) -> np.ndarray:
    """A `struct Extent` for each block."""
    parts = []
    for array in columns["numbers"]:
        part = _split(_EXTENT, {"numbers": array})
        part["kind"] = KINDS.index(array.dtype.name)
        parts.append(part)
    return np.concatenate(parts)


def _split(entry: np.dtype, arrays: Mapping[str, Any]) -> np.ndarray:
    """Entries that split arrays of one size, `_PER_BLOCK` elements per entry. Any array but the first may be None,
    which gives null pointers."""
    size = next(iter(arrays.values())).size
    begin = np.arange(0, size, _PER_BLOCK)
    part = np.zeros(begin.size, entry)
    for name, array in arrays.items():
        if array is None:
            continue
        part[name] = np.uint64(address(array)) + begin.astype(np.uint64) * np.uint64(array.dtype.itemsize)
    part["count"] = np.minimum(_PER_BLOCK, size - begin)
    return part
