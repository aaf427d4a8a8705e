"""The kernel lab: replaces a shipped .cu file with a user's, checks it against the oracle and compares the times.

The file must define the shipped file's kernels with the same names and parameters; `template` gives the shipped text as
a starting point. The shipped launcher launches these kernels, so tiles and grids follow the launcher's macros.

algo: for a matrix product, one of `gpuconv.algorithms.ALGORITHMS` whose family the file implements. Every case
requests this algorithm, because otherwise another one might run. Cases whose shapes the algorithm does not serve are
left out. By default it is the first algorithm of the "simt" family that serves the case's precision.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from gpuconv import backends, ops
from gpuconv.algorithms import ALGORITHMS, Algorithm, UnservedError
from gpuconv.arguments import integer
from gpuconv.backends.cuda.analysis.variants import kernels, variants
from gpuconv.backends.cuda.runtime import replaced_files, source
from gpuconv.devices import Device
from gpuconv.dtypes import as_dtype, full_name, precision_of
from gpuconv.names import canonical, distinct, lookup
from gpuconv.ops import OPS
from gpuconv.profiling.timer import Timer, open_timer
from gpuconv.types import Options
from gpuconv.verify import DTYPES, TIERS, Case, Row, cases, verify
from gpuconv.verify.run import to_device

_SECONDS = 0.01  # how long one file's calls run before it is the other file's turn


def shipped_file(op: str, algo: str | None = None) -> str:
    """The .cu file with an op's kernels.

    Args:
        op: Its name in `gpuconv.ops`.
        algo: For a matrix product, one of `gpuconv.algorithms.ALGORITHMS`; None for the SIMT family.

    Raises:
        ValueError: An unknown op or algorithm; the message names the nearest one. Also an algorithm for an op that has
            none.
    """
    op = canonical("op", op, ops.__all__)
    found = OPS[op]
    if algo is None:
        return found.kernel
    if not found.takes_algorithm:
        raise ValueError(f"{op} has no algorithms, received {algo!r}")
    return _algorithms(algo)[0].file(found.kernel.removesuffix(".cu"))


def template(op: str, algo: str | None = None) -> str:
    """The text of the shipped file; it may include the shipped headers. Arguments as in `shipped_file`."""
    return source.resolve(shipped_file(op, algo)).read_text(encoding="utf-8")


def check_signatures(path: Path, op: str, algo: str | None = None) -> None:
    """Raise ValueError unless the file at `path` has the shipped file's kernels, with parameters of the same types in
    the same order. Other arguments as in `shipped_file`.
    """
    shipped = shipped_file(op, algo)
    variant = next(v for v in variants() if v.file == shipped)
    signatures = kernels(variant)
    found = source.signatures(source.flatten(source.resolve(path.resolve())), dict(variant.defines))
    for name, signature in signatures.items():
        if name not in found:
            listed = ", ".join(found) or "no kernel"
            raise ValueError(f"{path} must define {name} of {shipped}; it defines {listed}")
        theirs, ours = ([(p.c_type, p.name) for p in s.parameters] for s in (found[name], signature))
        if [c_type for c_type, _ in theirs] != [c_type for c_type, _ in ours]:
            text = ", ".join(f"{c_type} {name}" for c_type, name in ours)
            raise ValueError(f"{path}: {name} must take ({text}), it takes ({', '.join(' '.join(p) for p in theirs)})")


def check(
    path: str | os.PathLike[str], op: str, device: str, dtypes: str | Sequence[str], algo: str | None = None
) -> Iterator[Row]:
    """`verify` one op with the user's file in place of the shipped one.

    Args:
        path: The user's .cu file.
        device: "emulated" or a CUDA device.
        dtypes: One or more names.

    Other arguments as in `shipped_file`.

    Returns:
        An iterator over rows of outcomes, one for each dtype, which a notebook shows as a table.

    Raises:
        ValueError: The op is unknown or has no case in any of the dtypes, the device runs no kernels, or the file does
            not define the shipped file's kernels.
    """
    device = backends.resolve(device)
    _expect_kernels(device)
    path = Path(path)
    dtypes = served_dtypes(op, (dtypes,) if isinstance(dtypes, str) else tuple(dtypes), algo)
    check_signatures(path, op, algo)
    return _rows({shipped_file(op, algo): path.resolve()}, cases_of(op, algo), dtypes, device)


def _rows(files: dict[str, Path], chosen: list[Case], dtypes: tuple[str, ...], device: str) -> Iterator[Row]:
    with replaced_files.replace_files(files):
        yield from verify(chosen, dtypes, device)


def served_dtypes(op: str, dtypes: tuple[str, ...], algo: str | None = None) -> tuple[str, ...]:
    """The full names of those `dtypes` for which the op has cases. Raises ValueError if there is none, and for an
    unknown dtype. Other arguments as in `shipped_file`.
    """
    chosen, dtypes = cases_of(op, algo), tuple(distinct("dtype", map(full_name, dtypes), DTYPES))
    found = tuple(dtype for dtype in dtypes if any(dtype in case.dtypes for case in chosen))
    if not found:
        accepted = dict.fromkeys(dtype for case in chosen for dtype in case.dtypes)
        raise ValueError(f"{algo or op} has cases only in {', '.join(accepted)}, received {', '.join(dtypes)}")
    return found


def cases_of(op: str, algo: str | None = None, tiers: tuple[str, ...] = TIERS) -> list[Case]:
    """The op's cases of these `tiers`, with this algorithm and the dtypes that it serves. Other arguments as in
    `shipped_file`.
    """
    op = canonical("op", op, ops.__all__)
    listed = [case for case in cases(tiers) if case.op == op]
    return [_with_algorithm(case, _algorithms(algo)) if _takes_algorithm(case) else case for case in listed]


def _takes_algorithm(case: Case) -> bool:
    """Whether the case takes an algorithm. batch_norm_backward does so only if it gets the filters, w, of the
    convolution after the norm."""
    return OPS[case.op].takes_algorithm and (
        case.op != "batch_norm_backward" or "w" in case.arguments(case.dtypes[0])[1]
    )


def _algorithms(algo: str | None) -> list[Algorithm]:
    """The algorithms with this name, by default all of the "simt" family."""
    if algo is None:
        return [each for each in ALGORITHMS if each.family == "simt"]
    name = lookup("algorithm", algo, {each.name: each.name for each in ALGORITHMS})
    return [each for each in ALGORITHMS if each.name == name]


def _with_algorithm(case: Case, entries: list[Algorithm]) -> Case:
    """The case in the dtypes that any of these entries serves. The first entry that serves a dtype is the algorithm."""
    tf32 = bool(case.arguments(case.dtypes[0])[1].get("tf32"))

    def algorithm_for(dtype: DTypeLike) -> str | None:
        serving = (each.name for each in entries if precision_of(as_dtype(dtype), tf32) in each.precisions)
        return next(serving, None)

    def make(rng: np.random.Generator, dtype: np.dtype) -> tuple[list[object], Options]:
        arrays, options = case.make(rng, dtype)
        return arrays, options | {"algo": algorithm_for(dtype)}

    return replace(case, make=make, dtypes=tuple(filter(algorithm_for, case.dtypes)))


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one case: the median and the interquartile range of each file's samples.

    Args:
        case: The problem.
        yours, yours_spread: The user's file.
        shipped, shipped_spread: The shipped file.
    """

    case: Case
    yours: float
    yours_spread: float
    shipped: float
    shipped_spread: float


def compare(
    path: str | os.PathLike[str], op: str, device: str, dtype: str, algo: str | None = None, repeats: int = 6
) -> Iterator[Timing]:
    """Time the user's file and the shipped one in turns on a CUDA device, over the op's real cases. Only the GPU's work
    is timed: calls are queued faster than the GPU runs them. Cases that do not run in `dtype`, or whose shapes the
    algorithm does not serve, are left out.

    Args:
        dtype: The name of one dtype.
        repeats: The turns of each file, at least 2.

    Other arguments as in `check`. Raises ValueError for fewer repeats, for a dtype in which the op has no case, for a
    device that runs no kernels, and for the emulated device, whose speed means nothing.
    """
    repeats = integer("repeats", repeats, 2)
    device = backends.resolve(device)
    _expect_kernels(device)
    (dtype,) = served_dtypes(op, (dtype,), algo)
    sides: dict[str, dict[str, Path]] = {"yours": {shipped_file(op, algo): Path(path).resolve()}, "shipped": {}}
    chosen = [case for case in cases_of(op, algo, ("real",)) if dtype in case.dtypes]
    return _timings(sides, chosen, dtype, device, open_timer(device), repeats)


def _timings(
    sides: dict[str, dict[str, Path]], chosen: list[Case], dtype: str, device: str, timer: Timer, repeats: int
) -> Iterator[Timing]:
    for case in chosen:
        samples: dict[str, list[float]] = {side: [] for side in sides}
        run = _launcher(case, dtype, device)
        try:
            run(0)
        except UnservedError:
            continue
        for _ in range(repeats):
            for side, files in sides.items():
                with replaced_files.replace_files(files):
                    samples[side] += timer.burst(run, _SECONDS)["warm"]
        yield Timing(case, *_summary(samples["yours"]), *_summary(samples["shipped"]))


def _expect_kernels(device: str) -> None:
    if not Device.named(device).runs_kernels:
        raise ValueError(f"{device} runs no kernels, so it cannot run the file: give cuda or emulated")


def _launcher(case: Case, dtype: str, device: str) -> Callable[[int], object]:
    arrays, options = case.arguments(dtype)
    moved = [to_device(a, device) for a in arrays]
    options = {name: to_device(value, device) for name, value in options.items()}
    return lambda _: getattr(ops, case.op)(*moved, **options)


def _summary(samples: list[float]) -> tuple[float, float]:
    """Median and spread in milliseconds, from samples in seconds."""
    quarter, _, three_quarters = statistics.quantiles(samples, n=4)
    return 1e3 * statistics.median(samples), 1e3 * (three_quarters - quarter)
