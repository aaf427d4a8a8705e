"""The kernels that a piece of code launches, how often, and their resources on a GPU."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from gpuconv import algorithms
from gpuconv.backends.cuda.analysis.resources import occupancy
from gpuconv.backends.cuda.gemm import tuner
from gpuconv.backends.cuda.runtime import nvrtc
from gpuconv.backends.cuda.runtime.kernel import Extent, Kernel
from gpuconv.devices import Device
from gpuconv.types import Record


@dataclass(frozen=True)
class Launch:
    """One launch. grid: the number of blocks. block: the number of threads in a block. shared: bytes of dynamic shared
    memory per block."""

    kernel: Kernel
    grid: int
    block: int
    shared: int


@contextmanager
def record_launches(
    *, execute: bool = True, visit: Callable[[Kernel, tuple[Any, ...]], object] | None = None
) -> Iterator[list[Launch]]:
    """A context that yields a list and adds to it every launch of gpuconv in this thread, on a GPU or emulated, except
    empty launches and those that time the candidates of "auto".

    execute=False: nothing is compiled or run, and outputs stay unwritten. So a net that would run for hours on the
    emulated device is listed at once.
    visit: called with each recorded launch's kernel and arguments.
    """
    global _launch, _contexts
    recorder = _Recorder(execute, visit, tuner.in_trial.get())
    own = _recorders()
    with _lock:  # the contexts of several threads may overlap without nesting
        if not _contexts:
            _launch, Kernel.__call__ = Kernel.__call__, _record  # type: ignore[method-assign, assignment]
        _contexts += 1
    own.append(recorder)
    try:
        yield recorder.found
    finally:
        own.remove(recorder)
        with _lock:
            _contexts -= 1
            if not _contexts:
                Kernel.__call__ = _launch  # type: ignore[method-assign]


@dataclass(eq=False)
class _Recorder:
    """One context of `record_launches`. in_trial: whether it began in a trial of the tuner."""

    execute: bool
    visit: Callable[[Kernel, tuple[Any, ...]], object] | None
    in_trial: bool
    found: list[Launch] = field(default_factory=list)


_lock = threading.Lock()
_contexts = 0  # open contexts of all threads; while there are any, `_record` replaces Kernel.__call__
_launch = Kernel.__call__
_of_thread = threading.local()


def _recorders() -> list[_Recorder]:
    """The recorders of this thread's open contexts, the outermost first."""
    found: list[_Recorder] = _of_thread.__dict__.setdefault("recorders", [])
    return found


def _record(kernel: Kernel, grid: Extent, block: Extent, *arguments: object, shared: int = 0) -> None:
    """Launch a kernel and add it to the recorders of this thread. A context that executes nothing hides the launch from
    those around it."""
    reached: list[_Recorder] = []
    for recorder in reversed(_recorders()):
        reached.append(recorder)
        if not recorder.execute:
            break
    else:
        _launch(kernel, grid, block, *arguments, shared=shared)
    blocks, threads = (math.prod(e) if isinstance(e, tuple) else e for e in (grid, block))
    for recorder in reversed(reached):
        if blocks and tuner.in_trial.get() == recorder.in_trial:
            recorder.found.append(Launch(kernel, blocks, threads, shared))
            if recorder.visit:
                recorder.visit(kernel, arguments)


def table(launches: Sequence[Launch], arch: str | None = None) -> list[Record]:
    """A JSON-serializable row for each distinct launch, in order: kernel, file, algorithm (None unless it computes a
    convolution or a matrix product), macros, number of launches, blocks, threads, and the proof of an algorithm that
    needed one.

    arch: an architecture such as "sm_90a". The rows then also have the kernel's registers, spilled bytes, shared memory
    and, for a known chip, occupancy. Kernels are compiled for `arch` if necessary."""
    return [_row(launch, count, arch) for launch, count in Counter(launches).items()]


def architecture(device: str) -> str:
    """The architecture for which the kernels of a CUDA device are compiled, such as "sm_90a"."""
    import cupy

    return nvrtc.architecture(cupy.cuda.Device(Device.named(device).index).compute_capability)


def _row(launch: Launch, count: int, arch: str | None) -> Record:
    module = launch.kernel.module
    row = {
        "kernel": launch.kernel.name,
        "file": module.path.name,
        "algorithm": algorithms.algorithm_of_launch(launch.kernel.name, module.defines),
        "macros": dict(module.defines),
        "launches": count,
        "blocks": launch.grid,
        "threads": launch.block,
    }
    row |= {"proof": launch.kernel.proof} if launch.kernel.proof else {}
    if arch is None:
        return row
    found = nvrtc.compile_cubin(module.path.stem, module.text, module.defines, arch).resources[launch.kernel.name]
    shared = found.static_shared + launch.shared
    row |= {"registers": found.registers, "spilled": found.spill_stores + found.spill_loads, "shared": shared}
    share = occupancy(arch, found.registers, shared, launch.block)
    return row if share is None else row | {"occupancy": share}
