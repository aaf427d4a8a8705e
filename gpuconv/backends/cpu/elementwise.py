"""Elementwise formulas over arrays of any float dtype, one cache-sized block at a time.

A formula works on blocks in the accumulation dtype: half precision is widened before and rounded once afterwards. Its
temporaries have the size of a block, so they stay in cache, and an op allocates only its result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from gpuconv.backends.cpu.parallel import in_parts
from gpuconv.dtypes import accumulation_dtype

_Access = Sequence[Literal["readonly", "writeonly", "readwrite", "overlap_assume_elementwise"]]
_READ: _Access = ("readonly", "overlap_assume_elementwise")
_WRITE: _Access = ("writeonly", "overlap_assume_elementwise")
_UPDATE: _Access = ("readwrite", "overlap_assume_elementwise")

_BLOCK = 1 << 14  # elements: a few float32 blocks fit into a core's cache


def elementwise(formula: Callable[..., np.ndarray], *inputs: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """formula(*inputs), rounded once to the first input's dtype. `out` may be one of the inputs."""
    result = result_array(inputs[0], out)

    def visit(*blocks: np.ndarray) -> None:
        blocks[-1][...] = formula(*blocks[:-1])

    access = [_READ] * len(inputs) + [_WRITE]
    in_parts(lambda *arrays: _visit_blocks(visit, arrays, access), *inputs, result)
    return result


def result_array(x: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """`out`, or a new array like x if it is None."""
    return np.empty(x.shape, x.dtype) if out is None else out


def update(formula: Callable[..., None], *updated: np.ndarray, given: np.ndarray) -> None:
    """Call formula(*updated, given) on blocks of the arrays; it changes those of `updated` in place."""
    _visit_blocks(formula, [*updated, given], [_UPDATE] * len(updated) + [_READ])


def _visit_blocks(visit: Callable[..., None], arrays: Sequence[np.ndarray], access: Sequence[_Access]) -> None:
    """Call visit(block of each array) for all blocks, in memory order."""
    with np.nditer(
        arrays,
        ["external_loop", "buffered", "zerosize_ok", "copy_if_overlap"],
        access,
        op_dtypes=[accumulation_dtype(arrays[0].dtype)] * len(arrays),
        casting="unsafe",
        buffersize=_BLOCK,
    ) as blocks:
        for block in blocks:
            visit(*block)
