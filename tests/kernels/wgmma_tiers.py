"""Runs every convolution of the case tiers by every tile of wgmma, on the emulated device under its checker:
python -m tests.kernels.wgmma_tiers [--tier odd] [--op conv2d_dgrad] [--algo wgmma-256x128] [--dtype bfloat16]

The op, the name of the case, the tile and the dtype determine the order of threads, the number of splits of the depth,
and how many blocks compute the tiles. Prints a line for each op, tile and dtype, and one for each failure. The exit
status is 1 if a case fails.
"""

from __future__ import annotations

import argparse
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from gpuconv import verify
from gpuconv.algorithms import ALGORITHMS, find
from gpuconv.backends.cuda import emulator
from tests.kernels.convolutions import force_algorithm

# The kernel of each op. Together they have epilogues of bias and activation, mask and pool, moments, and in dgrad the
# sums for the gradients of a norm that comes before the convolution.
OPS = {
    "conv2d": "conv2d_fprop",
    "conv2d_relu": "conv2d_fprop",
    "conv2d_batch_norm": "conv2d_fprop",
    "conv2d_dgrad": "conv2d_dgrad",
    "batch_norm_backward": "conv2d_dgrad",
    "conv2d_wgrad": "conv2d_wgrad",
}
TILES = [algorithm for algorithm in ALGORITHMS if algorithm.family in ("wgmma", "wgmma_cluster")]
TILES_OF = {op: [tile.name for tile in TILES if kernel in tile.kernels] for op, kernel in OPS.items()}
DTYPES = ("float16", "bfloat16")


def cases(op: str, dtype: str, *tiers: str) -> list[verify.Case]:
    """The cases of an op that name no algorithm; of batch_norm_backward only those with a convolution."""
    of_op = [case for case in verify.cases(tiers or verify.TIERS) if case.op == op and dtype in case.dtypes]
    with_options = [(case, case.arguments("float32")[1]) for case in of_op]
    return [
        case
        for case, options in with_options
        if "algo" not in options and (op != "batch_norm_backward" or "w" in options)
    ]


def cases_for(algo: str, op: str, dtype: str, *tiers: str) -> list[verify.Case]:
    """The cases of an op for a tile. For a tile that moves only 16 bytes at once, cases with a mask or an empty array
    are left out, and the others have eight times the channels and filters."""
    found = cases(op, dtype, *tiers)
    if find(algo, dtype).cluster == 1:
        return found
    drawn = [(case, *case.arguments("float32")) for case in found]
    empty = {case for case, arrays, _ in drawn if any(array is not None and not array.size for array in arrays)}
    return [_with_packs(case) for case, _, options in drawn if "mask" not in options and case not in empty]


def _with_packs(case: verify.Case) -> verify.Case:
    """The case with eight times the channels and filters."""

    def wide(value, name=""):
        if name == "w":
            return np.tile(value, (8, 1, 1, 8))
        if name == "input_shape":
            return (*value[:-1], 8 * value[-1])
        return np.tile(value, 8) if isinstance(value, np.ndarray) else value

    def make(rng, dtype):
        arrays, options = case.make(rng, dtype)
        first, second, *others = arrays
        second_name = "" if case.op in ("batch_norm_backward", "conv2d_wgrad") else "w"
        widened = [wide(first), wide(second, second_name), *map(wide, others)]
        return widened, {name: wide(value, name) for name, value in options.items()}

    return replace(case, make=make)


def failure(case: verify.Case, dtype: str, algo: str) -> str:
    """The message of the checker, or of the comparison with the oracle, if the tile fails on the case; "" if not."""
    drawn = zlib.crc32(f"{case.op} {case.name} {algo} {dtype}".encode())
    split_k, blocks, seed = (1, 2, 3, 5)[drawn % 4], (None, 1, 2, 3)[drawn // 4 % 4], drawn // 16 % 7

    def make(rng, dtype):
        """The case without the activation of conv2d_batch_norm, which would be another kernel to compile."""
        arrays, options = case.make(rng, dtype)
        return arrays, options | (dict(activation=None) if case.op == "conv2d_batch_norm" else {})

    with pytest.MonkeyPatch.context() as patch, emulator.configure(sanitize="checked", seed=seed):
        force_algorithm(patch, find(algo, dtype), split_k, blocks)
        return verify.run_case(replace(case, make=make), dtype, "emulated").failure


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m tests.kernels.wgmma_tiers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, choices in dict(tier=verify.TIERS, op=OPS, algo=[tile.name for tile in TILES], dtype=DTYPES).items():
        parser.add_argument(f"--{name}", action="append", choices=[*choices], help="may be repeated; default: all")
    options = parser.parse_args(argv)
    failed = count = 0
    for op in options.op or OPS:
        for algo in [name for name in options.algo or TILES_OF[op] if name in TILES_OF[op]]:
            for dtype in options.dtype or DTYPES:
                start, wrong, chosen = time.perf_counter(), 0, cases_for(algo, op, dtype, *(options.tier or ()))
                for case in chosen:
                    if message := failure(case, dtype, algo):
                        print(f"FAIL {op} {algo} {dtype} {case.tier} {case.name}: {message}", flush=True)
                        wrong += 1
                seconds = time.perf_counter() - start
                print(f"{op} {algo} {dtype}: {wrong} of {len(chosen)} cases fail, {seconds:.0f} s", flush=True)
                failed, count = failed + wrong, count + len(chosen)
    if not count:
        parser.error("these options choose no case: a tile serves only some ops, and some ops have no case of a tier")
    print(f"{failed} cases fail" if failed else "all cases pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
