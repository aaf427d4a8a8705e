"""Profile of a training step: time, work and launches of each layer and direction.

found = profile(models.build("tiny-vgg"), batch_size=128)
[(row.name, row.direction, row.seconds) for row in found.rows]
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import numpy as np

from gpuconv import backends
from gpuconv.arguments import integer
from gpuconv.backends.cuda.runtime import nvrtc
from gpuconv.devices import Device
from gpuconv.layers import Flatten, Input, Layer, Sequential
from gpuconv.layers.base import expect_built
from gpuconv.layers.layer_call import listen
from gpuconv.layers.sequential import runs_of
from gpuconv.names import canonical
from gpuconv.profiling import launches, work
from gpuconv.profiling.timer import Mark, Timer, open_timer
from gpuconv.profiling.work import Work
from gpuconv.training import LossScale, Trainer
from gpuconv.types import Record

_WITHOUT_WORK = (Input, Flatten, Sequential)  # they pass on or reshape a volume, or only contain layers


@dataclass
class Span:
    """A part of the step between two marks. layer: None if it belongs to no layer."""

    name: str
    direction: str
    layer: Layer | None
    parent: Span | None
    begin: Mark = None
    end: Mark = None
    kept: int = 0  # bytes that a layer's forward kept for backward


class Spans:
    """Listens to a net's layers (`gpuconv.layers.listen`) and marks where each begins and ends."""

    def __init__(self, mark: Callable[[], object]) -> None:
        self.all: list[Span] = []
        self._open: list[Span | None] = [None]
        self._mark = mark

    @contextmanager
    def span(self, name: str, direction: str = "", layer: Layer | None = None) -> Iterator[None]:
        span = Span(name, direction, layer, self._open[-1], self._mark())
        self.all.append(span)
        self._open.append(span)
        yield
        if layer is not None:
            span.kept = sum(value.nbytes for value in layer.kept if hasattr(value, "nbytes"))
        span.end = self._mark()
        self._open.pop()

    def of_layer(self, layer: Layer, direction: str) -> AbstractContextManager[None]:
        return self.span(layer.path, direction, layer)


@dataclass(frozen=True)
class Row:
    """One layer and direction; or, with the direction "", the loss, the metrics or the update. The name of the update's
    row is that of the optimizer.

    seconds: the median over the steps, not counting inner layers; None on the emulated device. launches: a row of
    `launches.table` for each kernel; empty on NumPy.
    """

    name: str
    direction: str
    work: Work
    seconds: float | None
    launches: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class Profile:
    """The profile of a step. rows: in execution order. timeline: (name, direction, begin, end) of the step with the
    median time, in seconds from its start; an inner layer lies within its outer layer. arch: the architecture for which
    the kernels were compiled to get their registers; None if there are no kernels, or if their registers are unknown.
    unknown: the reason why the registers are unknown, or None."""

    device: str
    precision: str
    batch_size: int
    rows: list[Row]
    timeline: list[tuple[str, str, float, float]]
    arch: str | None = None
    unknown: str | None = None

    @property
    def total(self) -> Row:
        """The sum over all rows."""
        timed = [row.seconds for row in self.rows if row.seconds is not None]
        done = sum((row.work for row in self.rows), Work(0.0, 0.0))
        return Row("step", "", done, sum(timed) if timed else None)

    def trace(self) -> bytes:
        """The timeline in the Trace Event Format, which chrome://tracing and ui.perfetto.dev open."""
        about = {"name": "process_name", "ph": "M", "pid": 0, "tid": 0, "args": {"name": f"gpuconv on {self.device}"}}
        rows = {(row.name, row.direction): row for row in self.rows}
        events = [
            {
                "name": f"{name}.{direction}" if direction else name,
                "cat": direction or "step",
                "ph": "X",
                "pid": 0,
                "tid": 0,
                "ts": round(1e6 * begin, 3),
                "dur": round(1e6 * (end - begin), 3),
                "args": _arguments(rows.get((name, direction))),
            }
            for name, direction, begin, end in self.timeline
        ]
        return json.dumps({"traceEvents": [about, *events], "displayTimeUnit": "ms"}).encode()


def _arguments(row: Row | None) -> Record:
    if row is None:
        return {}
    kernels = {"kernels": [kernel["kernel"] for kernel in row.launches]} if row.launches else {}
    return {"flops": row.work.flops, "bytes": row.work.bytes} | kernels


def profile(
    net: Sequential, batch_size: int = 128, *, steps: int = 10, fuse: bool | None = None, arch: str = "sm_90a"
) -> Profile:
    """Train a built net for some steps on random images, with SGD and momentum, and profile them.

    batch_size: the number of images in a step. fuse: as in `Trainer`. steps: the number of timed steps, after two
    untimed ones. arch: for the emulated device, the architecture for which kernels are compiled to get registers and
    occupancy. On the emulated device nothing is run or timed. Raises TypeError if `net` is not a net or a number is not
    an integer; RuntimeError if the net is not built or its weights are not initialized; ValueError if a number is below
    1, the architecture is unknown, or the net has no trained parameters.
    """
    steps, arch = integer("steps", steps, 1), canonical("architecture", arch, nvrtc.known_architectures())
    step = ProfiledStep(net, integer("batch_size", batch_size, 1), fuse)
    emulated = Device.named(net.device).emulated
    with launches.record_launches(execute=not emulated) as found:
        spans = step(Spans(lambda: len(found)))
    timed = [] if emulated else _time_steps(step, open_timer(net.device), steps)
    seconds = [statistics.median(each) for each in zip(*map(_own_seconds, timed))] or [None] * len(spans)
    compiled_arch, unknown = None, None
    if found:
        compiled_arch, unknown = _compilable(arch if emulated else launches.architecture(net.device))
    rows = [
        Row(span.name, span.direction, step.work(span), each, launches.table(own, compiled_arch))
        for span, each, own in zip(spans, seconds, _own_launches(spans, found), strict=True)
        if span.parent is not None and not isinstance(span.layer, _WITHOUT_WORK)
    ]
    return Profile(net.device, net.precision, batch_size, rows, _timeline(timed), compiled_arch, unknown)


class ProfiledStep:
    """A `Trainer`'s step, with each part in a span."""

    def __init__(self, net: Sequential, batch_size: int, fuse: bool | None) -> None:
        expect_built(net)
        input_shape, output_shape = net.input_shape or (), net.output_shape or ()
        rng = np.random.default_rng(0)
        self.net, self.batch_size, self.classes = net, batch_size, output_shape[-1]
        scale = LossScale(start=1.0) if net.precision == "float16" else None  # no update is skipped
        self.trainer = Trainer(net, "sgd", lr=1e-6, momentum=0.9, loss_scale=scale, fuse=fuse)
        images = rng.standard_normal((batch_size, *input_shape), np.float32).astype(net.dtype)
        self.x = backends.asarray(images, net.device)
        self.y = backends.asarray(rng.integers(0, self.classes, batch_size), net.device)
        # The first trained layer. Its backward does not compute the gradient of its input.
        self.first = next(layer for layer in self.trainer.trained.walk() if layer.variables and layer.trainable)
        # Layers into whose output the layer below writes directly, which saves a copy that `work.of_layer` would count.
        self.holding = {layer for run in runs_of(self.trainer.trained) for layer in run[1:]}

    def __call__(self, spans: Spans) -> list[Span]:
        self.trainer.optimizer.advance()
        with listen(spans.of_layer):
            self.trainer.step(self.x, self.y, spans.span)
        kept = {span.layer: span.kept for span in spans.all if span.direction == "forward"}
        for span in spans.all:
            span.kept = kept.get(span.layer, 0)
        return spans.all

    def work(self, span: Span) -> Work:
        if span.layer is not None:
            grad = self.first not in span.layer.walk()
            return work.of_layer(
                span.layer,
                span.direction,
                self.batch_size,
                kept=span.kept,
                input_grad=grad,
                holds_input=span.layer in self.holding,
            )
        scores = self.batch_size * self.classes * self.net.dtype.itemsize
        if span.name == "loss":
            return Work(0.0, float(2 * scores + self.y.nbytes))
        if span.name == "metrics":
            return Work(0.0, float(scores + self.y.nbytes + 2 * 4 * 8))  # four sums
        return work.of_update(self.trainer.optimizer, self.net.params(), 2 if self.trainer.loss_scale else 1)


def _time_steps(step: ProfiledStep, timer: Timer, steps: int) -> list[list[Span]]:
    """The spans of each step, marked in seconds from its start."""
    found, host = [], 0.0
    for number in range(steps + 1):  # the first step warms up
        timer.hold(1.5 * host)  # 1.5 times as long as the last step took to queue, in case this one takes longer
        start = time.perf_counter()
        spans = step(Spans(timer.mark))
        host = time.perf_counter() - start
        seconds = timer.seconds([mark for span in spans for mark in (span.begin, span.end)])
        for span, begin, end in zip(spans, seconds[::2], seconds[1::2]):
            span.begin, span.end = begin, end
        if number:
            found.append(spans)
    return found


def _own_seconds(spans: list[Span]) -> list[float]:
    """The seconds of each span, not counting the spans inside it."""
    own = {id(span): span.end - span.begin for span in spans}
    for span in spans:
        if span.parent is not None:
            own[id(span.parent)] -= span.end - span.begin
    return list(own.values())


def _own_launches(spans: list[Span], found: list[launches.Launch]) -> list[list[launches.Launch]]:
    """The launches of each span, not counting the spans inside it: a launch belongs to the span that was entered
    last."""
    owner: dict[int, Span] = {}
    for span in spans:
        owner |= dict.fromkeys(range(span.begin, span.end), span)
    return [[launch for number, launch in enumerate(found) if owner.get(number) is span] for span in spans]


def _timeline(timed: list[list[Span]]) -> list[tuple[str, str, float, float]]:
    if not timed:
        return []
    middle = sorted(timed, key=lambda spans: spans[0].end)[(len(timed) - 1) // 2]
    return [(span.name, span.direction, span.begin, span.end) for span in middle]


def _compilable(arch: str) -> tuple[str | None, str | None]:
    """The architecture, or None and the reason why this machine cannot compile for it."""
    try:
        nvrtc.toolkit()
    except nvrtc.CompileError as error:
        return None, str(error)
    return arch, None
