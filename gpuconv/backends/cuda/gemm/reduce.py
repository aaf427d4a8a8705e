"""The split-K reduction: the launcher of kernels/gemm_reduce.cu."""

from __future__ import annotations

import math

from gpuconv.backends.cuda.gemm.product import ACTIVATIONS
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.outputs import is_aligned
from gpuconv.backends.cuda.runtime.rows import rows_of
from gpuconv.integers import ceil_div
from gpuconv.types import Array

_OUTPUTS, _LANES, _GROUPS = 1024, 256, 4  # of a block: its outputs, the threads of a group, and the most groups
_SHARE = 8  # splits that one group of threads adds up before another group is used


def reduce_splits(
    out: Array,
    partials: Array,
    second: Array | None = None,
    *,
    bias: Array | None = None,
    activation: str | None = None,
    accumulate: bool = False,
) -> None:
    """out = act(bias + the sum of partials over its first axis), plus the previous out if `accumulate`. `out` may be
    rows with a pitch (`rows.rows_of`).

    second: a second output, whose partial sums follow the first's.
    """
    split_k, pitch = partials.shape
    columns = out.shape[-1] if bias is None else bias.size
    flat, out_pitch = rows_of(out)
    gap = out_pitch - out.shape[-1]
    second_size = 0 if second is None else second.size
    wide = 16 // partials.dtype.itemsize  # partial sums in 16 bytes
    whole_packs = not (pitch % wide or out.size % wide or second_size % wide or (gap and math.gcd(columns, gap) % wide))
    wide_moves = whole_packs and is_aligned(wide * out.dtype.itemsize, out, second)
    defines = {"DTYPE": out.dtype, "ACTIVATION": ACTIVATIONS[activation], "WIDTH": wide if wide_moves else 1}
    blocks = ceil_div(out.size + second_size, _OUTPUTS)
    threads = _LANES * min(_GROUPS, ceil_div(split_k, _SHARE))
    run = load("gemm_reduce.cu", defines).kernel("gemm_reduce_splits")
    sizes = out.size, second_size, pitch, split_k, columns, gap
    run(blocks, threads, flat, second, partials, bias, *sizes, accumulate)
