"""Fits the performance model to GPU records.

A row of the model is one timed convolution: the work of its launches (`Terms`) and the seconds they took. The model
stores the work with each row, because later kernels and other NVRTC versions issue other instructions.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.record import Data, fastest_side
from bench.suite import Entry, suite
from gpuconv.algorithms import find
from gpuconv.backends.cuda.analysis import predict_time
from gpuconv.backends.cuda.analysis.predict_time import TERMS, Gpu, Model, Terms
from gpuconv.backends.cuda.runtime import nvrtc
from gpuconv.checkpoint import write_atomically
from gpuconv.integers import ceil_div
from gpuconv.problems import DIRECTIONS


def fit(rows: Sequence[Data], gpu: Gpu) -> tuple[Terms, np.ndarray, np.ndarray]:
    """The nonnegative rates that minimize the relative errors, each row's error under these rates, and each row's
    error under the rates fitted to all other rows."""
    from scipy.optimize import nnls

    amounts = np.array([[row["terms"][name] for name in TERMS] for row in rows])
    cycles = np.array([row["seconds"] for row in rows]) * gpu.clock
    shares = amounts / cycles[:, None]

    def rates(chosen: np.ndarray) -> np.ndarray:
        return nnls(shares[chosen], np.ones(np.count_nonzero(chosen)))[0]

    everything = np.ones(len(rows), bool)
    found = rates(everything)
    others = [rates(everything & (np.arange(len(rows)) != row)) for row in range(len(rows))]
    left_out = np.einsum("ij,ij->i", shares, np.array(others)) - 1
    return Terms(*map(float, found)), shares @ found - 1, left_out


def rows_of(record: Data, gpu: Gpu, known: Mapping[str, Data], counted_with: str | None = None) -> Iterator[Data]:
    """A row for each timed tensor-core convolution in a record. known: rows by name, used unchanged.

    counted_with: the version of NVRTC that the counts of the known rows come from. Raises ValueError if new rows have
    to be counted with another NVRTC.
    """
    problems = {entry.key: entry for entry in suite("ops")}
    for entry in record["entries"]:
        side, name = fastest_side(entry, "ours"), f"{record['hardware']} {record['commit']} {entry['key']}"
        if name in known:
            yield known[name]
        elif side and entry["key"] in problems and entry["op"] in DIRECTIONS:
            kernel, *reduction = side["kernels"]["kernels"]
            if "_mma" in kernel["kernel"]:
                if counted_with not in (None, nvrtc.version()):
                    raise ValueError(
                        f"the model's rows were counted with {counted_with}, received {nvrtc.version()}, which may "
                        "issue other instructions; --nvrtc DIR selects the NVRTC in a folder"
                    )
                amounts = _recorded_amounts(
                    problems[entry["key"]], kernel, sum(each["blocks"] for each in reduction), gpu
                )
                yield {
                    "row": name,
                    "algorithm": kernel["algorithm"],
                    "terms": amounts,
                    "seconds": side["medians"]["cold"],
                }


def _recorded_amounts(entry: Entry, kernel: Data, reduction: int, gpu: Gpu) -> dict[str, float]:
    """The amounts that the model multiplies by its rates, by name, for a recorded launch."""
    macros, algorithm = kernel["macros"], find(kernel["algorithm"], entry.dtype)
    vectors = int(macros["VECTOR_C"]), int(macros["VECTOR_K"])
    loop = predict_time.compiled(algorithm, entry.op, entry.dtype, vectors, gpu.arch).loop
    m, n, k, batches = entry.workload.implicit_gemm(entry.op)
    tiles = ceil_div(m, algorithm.block_m) * ceil_div(n, algorithm.block_n) * batches
    split_k = round(kernel["blocks"] / tiles)
    amounts = predict_time.terms(
        loop,
        blocks=kernel["blocks"],
        tiles_of_depth=ceil_div(ceil_div(k, split_k), algorithm.block_k),
        threads=kernel["threads"],
        resident=predict_time.resident_blocks(gpu.arch, kernel["registers"], kernel["shared"], kernel["threads"]),
        reduction=reduction,
        multiprocessors=gpu.multiprocessors,
    )
    return {name: getattr(amounts, name) for name in TERMS}


def refit(records: Sequence[Data], before: Model | None, gpu: Gpu) -> Model:
    """Fits the model to all records of a GPU and writes predict_time.json. before: the model whose rows keep their
    counts.

    Raises ValueError for too few rows, or if new rows would be counted with another NVRTC.
    """
    known = {row["row"]: row for row in before.rows} if before else {}
    counted_with = before.nvrtc if before else nvrtc.version()
    rows = [row for record in records for row in rows_of(record, gpu, known, counted_with)]
    if len(rows) <= len(TERMS):
        raise ValueError(f"a model of {len(TERMS)} terms needs more rows than terms; the records have {len(rows)} rows")
    rates, errors, left_out = fit(rows, gpu)
    rounded = Terms(*(float(f"{getattr(rates, name):.4g}") for name in TERMS))
    model = Model(gpu.name, rounded, rms(errors), rms(left_out), counted_with, tuple(rows))
    write_atomically(predict_time.FILE, (json.dumps(model.as_json(), indent=1) + "\n").encode())
    return model


def load_nvrtc(folder: Path) -> None:
    """Compile with the NVRTC in a folder instead of the installed one. Raises FileNotFoundError if there is none.

    `pip install --no-deps --target DIR nvidia-cuda-nvrtc==13.0.88` makes such a folder.
    """
    for name in ("libnvrtc-builtins.so.*", "libnvrtc.so.*"):
        found = sorted(folder.rglob(name))
        if not found:
            raise FileNotFoundError(f"{folder} holds no {name}")
        ctypes.CDLL(str(found[0]), mode=ctypes.RTLD_GLOBAL)
    nvrtc.toolkit()  # from now on its version is used, not that of the installed package


def rms(errors: np.ndarray) -> float:
    return float(f"{np.sqrt(np.mean(errors**2)):.3g}")
