"""Muon, with parameters of the same shape and dtype batched: launchers of kernels/muon.cu and matmul*.cu."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Mapping, Sequence

import numpy as np

from gpuconv.algorithms import AUTO
from gpuconv.backends.cuda.gemm.launch import compute
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.backends.cuda.ops.optim import rate_of
from gpuconv.backends.cuda.runtime.device_array import asarray, empty
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.outputs import THREADS, ceil_div, contiguous, flat_grid, pack_width, put_back
from gpuconv.backends.cuda.runtime.structs import struct
from gpuconv.devices import address, device_of
from gpuconv.dtypes import accumulation_dtype
from gpuconv.newton_schulz import EPS, NEWTON_SCHULZ
from gpuconv.types import Array, Scalar

_NUMBERS = 8192  # numbers of one parameter per thread block: kNumbers of muon.cu
_MEMBERS = ("param", "grad", "velocity", "copy", "average")  # the members of the kernels' `struct Matrix`: all pointers

_MATRICES = np.dtype(
    [("size", np.int64)] + [(name, np.int32) for name in ("rows", "columns", "blocks", "transposed")], align=True
)
_MATMUL = np.dtype([(name, np.int32) for name in ("batch", "rows", "columns", "depth")], align=True)


def muon_step(
    params: Sequence[Array],
    grads: Sequence[Array],
    velocities: Sequence[Array],
    masters: Sequence[Array] | None,
    scaling: Array | None,
    averages: Sequence[Array] | None,
    *,
    lr: Scalar,
    momentum: float,
    nesterov: bool,
    steps: int,
    tf32: bool,
    ema: float,
) -> None:
    masters = params if masters is None else masters
    kinds = [(master.dtype, param.dtype, master is param, tuple(param.shape)) for master, param in zip(masters, params)]
    for kind in dict.fromkeys(kinds):
        chosen = [i for i, param in enumerate(params) if kinds[i] == kind and param.size]
        if not chosen:
            continue
        changed = {"param": masters, "velocity": velocities}
        changed |= {} if kind[2] else {"copy": params}
        changed |= {} if averages is None else {"average": averages}
        written, count = [arrays[i] for arrays in changed.values() for i in chosen], len(chosen)
        there = contiguous(*written)
        members = {name: there[at * count : (at + 1) * count] for at, name in enumerate(changed)}
        members["grad"] = contiguous(*[grads[i] for i in chosen])
        _step(members, scaling, (1 - ema, *rate_of(lr)), momentum, nesterov, steps, tf32)
        put_back(written, there)


def _step(
    members: Mapping[str, Sequence[Array]],
    scaling: Array | None,
    rates: tuple[object, ...],
    momentum: float,
    nesterov: bool,
    steps: int,
    tf32: bool,
) -> None:
    """The step of parameters of one shape and dtype. members: the arrays for each member of `struct Matrix`. rates:
    that of the averages, and the learning rate as the kernel takes it."""
    params, grads = members["param"], members["grad"]
    first, batch = params[0], len(params)
    rows, size, wide = first.shape[0], first.size, accumulation_dtype(first.dtype)
    columns = size // rows
    lines, width, blocks = min(rows, columns), max(rows, columns), ceil_div(size, _NUMBERS)
    matrices = struct(_MATRICES, size, rows, columns, blocks, rows > columns)
    table, grid = _table(members), batch * blocks
    x, partials = empty((batch, lines, width), wide, like=first), empty((grid, 2), wide, like=first)
    module = load("muon.cu", {"DTYPE": first.dtype, "GRAD": grads[0].dtype})
    module.kernel("muon_direction")(grid, THREADS, x, partials, table, scaling, matrices, momentum, nesterov)
    module.kernel("muon_normalize")(grid, THREADS, x, partials, matrices, EPS)
    if steps:
        other = empty(x.shape, wide, like=first)
        gram, squared, m = (empty((batch, lines, lines), wide, like=first) for _ in range(3))
        for _ in range(steps):
            _matmul(gram, x, x, tf32)
            _matmul(squared, gram, gram, tf32)  # symmetric, so that it is its own transpose
            module.kernel("muon_polynomial")(
                flat_grid(m.size), THREADS, m, gram, squared, m.size, lines, *NEWTON_SCHULZ
            )
            _matmul(other, m, x, tf32, depth_first=True)
            x, other = other, x
    module.kernel("muon_apply")(grid, THREADS, x, partials, table, scaling, matrices, *rates)


def _matmul(y: Array, a: Array, b: Array, tf32: bool, *, depth_first: bool = False) -> None:
    """y[i] = a[i] b[i]^T, or a[i] b[i] with depth_first. y, a, b: contiguous, of one dtype and rank 3."""
    batch, rows, depth = a.shape
    columns = y.shape[2]
    width = pack_width(y.dtype, y, a, b, count=math.gcd(depth, columns))
    compute(_product(batch, rows, columns, depth, y.dtype, tf32, depth_first, width), AUTO, y, (), (a, b))


@functools.lru_cache(maxsize=1024)
def _product(
    batch: int, rows: int, columns: int, depth: int, dtype: np.dtype, tf32: bool, depth_first: bool, width: int
) -> Product:
    sizes = struct(_MATMUL, batch, rows, columns, depth)
    macros = {"DEPTH_FIRST": int(depth_first), "WIDTH": width}
    return Product("matmul", rows, columns, depth, batch, dtype, tf32, struct=sizes, macros=macros)


# Tables of a batch's arrays in device memory, by the arrays' addresses; a table lives as long as the first parameter.
_tables: dict[tuple[object, ...], Array] = {}


def _table(members: Mapping[str, Sequence[Array]]) -> Array:
    """The kernels' `struct Matrix` of each parameter, copied to the device on first use."""
    first = members["param"][0]
    places = np.zeros((len(members["param"]), len(_MEMBERS)), np.uint64)
    for member, arrays in members.items():
        places[:, _MEMBERS.index(member)] = [*map(address, arrays)]
    key = (device_of(first), first.dtype, places.tobytes())
    if key not in _tables:
        _tables[key] = asarray(places, like=first)
        weakref.finalize(first, _tables.pop, key, None).atexit = False
    return _tables[key]
