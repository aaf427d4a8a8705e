"""Predicted times of the suite's convolutions, and the model behind them fitted to GPU records.

A row of the model is one timed convolution: the work of its launches (`Terms`) and the seconds they took. The
counts of a row are stored with the model, because later kernels and other NVRTC versions issue other instructions.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.record import fastest_side
from bench.suite import Entry, suite
from gpuconv.algorithms import find
from gpuconv.backends.cuda.analysis import predict_time
from gpuconv.backends.cuda.analysis.predict_conv import convolution
from gpuconv.backends.cuda.analysis.predict_time import TERMS, Gpu, Model, Prediction, Terms
from gpuconv.backends.cuda.runtime import nvrtc
from gpuconv.backends.cuda.runtime.outputs import ceil_div
from gpuconv.checkpoint import write_atomically
from gpuconv.problems import DIRECTIONS

# --- fitting -----------------------------------------------------------------------------------


def fit(rows: Sequence[dict[str, Any]], gpu: Gpu) -> tuple[Terms, np.ndarray, np.ndarray]:
    """The nonnegative rates that minimize the relative errors; each row's error, and its error under the
    rates fitted to all other rows."""
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


def rows_of(
    record: dict[str, Any], gpu: Gpu, known: Mapping[str, dict[str, Any]], counted_with: str | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each timed tensor-core convolution in a record. known: rows by name, used unchanged.

    counted_with: the NVRTC of their counts. Raises ValueError if new rows have to be counted with another NVRTC.
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


def _recorded_amounts(entry: Entry, kernel: dict[str, Any], reduction: int, gpu: Gpu) -> dict[str, float]:
    """The amounts that the model multiplies by its rates, by name, for a recorded launch."""
    macros, algorithm = kernel["macros"], find(kernel["algorithm"], entry.dtype)
    vectors = int(macros["VECTOR_C"]), int(macros["VECTOR_K"])
    loop = predict_time.compiled(algorithm, entry.op, entry.dtype, vectors, gpu.arch).loop
    m, n, k, batches = entry.workload.implicit_gemm(entry.op)
    tiles = ceil_div(m, algorithm.block_m) * ceil_div(n, algorithm.block_n) * batches
    splits = round(kernel["blocks"] / tiles)
    amounts = predict_time.terms(
        loop,
        blocks=kernel["blocks"],
        tiles_of_depth=ceil_div(ceil_div(k, splits), algorithm.block_k),
        threads=kernel["threads"],
        resident=predict_time.resident_blocks(gpu.arch, kernel["registers"], kernel["shared"], kernel["threads"]),
        reduction=reduction,
        multiprocessors=gpu.multiprocessors,
    )
    return {name: getattr(amounts, name) for name in TERMS}


def refit(records: Sequence[dict[str, Any]], before: Model | None, gpu: Gpu) -> Model:
    """Fits the model to all records of a GPU and writes predict_time.json. before: the model whose rows keep their
    counts.

    Raises ValueError for too few rows, or if new rows would be counted with another NVRTC.
    """
    known = {row["row"]: row for row in before.rows} if before else {}
    counted_with = before.nvrtc if before else nvrtc.version()
    rows = [row for record in records for row in rows_of(record, gpu, known, counted_with)]
    if len(rows) <= len(TERMS):
        raise ValueError(f"a model of {len(TERMS)} terms needs more rows than that; the records have {len(rows)}")
    rates, errors, left_out = fit(rows, gpu)
    rounded = Terms(*(float(f"{getattr(rates, name):.4g}") for name in TERMS))
    model = Model(gpu.name, rounded, _rms(errors), _rms(left_out), counted_with, tuple(rows))
    write_atomically(predict_time.FILE, (json.dumps(model.as_json(), indent=1) + "\n").encode())
    return model


def load_nvrtc(folder: Path) -> None:
    """Compile with the NVRTC in a folder instead of the installed one; FileNotFoundError if there is none.

    `pip install --no-deps --target DIR nvidia-cuda-nvrtc==13.0.88` makes such a folder.
    """
    for name in ("libnvrtc-builtins.so.*", "libnvrtc.so.*"):
        found = sorted(folder.rglob(name))
        if not found:
            raise FileNotFoundError(f"{folder} holds no {name}")
        ctypes.CDLL(str(found[0]), mode=ctypes.RTLD_GLOBAL)
    nvrtc.toolkit()  # from now on its version is used, not that of the installed package


def _rms(errors: np.ndarray) -> float:
    return float(f"{np.sqrt(np.mean(errors**2)):.3g}")


# --- predicting --------------------------------------------------------------------------------

# The parts of a predicted time for wgmma.
WGMMA = ("launch", "prologue", "tensor", "shared", "l2", "issue", "epilogue", "reduction")


def predict_entry(entry: Entry, algo: str, model: Model, gpu: Gpu) -> tuple[str, Prediction] | None:
    """The algorithm that a convolution uses under `algo`, and its predicted time; None if the model has no terms for
    it: other operations, and algorithms without tensor cores."""
    if entry.op not in DIRECTIONS:
        return None
    return convolution(entry.workload, entry.op, entry.dtype, algo, entry.work.bytes, model, gpu)


Timed = dict[tuple[str, str], float]  # seconds, by an entry's key and its algorithm


def timed_by(model: Model, gpu: Gpu) -> Timed:
    """The measured times in the model's rows for a GPU, the newest of each."""
    rows = model.rows if gpu.name == model.gpu else ()
    return {(row["row"].split(" ", 2)[2], row["algorithm"]): row["seconds"] for row in rows}


def is_of(record: dict[str, Any], gpu: Gpu) -> bool:
    """Whether a record was made on a GPU of this model: "nvidia-h100-80gb-hbm3" is an H100."""
    return gpu.name.split()[1].lower() in record["hardware"].split("-")


def timed_in(records: Sequence[dict[str, Any]], gpu: Gpu) -> Timed:
    """The times in the records of a GPU; newer records, which come last, replace older ones."""
    found = {}
    for entry in (each for data in records if is_of(data, gpu) for each in data["entries"]):
        side = fastest_side(entry, "ours")
        if side and entry["op"] in DIRECTIONS:
            found[entry["key"], side["kernels"]["kernels"][0]["algorithm"]] = side["medians"]["cold"]
    return found


def table(
    entries: Sequence[Entry], algo: str, model: Model, gpu: Gpu, timed: Timed, today: bool = False
) -> Iterator[str]:
    """Lines for a terminal: each entry's predicted time, its parts with the largest marked, and the measured time.

    timed: measured times; the algorithm that "auto" chose there is predicted. today: whether these are times of today's
    kernels, so that the differences are the model's errors.
    """
    names, others, unserved = (*TERMS, "bytes"), 0, 0
    errors, shares = list[float](), dict[str, list[float]]()
    algorithms = dict(timed) if algo == "auto" else {}
    if algo.startswith("wgmma"):
        names = (*WGMMA, "bytes", "ceiling")
    parts = " ".join(f"{name:>11}" for name in names)
    last_columns = "share" if "ceiling" in names else f"{'measured':>9} difference"
    yield f"{'microseconds':<46} {'algorithm':<15} {'predicted':>10} {parts} {last_columns}"
    for entry in entries:
        found = predict_entry(entry, algorithms.get(entry.key, algo), model, gpu)
        if found is None:
            others += 1
            continue
        algorithm, prediction = found
        if "ceiling" in names and algorithm != algo:
            unserved += 1
            continue
        seconds = timed.get((entry.key, algorithm))
        parts = " ".join(
            f"{1e6 * prediction.parts[name]:>10.1f}{'*' if name == prediction.binds else ' '}" for name in names
        )
        line = f"{entry.key:<46} {algorithm:<15} {1e6 * prediction.seconds:>10.1f} {parts}"
        if "ceiling" in names:
            shares.setdefault(entry.op, []).append(prediction.parts["ceiling"] / prediction.seconds)
            line += f" {shares[entry.op][-1]:>5.2f}"
        elif seconds:
            errors.append(prediction.seconds / seconds - 1)
            line += f" {1e6 * seconds:>9.1f} {errors[-1]:>+7.1%}"
        yield line
    if errors and today:
        yield f"rms error {100 * _rms(np.array(errors)):.3g} % over {len(errors)} rows that were measured"
    for op, of_op in shares.items():
        yield f"{op}: median share of the ceiling {np.median(of_op):.2f} over {len(of_op)} rows, predicted"
    if unserved:
        yield f"{unserved} more entries are of directions or shapes that {algo} does not serve"
    if others:
        yield f"{others} more entries are not modeled: only fprop, dgrad and wgrad in half precision are"
