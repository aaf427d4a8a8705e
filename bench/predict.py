"""Predicted times of the suite's convolutions, beside those measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from bench.fit_model import rms
from bench.record import Data, fastest_side
from bench.suite import Entry
from gpuconv.backends.cuda.analysis.predict_conv import convolution
from gpuconv.backends.cuda.analysis.predict_time import TERMS, Gpu, Model, Prediction
from gpuconv.problems import DIRECTIONS

# The parts of a predicted time for wgmma.
WGMMA = ("launch", "prologue", "tensor", "shared", "l2", "issue", "epilogue", "reduction")


def predict_entry(entry: Entry, algo: str, model: Model, gpu: Gpu) -> tuple[str, Prediction] | None:
    """The algorithm that a convolution uses under `algo`, and its predicted time. None for entries that the model does
    not cover: other operations, dtypes other than float16 and bfloat16, and algorithms without tensor cores or for few
    channels."""
    if entry.op not in DIRECTIONS:
        return None
    return convolution(entry.workload, entry.op, entry.dtype, algo, entry.work.bytes, model, gpu)


Timed = dict[tuple[str, str], float]  # seconds, by an entry's key and its algorithm


def timed_by(model: Model, gpu: Gpu) -> Timed:
    """The measured times in the model's rows for a GPU; for each entry and algorithm the newest."""
    rows = model.rows if gpu.name == model.gpu else ()
    return {(row["row"].split(" ", 2)[2], row["algorithm"]): row["seconds"] for row in rows}


def is_of(record: Data, gpu: Gpu) -> bool:
    """Whether a record was made on a GPU of this model: "nvidia-h100-80gb-hbm3" is an H100."""
    return gpu.name.split()[1].lower() in record["hardware"].split("-")


def timed_in(records: Sequence[Data], gpu: Gpu) -> Timed:
    """The times that records have for a GPU. records: oldest first, so that newer times replace older ones."""
    found: Timed = {}
    for entry in (each for data in records if is_of(data, gpu) for each in data["entries"]):
        side = fastest_side(entry, "ours")
        if side and entry["op"] in DIRECTIONS:
            place = entry["key"], side["kernels"]["kernels"][0]["algorithm"]
            found.pop(place, None)  # so that the newest time of an entry comes last, whatever its algorithm
            found[place] = side["medians"]["cold"]
    return found


def table(
    entries: Sequence[Entry], algo: str, model: Model, gpu: Gpu, timed: Timed, today: bool = False
) -> Iterator[str]:
    """Lines for a terminal: each entry's predicted time, its parts with the largest marked, and the measured time. If
    `algo` is one of wgmma's, the last column is the share of the predicted time that the arithmetic takes at the
    measured rate of a large product, in place of the measured time.

    timed: measured times, shown where the same algorithm is predicted. today: whether these are times of today's
    kernels, so that the differences are the model's errors; then "auto" predicts each entry for its measured algorithm.
    """
    names, others, unserved = (*TERMS, "bytes"), 0, 0
    errors, shares = list[float](), dict[str, list[float]]()
    algorithms = dict(timed.keys()) if today and algo == "auto" else {}
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
            f"{1e6 * prediction.parts.get(name, 0):>10.1f}{'*' if name == prediction.binds else ' '}" for name in names
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
        yield f"rms error {100 * rms(np.array(errors)):.3g} % over {len(errors)} rows that were measured"
    for op, of_op in shares.items():
        yield f"{op}: median share of the ceiling {np.median(of_op):.2f} over {len(of_op)} rows, predicted"
    if unserved:
        yield f"{unserved} more entries are of directions or shapes that {algo} does not serve"
    if others:
        what = "other operations or dtypes, or algorithms for few channels or without tensor cores"
        yield f"{others} more entries are not modeled: {what}"
