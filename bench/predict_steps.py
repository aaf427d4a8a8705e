"""The predicted time of a whole training step that runs as a CUDA graph. The time has three parts:

    convolutions   The time of each direction of each convolution, by `bench.predict`; by its bytes if the model does
                   not cover it. Depthwise convolutions count as other kernels.
    bytes          The time to move, at the GPU's copy rate, each array of each launch of the other kernels, and the
                   arrays of a convolution's epilogue.
    launches       LAUNCH for each launch of the other kernels.

The split-K reductions are part of the convolutions' times; their number is shown. No kernel is run: a step of the whole
batch is launched on the emulated device, which records the launches and leaves new arrays unwritten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from bench.predict import predict_entry
from bench.record import Data, fastest_side
from bench.suite import Entry
from bench.work import conv_work
from gpuconv import backends, models
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.analysis.predict_time import Gpu, Model
from gpuconv.backends.cuda.runtime import rows
from gpuconv.backends.cuda.runtime.kernel import Kernel
from gpuconv.inspect.profile import ProfiledStep, Spans
from gpuconv.layers import Conv2D, Input, Layer, Sequential, Upsample
from gpuconv.problems import Conv2dProblem
from gpuconv.profiling import work
from gpuconv.profiling.launches import record_launches
from gpuconv.types import Array, Shape

NETS = (("airbench94", 2000), ("vgg-cifar", 128), ("resnet18-cifar", 512))
LAUNCH = 2e-6  # seconds from one small kernel of a graph to the next: assumed, not measured


@dataclass(frozen=True)
class Counts:
    """Counts of one step. reductions: how many of the launches add up partial results of split-K. bytes: moved by
    kernels other than convolutions, and by the epilogues of convolutions."""

    launches: int
    reductions: int
    bytes: float


@dataclass(frozen=True)
class StepPrediction:
    counts: Counts
    convolutions: int
    uncovered: int  # convolutions without a model, which count by their bytes
    seconds: dict[str, float]  # of each kind

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


@contextmanager
def _recorded_launches() -> Iterator[list[tuple[str, int]]]:
    """A context that records launches without running them: each kernel's name and the bytes of its arrays. Of a
    convolution's arrays, those in `_OPERANDS` are left out. An output to which a kernel adds counts twice, because it
    is also read. New arrays are not written to, so that they take no memory."""
    found: list[tuple[str, int]] = []
    empty, span = emulator.empty, rows.span
    slices: list[tuple[object, int]] = []  # the spans of slices, which are kept so that no other array gets their id

    def record(kernel: Kernel, arguments: tuple[Array, ...]) -> None:
        named = dict(zip((each.name for each in kernel.signature.parameters), arguments))
        others = [each for name, each in named.items() if not (_is_convolution(kernel.name) and name in _OPERANDS)]
        arrays = {id(each): each for each in others if hasattr(each, "nbytes") and hasattr(each, "flags")}
        added_to = [arguments[0]] if named.get("accumulate") else []
        sliced = {id(each): bytes_ for each, bytes_ in slices}
        found.append((kernel.name, sum(sliced.get(id(each), each.nbytes) for each in [*arrays.values(), *added_to])))

    def record_slice(array, count: int):
        slices.append((span(array, count), array.nbytes))
        return slices[-1][0]

    def untouched(shape, dtype) -> emulator.EmulatedArray:
        return np.empty(shape, dtype).view(emulator.EmulatedArray)

    emulator.empty, rows.span = untouched, record_slice  # type: ignore[assignment]
    try:
        with record_launches(execute=False, visit=record):
            yield found
    finally:
        emulator.empty, rows.span = empty, span


_OPERANDS = {"x", "w", "y", "dx", "dy", "dw", "bias", "partials", "out", "more"}


def _is_convolution(kernel: str) -> bool:
    """Whether a kernel is a convolution other than a depthwise one, or the reduction of a split-K product."""
    return kernel.startswith(("conv2d_", "gemm_")) and not kernel.endswith("_depthwise")


def count_step(net: str, batch_size: int, precision: str = "bfloat16") -> Counts:
    """The launches and bytes of a step with this many images."""
    step = ProfiledStep(models.build(net, seed=0, precision=precision, device="emulated"), batch_size, None)
    with _recorded_launches() as found:
        for _ in range(2):  # the first step adds to the new gradients of parameters, later ones assign them
            found.clear()
            step(Spans(lambda: None))
    # The update's launches take tables of addresses instead of arrays, so the bytes of these arrays are not in `found`.
    update = work.of_update(step.trainer.optimizer, step.net.params()).bytes
    reductions = sum(kernel.startswith("gemm_reduce") for kernel, _ in found)
    return Counts(len(found), reductions, update + sum(bytes_ for _, bytes_ in found))


def convolutions(net: str, batch_size: int, precision: str = "bfloat16") -> list[Entry]:
    """Every direction that a step computes, for every convolution that is not depthwise."""
    built = models.build(net, precision=precision, initialize=False)
    first = next(layer for layer in built.walk() if layer.variables and layer.trainable and not layer.children())
    found = []
    for layer in (each for each in built.walk() if isinstance(each, Conv2D)):
        w_shape = layer.variables["weight"].shape
        problem = Conv2dProblem.of((batch_size, *layer.input_shape), w_shape, **layer.problem.window)
        if problem.depthwise:
            continue
        needed = {"fprop": True, "dgrad": layer is not first, "wgrad": layer.trains("weight")}
        for op in (name for name, launched in needed.items() if launched):
            found.append(Entry("convolution", op, net, precision, problem, conv_work(problem, op, precision)))
    return found


def fastest(entry: Entry, algo: str, model: Model, gpu: Gpu) -> float | None:
    """Seconds by `algo` or the launcher's choice, whichever is predicted faster; None if the model does not cover the
    launcher's choice."""
    auto = predict_entry(entry, "auto", model, gpu)
    named = predict_entry(entry, algo, model, gpu) if auto and algo != "auto" else auto
    return min(found[1].seconds for found in (auto, named) if found) if auto else None


def predict(net: str, batch_size: int, model: Model, gpu: Gpu, algo: str = "auto") -> StepPrediction:
    counts, entries = count_step(net, batch_size), convolutions(net, batch_size)
    times, uncovered = [], 0
    for entry in entries:
        found = fastest(entry, algo, model, gpu)
        uncovered += found is None
        times.append(entry.work.bytes / gpu.copy if found is None else found)
    seconds = {
        "convolutions": sum(times),
        "bytes": counts.bytes / gpu.copy,
        "launches": LAUNCH * max(0, counts.launches - counts.reductions - len(entries)),
    }
    return StepPrediction(counts, len(entries), uncovered, seconds)


LAYERS = (  # each with the shape of its input, in bfloat16
    ("Upsample", (128, 16, 16, 64), Upsample(2)),
    ("Upsample bilinear", (128, 16, 16, 64), Upsample(2, "bilinear")),
    ("Upsample bilinear", (16, 64, 64, 64), Upsample(4, "bilinear")),
)


def of_layer(layer: Layer, shape: Shape, gpu: Gpu) -> dict[str, StepPrediction]:
    """For each direction of a layer without matrix products: the bytes of its launches, and the gaps between them."""
    net = Sequential([Input(shape[1:]), layer], precision="bfloat16", device="emulated")
    found = {}
    with _recorded_launches() as launches:
        dy = net.forward(backends.empty(shape, net.dtype, net.device), training=True)
        found["forward"] = [*launches]
        net[1].backward(dy)
        found["backward"] = launches[len(found["forward"]) :]
    return {
        direction: StepPrediction(
            Counts(len(recorded), 0, moved := sum(bytes_ for _, bytes_ in recorded)),
            0,
            0,
            {"bytes": moved / gpu.copy, "launches": LAUNCH * (len(recorded) - 1)},
        )
        for direction, recorded in found.items()
    }


def layers_table(gpu: Gpu) -> Iterator[str]:
    """Lines for a terminal."""
    head = f"{'layer, microseconds':<40} {'direction':<9} {'launches':>8} {'MB':>7}"
    yield f"{head} {'bytes':>7} {'gaps':>7} {'predicted':>9}"
    for name, shape, layer in LAYERS:
        for direction, found in of_layer(layer, shape, gpu).items():
            cells = [f"{1e6 * found.seconds[kind]:>7.1f}" for kind in ("bytes", "launches")]
            title = f"{name} {'x'.join(map(str, shape))} by {layer.scale}"
            counts = f"{found.counts.launches:>8} {found.counts.bytes / 1e6:>7.1f}"
            yield f"{title:<40} {direction:<9} {counts} {' '.join(cells)} {1e6 * found.total:>9.1f}"


def table(model: Model, gpu: Gpu, records: Sequence[Data], algo: str = "auto") -> Iterator[str]:
    """Lines for a terminal, with the measured time from the newest record of this GPU that has the step: our time, or
    PyTorch's if ours is not in that record."""
    yield (
        f"{'step, milliseconds':<30} {'launches':>8} {'splits':>6} {'MB':>7} {'convs':>8} {'bytes':>7} {'gaps':>7}"
        f" {'predicted':>9} {'measured':>9} difference"
    )
    for net, batch_size in NETS:
        found = predict(net, batch_size, model, gpu, algo)
        key = f"step {net}-n{batch_size} bfloat16"
        cells = [f"{1e3 * found.seconds[name]:>7.2f}" for name in ("convolutions", "bytes", "launches")]
        line = f"{key.removeprefix('step '):<30} {found.counts.launches:>8} {found.counts.reductions:>6}"
        line += f" {found.counts.bytes / 1e6:>7.0f} {cells[0]:>8} {cells[1]} {cells[2]} {1e3 * found.total:>9.2f}"
        entry = next((e for data in reversed(records) for e in data["entries"] if e["key"] == key), None)
        mine, peer = (fastest_side(entry, role) if entry else None for role in ("ours", "peer"))
        if mine:
            line += f" {1e3 * mine['median']:>9.2f} {found.total / mine['median'] - 1:>+7.1%}"
        elif peer:
            line += f" {'none':>9} (PyTorch {peer['name']}: {1e3 * peer['median']:.2f})"
        else:
            line += f" {'none':>9}"
        yield line + (f"; {found.uncovered} of {found.convolutions} by their bytes" if found.uncovered else "")
    yield f"a gap of {1e6 * LAUNCH:g} us between small kernels is assumed: no record has measured one"
