"""Muon: launchers of kernels/muon.cu and matmul*.cu. Parameters of the same shape and dtype are batched; on a GPU the
batches run on parallel streams."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from gpuconv.algorithms import AUTO
from gpuconv.backends.cuda.gemm.launch import compute
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.backends.cuda.ops.optim import kept_table, rate_of
from gpuconv.backends.cuda.runtime.grids import THREADS
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.new_arrays import empty
from gpuconv.backends.cuda.runtime.outputs import contiguous, pack_width, put_back
from gpuconv.backends.cuda.runtime.parallel_streams import run_parallel
from gpuconv.backends.cuda.runtime.structs import struct
from gpuconv.devices import address, device_of
from gpuconv.dtypes import accumulation_dtype, as_dtype
from gpuconv.integers import ceil_div
from gpuconv.newton_schulz import EPS, NEWTON_SCHULZ
from gpuconv.types import Array, Scalar

_PER_BLOCK = 8192  # numbers of one parameter per thread block: PER_BLOCK of muon.cu
_MEMBERS = ("param", "grad", "velocity", "copy", "average")  # the members of the kernels' `struct Matrix`: all pointers

_MATRICES = np.dtype(
    [("size", np.int64)] + [(name, np.int32) for name in ("rows", "columns", "blocks", "transposed")], align=True
)
_MATMUL = np.dtype(
    [(name, np.int32) for name in ("batch", "rows", "columns", "depth")]
    + [(name, np.float64) for name in ("scale", "added_scale")],
    align=True,
)


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
    precision: str,
    ema: float,
) -> None:
    masters = params if masters is None else masters
    rates = (1 - ema, *rate_of(lr))
    batches: dict[tuple[object, ...], list[int]] = {}
    for i, (master, param) in enumerate(zip(masters, params)):
        if param.size:
            batches.setdefault((master.dtype, param.dtype, master is param, tuple(param.shape)), []).append(i)

    def step(chosen: Sequence[int]) -> None:
        first, count = chosen[0], len(chosen)
        changed = {"param": masters, "velocity": velocities}
        changed |= {} if masters[first] is params[first] else {"copy": params}
        changed |= {} if averages is None else {"average": averages}
        written = [arrays[i] for arrays in changed.values() for i in chosen]
        outputs = contiguous(*written)
        members = {name: outputs[at * count : (at + 1) * count] for at, name in enumerate(changed)}
        members["grad"] = contiguous(*[grads[i] for i in chosen])
        _step(members, scaling, rates, momentum, nesterov, steps, precision)
        put_back(written, outputs)

    if batches:
        run_parallel([functools.partial(step, chosen) for chosen in batches.values()], like=params[0])


def _step(
    members: Mapping[str, Sequence[Array]],
    scaling: Array | None,
    rates: tuple[object, ...],
    momentum: float,
    nesterov: bool,
    steps: int,
    precision: str,
) -> None:
    """The step of parameters of one shape and dtype. members: the arrays for each member of `struct Matrix`. rates:
    1 - ema for the averages, and the learning rate as the kernel takes it."""
    params, grads = members["param"], members["grad"]
    first, batch = params[0], len(params)
    rows, size, wide = first.shape[0], first.size, accumulation_dtype(first.dtype)
    columns = size // rows
    lines, width, blocks = min(rows, columns), max(rows, columns), ceil_div(size, _PER_BLOCK)
    matrices = struct(_MATRICES, size, rows, columns, blocks, rows > columns)
    table, grid = _table(members), batch * blocks
    factor = as_dtype("bfloat16") if precision == "bfloat16" else wide
    direction, partials = empty((batch, lines, width), wide, like=first), empty((grid, 2), wide, like=first)
    x = direction if factor == wide else empty(direction.shape, factor, like=first)
    module = load("muon.cu", {"DTYPE": first.dtype, "GRAD": grads[0].dtype, "FACTOR": factor})
    module.kernel("muon_direction")(grid, THREADS, direction, partials, table, scaling, matrices, momentum, nesterov)
    module.kernel("muon_normalize")(grid, THREADS, x, direction, partials, matrices, EPS)
    if steps:
        a, b, c = NEWTON_SCHULZ
        tf32, other = precision == "tf32", empty(x.shape, factor, like=first)
        gram, m = (empty((batch, lines, lines), factor, like=first) for _ in range(2))
        for _ in range(steps):
            _matmul(gram, x, x, tf32)
            _matmul(m, gram, gram, tf32, c, (b, gram))  # gram is symmetric, and so its own transpose
            _matmul(other, m, x, tf32, 1.0, (a, x), depth_first=True)
            x, other = other, x
    module.kernel("muon_apply")(grid, THREADS, x, partials, table, scaling, matrices, *rates)


def _matmul(
    y: Array,
    a: Array,
    b: Array,
    tf32: bool,
    scale: float = 1.0,
    added: tuple[float, Array | None] = (0.0, None),
    *,
    depth_first: bool = False,
) -> None:
    """y[i] = a[i] b[i]^T; with an array in `added`, y[i] = scale * a[i] b[i]^T + added[0] * added[1][i]. depth_first:
    multiply by b[i], not its transpose. All arrays are contiguous, of one dtype and of rank 3."""
    batch, rows, depth = a.shape
    columns, (added_scale, addend) = y.shape[2], added
    width = pack_width(y.dtype, y, a, b, addend, count=math.gcd(depth, columns))
    scales = None if addend is None else (scale, added_scale)
    product = _product(batch, rows, columns, depth, y.dtype, tf32, depth_first, width, scales)
    compute(product, AUTO, y, (), (a, b, addend))


@functools.lru_cache(maxsize=1024)
def _product(
    batch: int,
    rows: int,
    columns: int,
    depth: int,
    dtype: np.dtype,
    tf32: bool,
    depth_first: bool,
    width: int,
    scales: tuple[float, float] | None,
) -> Product:
    """The product of `_matmul`. scales: the factors of the matrix product and of the added array, which rule out
    split-K; None if nothing is added."""
    sizes = struct(_MATMUL, batch, rows, columns, depth, *scales or (1.0, 0.0))
    macros = {"DEPTH_FIRST": int(depth_first), "WIDTH": width}
    return Product(
        "matmul", rows, columns, depth, batch, dtype, tf32, split_k=scales is None, struct=sizes, macros=macros
    )


def _table(members: Mapping[str, Sequence[Array]]) -> Array:
    """The kernels' `struct Matrix` of each parameter, copied to the device on first use."""
    first = members["param"][0]
    places = np.zeros((len(members["param"]), len(_MEMBERS)), np.uint64)
    for member, arrays in members.items():
        places[:, _MEMBERS.index(member)] = [*map(address, arrays)]
    return kept_table((device_of(first), first.dtype, places.tobytes()), lambda: places, first)
