"""Predicted times of the suite's convolutions, and the model behind them fitted to GPU records.

A model's row is one timed convolution: what its launches asked of the GPU (`Terms`) and the seconds they took. The
counts of a row are stored with the model, for a later kernel or another NVRTC issues other instructions.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.record import best
from bench.suite import Entry, suite
from gpuconv.algorithms import find
from gpuconv.backends.cuda.analysis import predict
from gpuconv.backends.cuda.analysis.predict import TERMS, Gpu, Model, Prediction, Terms
from gpuconv.backends.cuda.analysis.predict_conv import convolution
from gpuconv.backends.cuda.runtime import nvrtc
from gpuconv.backends.cuda.runtime.outputs import ceil_div
from gpuconv.checkpoint import write_atomically
from gpuconv.problems import DIRECTIONS

# --- fitting -----------------------------------------------------------------------------------


def fit(rows: Sequence[dict[str, Any]], gpu: Gpu) -> tuple[Terms, np.ndarray, np.ndarray]:
    """The rates that make the relative errors least, with none below zero; each row's error, and its error under the
    rates of all other rows."""
    from scipy.optimize import nnls

    asked = np.array([[row["terms"][name] for name in TERMS] for row in rows])
    cycles = np.array([row["seconds"] for row in rows]) * gpu.clock
    shares = asked / cycles[:, None]

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
    """A row for each convolution on tensor cores that a record has timed. known: rows by name, taken as they are.

    counted_with: the NVRTC that they were counted with. Raises ValueError where this one is another and has to count.
    """
    problems = {entry.key: entry for entry in suite("ops")}
    for entry in record["entries"]:
        side, name = best(entry, "ours"), f"{record['hardware']} {record['commit']} {entry['key']}"
        if name in known:
            yield known[name]
        elif side and entry["key"] in problems and entry["op"] in DIRECTIONS:
            kernel, *reduction = side["kernels"]["kernels"]
            if "_mma" in kernel["kernel"]:
                if counted_with not in (None, nvrtc.version()):
                    raise ValueError(
                        f"the model's rows were counted with {counted_with}, received {nvrtc.version()}, which may "
                        "issue other instructions; --nvrtc DIR takes the NVRTC of a folder"
                    )
                asked = _recorded(problems[entry["key"]], kernel, sum(each["blocks"] for each in reduction), gpu)
                yield {
                    "row": name,
                    "algorithm": kernel["algorithm"],
                    "terms": asked,
                    "seconds": side["medians"]["cold"],
                }


def _recorded(entry: Entry, kernel: dict[str, Any], reduction: int, gpu: Gpu) -> dict[str, float]:
    macros, algorithm = kernel["macros"], find(kernel["algorithm"], entry.dtype)
    vectors = int(macros["VECTOR_C"]), int(macros["VECTOR_K"])
    loop = predict.compiled(algorithm, entry.op, entry.dtype, vectors, gpu.arch).loop
    m, n, k, batches = entry.workload.implicit_gemm(entry.op)
    tiles = ceil_div(m, algorithm.block_m) * ceil_div(n, algorithm.block_n) * batches
    splits = round(kernel["blocks"] / tiles)
    asked = predict.terms(
        loop,
        blocks=kernel["blocks"],
        tiles_of_depth=ceil_div(ceil_div(k, splits), algorithm.block_k),
        threads=kernel["threads"],
        resident=predict.resident_blocks(gpu.arch, kernel["registers"], kernel["shared"], kernel["threads"]),
        reduction=reduction,
        multiprocessors=gpu.multiprocessors,
    )
    return {name: getattr(asked, name) for name in TERMS}


def refit(records: Sequence[dict[str, Any]], before: Model | None, gpu: Gpu) -> Model:
    """The model of all records of a GPU, written to predict.json. before: its rows keep their counts.

    Raises ValueError for too few rows, and where new rows would be counted with another NVRTC.
    """
    known = {row["row"]: row for row in before.rows} if before else {}
    counted_with = before.nvrtc if before else nvrtc.version()
    rows = [row for record in records for row in rows_of(record, gpu, known, counted_with)]
    if len(rows) <= len(TERMS):
        raise ValueError(f"a model of {len(TERMS)} terms needs more rows than that; the records have {len(rows)}")
    rates, errors, left_out = fit(rows, gpu)
    rounded = Terms(*(float(f"{getattr(rates, name):.4g}") for name in TERMS))
    model = Model(gpu.name, rounded, _rms(errors), _rms(left_out), counted_with, tuple(rows))
    write_atomically(predict.FILE, (json.dumps(model.as_json(), indent=1) + "\n").encode())
    return model


def load_nvrtc(folder: Path) -> None:
    """Compile with the NVRTC of a folder in place of the installed one; FileNotFoundError where it holds none.

    `pip install --no-deps --target DIR nvidia-cuda-nvrtc==13.0.88` makes such a folder.
    """
    for name in ("libnvrtc-builtins.so.*", "libnvrtc.so.*"):
        found = sorted(folder.rglob(name))
        if not found:
            raise FileNotFoundError(f"{folder} holds no {name}")
        ctypes.CDLL(str(found[0]), mode=ctypes.RTLD_GLOBAL)
    nvrtc.toolkit()  # from now on this one's version counts, not that of the installed package


def _rms(errors: np.ndarray) -> float:
    return float(f"{np.sqrt(np.mean(errors**2)):.3g}")


# --- predicting --------------------------------------------------------------------------------


def predicted(entry: Entry, algo: str, model: Model, gpu: Gpu) -> tuple[str, Prediction] | None:
    """The algorithm that a convolution takes under `algo`, and its predicted time; None where the model has no terms:
    other operations, and algorithms without tensor cores."""
    if entry.op not in DIRECTIONS:
        return None
    return convolution(entry.workload, entry.op, entry.dtype, algo, entry.work.bytes, model, gpu)


Timed = dict[tuple[str, str], float]  # seconds, by an entry's key and its algorithm


def timed_by(model: Model, gpu: Gpu) -> Timed:
    """What the model's rows measured, the newest of each, on the GPU that they are of."""
    rows = model.rows if gpu.name == model.gpu else ()
    return {(row["row"].split(" ", 2)[2], row["algorithm"]): row["seconds"] for row in rows}


def is_of(record: dict[str, Any], gpu: Gpu) -> bool:
    """Whether a record was made on a GPU of this model: "nvidia-h100-80gb-hbm3" is an H100."""
    return gpu.name.split()[1].lower() in record["hardware"].split("-")


def timed_in(records: Sequence[dict[str, Any]], gpu: Gpu) -> Timed:
    """What records of a GPU have timed, the newest last."""
    found = {}
    for entry in (each for data in records if is_of(data, gpu) for each in data["entries"]):
        side = best(entry, "ours")
        if side and entry["op"] in DIRECTIONS:
            found[entry["key"], side["kernels"]["kernels"][0]["algorithm"]] = side["medians"]["cold"]
    return found


def table(
    entries: Sequence[Entry], algo: str, model: Model, gpu: Gpu, timed: Timed, today: bool = False
) -> Iterator[str]:
    """Lines for a terminal: of each entry the predicted time, its parts, the largest marked, and what was measured.

    timed: where "auto" took an algorithm there, that one's time is predicted. today: it was timed with today's kernels,
    so that the differences are the model's errors.
    """
    names, others, errors = (*TERMS, "bytes"), 0, list[float]()
    taken = dict(timed) if algo == "auto" else {}
    parts = " ".join(f"{name:>11}" for name in names)
    yield f"{'microseconds':<46} {'algorithm':<12} {'predicted':>10} {parts} {'measured':>9} difference"
    for entry in entries:
        found = predicted(entry, taken.get(entry.key, algo), model, gpu)
        if found is None:
            others += 1
            continue
        algorithm, prediction = found
        seconds = timed.get((entry.key, algorithm))
        parts = " ".join(
            f"{1e6 * prediction.parts[name]:>10.1f}{'*' if name == prediction.binds else ' '}" for name in names
        )
        line = f"{entry.key:<46} {algorithm:<12} {1e6 * prediction.seconds:>10.1f} {parts}"
        if seconds:
            errors.append(prediction.seconds / seconds - 1)
            line += f" {1e6 * seconds:>9.1f} {errors[-1]:>+7.1%}"
        yield line
    if errors and today:
        yield f"rms error {100 * _rms(np.array(errors)):.3g} % over {len(errors)} rows that were measured"
    if others:
        yield f"{others} more entries are not modelled; those are that are fprop, dgrad or wgrad in half precision"
