"""What computes a value: the backends, with their results and bounds, and the threads of the device's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gpuconv import backends, ops
from gpuconv.devices import Device
from gpuconv.dtypes import accumulation_dtype
from gpuconv.inspect.terms import Index, branch_at
from gpuconv.layers.base import Layer
from gpuconv.layers.branches import Merging
from gpuconv.layers.layer_call import in_place_runs, run, writes_slices
from gpuconv.layers.sequential import Sequential, runs_of
from gpuconv.types import Array
from gpuconv.verify.call import Call, recording

if TYPE_CHECKING:
    from gpuconv.backends.cuda.emulator import Touched, Writer


@dataclass(frozen=True)
class Computed:
    """The value as computed by a backend.

    Args:
        by: "float64" (the oracle), "numpy" or a device.
        value: The activation or gradient.
        error: The absolute difference from the oracle.
        bound: The limit of the error, as in `gpuconv verify`; 0 if the bits must be equal.
    """

    by: str
    value: float
    error: float
    bound: float


@dataclass(frozen=True)
class Thread:
    """The threads that wrote the value, and the memory accesses of the last writer in each op, as the emulator recorded
    them.

    Args:
        algorithm: The algorithm of the matrix product, "" for other ops.
        writers: The threads, in order.
        touched: The memory accesses.
        part: With split-K, the thread that computed the first of the parts of the sum; the last writer adds the parts.
    """

    algorithm: str
    writers: list[Writer]
    touched: list[Touched]
    part: Thread | None = None


def compute_everywhere(calls: Sequence[Call], offset: int, device: str) -> list[Computed]:
    """The value as computed by the oracle, by NumPy and by the device. calls: the ops that compute it, one after
    another. offset: the index of the value in the flattened result of these ops."""
    first, *added = calls
    expected = first.expected()[0]
    value, bound = (_value_at(part, first, offset) for part in (expected.value, expected.bound))
    for call in added:
        value += _value_at(call.arrays[1], call, offset)
        bound += _value_at(call.expected()[0].bound, call, offset)
    ways = {"numpy": _on_numpy(calls)} if Device.named(device).runs_kernels else {}
    ways[device] = calls[-1]
    found = [Computed("float64", value, 0.0, 0.0)]
    for by, each in ways.items():
        result = _value_at(result_of(each), each, offset)
        found.append(Computed(by, result, 0.0 if result == value else abs(result - value), bound))
    return found


def run_below(net: Layer, layer: Layer) -> list[Layer]:
    """The layers below `layer` that write straight into the output of `layer`, in order."""
    own = next((each for each in runs_of(net) if layer in each), [layer])
    return own[: own.index(layer)]


def writing_call(layer: Layer, x: Array, at: Index, below: Sequence[tuple[Layer, Array]] = ()) -> tuple[Call, Index]:
    """The call of the op that wrote a value of a layer's output, and the value's index in the result of that call. For
    a concatenation, this is the call that writes the branch's slice. below: the layers of `run_below`, with their
    inputs."""
    if isinstance(layer, Sequential):
        writing, inputs = layer.layers[: layer.last_in_inference + 1], [x]
        for each in writing[:-1]:
            inputs.append(run(each, "infer", inputs[-1]))
        count = len(in_place_runs(writing)[-1])
        *below, (layer, x) = [*zip(writing, inputs)][-count:]
        return writing_call(layer, x, at, below)
    calls: list[Call] = []
    if isinstance(layer, Merging) and layer.merge == "concat":
        number, at = branch_at(layer, at)
        row = layer.rows[number]
        if row and writes_slices(row):
            return writing_call(row, x, at)
        if row is None and below and number == layer.rows.index(None):
            *others, (last, x) = below
            return writing_call(last, x, at, others)
        with recording(calls.append):
            ops.copy(row.infer(x) if row else x)
    else:
        with recording(calls.append):
            y = run(layer, "infer", x)
            if layer.idle_in_inference:
                ops.copy(y)
    return calls[-1], at


def result_of(call: Call) -> np.ndarray:
    """The first result of a call."""
    return next(iter(call.results.values()))


def _value_at(part: np.ndarray | float, call: Call, offset: int) -> float:
    """The value at `offset` of `part`, which is first broadcast to the shape of the call's result and flattened."""
    return float(np.broadcast_to(part, result_of(call).shape).reshape(-1)[offset])


def _on_numpy(calls: Sequence[Call]) -> Call:
    """Runs the calls on NumPy, each on the result of the one before, and returns the last one."""
    last: Call | None = None
    for call in calls:
        given = replace(call, arrays=[result_of(last), *call.arrays[1:]]) if last else call
        last = given.on("numpy", **_any_algorithm(call))
    assert last
    return last


def value_without_op(value: float, device: str) -> list[Computed]:
    """The value of a layer without an op: the same from every backend."""
    return [Computed(by, value, 0.0, 0.0) for by in dict.fromkeys(("float64", "numpy", device))]


def _any_algorithm(call: Call) -> dict[str, str]:
    return {"algo": "auto"} if "algo" in call.options else {}


def locate_threads(layer: Layer, calls: Sequence[Call], offset: int, device: str, backward: bool) -> Thread | None:
    """The threads that computed the value. They are found by running, on the emulated device, the algorithm that the
    net's device uses. None for a net on NumPy, or if no thread was found."""
    if not Device.named(device).runs_kernels:
        return None
    algorithm = layer.algorithms(1, device).get("dgrad" if backward else "fprop", "")
    writers: list[Writer] = []
    touched: list[Touched] = []
    part = None
    for call in calls:
        found = _watch_call(call, offset, algorithm)
        writers += found[0]
        touched += found[1]
        if any(writer.kernel == "gemm_reduce_splits" for writer in found[0]):
            part = Thread(algorithm, *_watch_call(call, offset, algorithm, part=True))
    return Thread(algorithm, writers, touched, part) if writers else None


def _watch_call(call: Call, offset: int, algorithm: str, part: bool = False) -> tuple[list[Writer], list[Touched]]:
    """The threads that write a value of a call's result, and the memory accesses of the last of these threads.

    part: with split-K, watch the memory of the value's first partial sum instead. `partials` holds an array
    for each split; each of these arrays begins with one sum for each value of the result (kernels/gemm_reduce.cu).
    """
    from gpuconv.backends.cuda import emulator

    result = result_of(call)
    at = np.unravel_index(offset, result.shape)
    size = accumulation_dtype(result.dtype).itemsize
    writers: list[Writer] = []
    for finds_writers in (True, False):  # the second run records the accesses of the last writer
        out = backends.empty(result.shape, result.dtype, "emulated")
        memory = out[(*at[:-1], slice(at[-1], at[-1] + 1))]
        if part:
            memory = emulator.ArgumentBytes("partials", offset * size, size)
        watched = None if finds_writers or not writers else writers[-1]
        with emulator.watch_writes(memory, watched) as seen:
            call.on("emulated", out=out, **({"algo": algorithm} if "algo" in call.options and algorithm else {}))
        if finds_writers:
            writers = [each for each in seen if isinstance(each, emulator.Writer)]
    return writers, [each for each in seen if isinstance(each, emulator.Touched)]
