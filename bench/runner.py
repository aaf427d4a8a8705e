"""Running entries: prepare every side, check it against float64, then time all of them in turns."""

from __future__ import annotations

import datetime
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from bench import entry_calls, our_side, recipe_steps, steps
from bench.peers import pytorch, pytorch_recipe, pytorch_steps
from bench.record import Data, Record, fastest_side
from bench.sides import OURS, Prepared, Side, check, failure
from bench.suite import Entry
from gpuconv import backends
from gpuconv.devices import Device
from gpuconv.profiling.timer import Timer, current_device
from gpuconv.profiling.work import Ceilings
from gpuconv.verify.compare import Expected

Compare = Callable[[list[np.ndarray]], Iterable[tuple[Expected, np.ndarray]]]
MakeSides = Callable[[Entry, str, bool], tuple[list[Side], Compare]]

ROUNDS = 6  # each half of the rounds gives a median; the difference between the two is the noise
BURST = 0.05  # seconds for which a side is timed in each round


def sides_of(entry: Entry, device: str, compiled: bool) -> tuple[list[Side], Compare]:
    """Every side of an entry, ours first, and the comparison for their results."""
    if entry.op == "recipe":
        recipe = recipe_steps.Recipe(entry)
        return recipe_steps.sides(recipe, device) + pytorch_recipe.sides(recipe, device, compiled), recipe.compare
    if entry.kind == "step":
        step = steps.Step(entry)
        return steps.sides(step, device) + pytorch_steps.sides(step, device, compiled), step.compare
    call = entry_calls.call(entry)
    arrays = call.make(np.random.default_rng(0))
    found = our_side.sides(call, arrays, device) + pytorch.sides(call, arrays, device, compiled)
    return found, lambda results: call.compare(arrays, results)


def run(
    entries: Sequence[Entry],
    record: Record,
    device: str,
    timer: Timer,
    ceilings: Ceilings,
    *,
    minutes: float | None = None,
    compiled: bool = False,
    rounds: int = ROUNDS,
    burst: float = BURST,
    make_sides: MakeSides = sides_of,
) -> Iterator[Data]:
    """Time the entries one by one; each is saved in the record before it is yielded.

    minutes: no entry starts after this time; the rest is listed under "not reached". A KeyboardInterrupt leaves
    the file as it was after the last complete entry. Raises DeviceError after an entry that crashed the GPU.
    """
    end = None if minutes is None else time.monotonic() + 60 * minutes
    remaining = [entry.key for entry in entries]
    others = [key for key in record.data["not reached"] if key not in remaining]
    for entry in entries:
        if end is not None and time.monotonic() > end:
            record.data["not reached"] = others + remaining
            record.save()
            return
        with current_device(device):
            timed = time_entry(entry, device, timer, ceilings, compiled, rounds, burst, make_sides)
        remaining.remove(entry.key)
        record.data["not reached"] = others + remaining
        loads = {each["key"]: each["load"] for each in [*record.data["entries"], timed]}
        record.data["load"] = statistics.mean(loads.values())
        record.add(timed)
        _free(device, entry.key)
        yield timed


def time_entry(
    entry: Entry,
    device: str,
    timer: Timer,
    ceilings: Ceilings,
    compiled: bool,
    rounds: int,
    burst: float,
    make_sides: MakeSides = sides_of,
) -> Data:
    """The data of one entry in a record. Times in seconds."""
    began = time.monotonic()
    found, compare = make_sides(entry, device, compiled)
    on_gpu = Device.named(device).on_gpu
    # The column of samples that counts (gpuconv.profiling.timer).
    basis = "cold" if on_gpu and entry.kind != "step" else "wall"
    rows, ready = [], []
    for side in found:
        row: Data = {"role": side.role, "name": side.name}
        rows.append(row)
        try:
            prepared = side.prepare()
            if results := prepared.results():
                bounded = side.role == OURS and entry.kind != "step"
                row["error"] = check(compare(results), entry.dtype, bounded=bounded)
            if side.role == OURS and on_gpu and entry.op != "recipe":
                row["kernels"] = _kernels(prepared, device)
            prepared.call(0)
            ready.append((row, prepared))
        except Exception as error:  # an error of one side does not affect the others
            row |= failure(error)
    _time_sides(ready, timer, rounds, burst, basis)
    floor = entry.work.floor(ceilings, entry.dtype)
    mine = fastest_side({"sides": rows}, OURS)
    first, second = mine["timings"] if mine else (1.0, 1.0)
    return {
        "key": entry.key,
        "kind": entry.kind,
        "op": entry.op,
        "shape": entry.shape,
        "group": entry.group,
        "dtype": entry.dtype,
        "date": datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat(),
        "flops": entry.work.flops,
        "bytes": entry.work.bytes,
        "floor": floor,
        "basis": basis,
        "noise": abs(first / second - 1) if mine else None,
        "took": time.monotonic() - began,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        "sides": rows,
    }


def _time_sides(ready: list[tuple[Data, Prepared]], timer: Timer, rounds: int, burst: float, basis: str) -> None:
    """Times the sides in turn, since the machine's load varies; every other round in reverse order."""
    halves: dict[int, tuple[list[float], list[float]]] = {}
    for number in range(rounds):
        for index in range(len(ready))[:: -1 if number % 2 else 1]:
            row, prepared = ready[index]
            if row.get("status"):
                continue
            try:
                samples = timer.burst(prepared.call, burst)
            except Exception as error:
                row |= failure(error)
                row.pop("samples", None)
                continue
            for column, values in samples.items():
                row.setdefault("samples", {}).setdefault(column, []).extend(values)
            halves.setdefault(index, ([], []))[2 * number >= rounds].extend(samples[basis])
    for index, (row, _) in enumerate(ready):
        if row.get("status"):
            continue
        values = row["samples"][basis]
        quarters = statistics.quantiles(values, n=4)
        row |= {
            "status": "timed",
            "median": statistics.median(values),
            "least": min(values),
            "spread": quarters[2] - quarters[0],
            "medians": {column: statistics.median(found) for column, found in row["samples"].items()},
            "timings": [statistics.median(half or values) for half in halves[index]],
        }


def _kernels(prepared: Prepared, device: str) -> Data:
    """Our launches in one call, and the resources of each kernel."""
    from gpuconv.profiling import launches

    with launches.record_launches() as found:
        prepared.call(0)
    return {"launches": len(found), "kernels": launches.table(found, launches.architecture(device))}


def _free(device: str, key: str) -> None:
    """Free the memory that both libraries cached during an entry, so that each can use all of it in the next entry.

    Raises DeviceError if a side left the GPU unusable for this process.
    """
    named = Device.named(device)
    if not named.on_gpu:
        return
    import cupy

    try:
        cupy.cuda.Device(named.index).synchronize()
        cupy.get_default_memory_pool().free_all_blocks()
    except Exception as error:
        raise backends.DeviceError(
            f"{device} no longer answers after {key} ({error}); the record holds what was timed, and the same command "
            "with --missing continues"
        ) from error
    try:
        pytorch.load().cuda.empty_cache()
    except ImportError:
        return
