"""Timing of calls on a device: perf_counter for synchronous calls, CUDA events for calls that only queue work.

A call receives the number of its round, so that it can rotate among input sets:

    timer = open_timer("cuda:0")
    samples = timer.burst(lambda round: work(sets[round % len(sets)]), seconds=0.05)

A burst gives samples in seconds by column:

wall   a call and the wait for it; on a GPU, the time of several queued calls, divided by their number
host   only on a GPU: the time until a call returned, which is what queueing it cost the processor
cold   only on a GPU: device time alone, with rotating input sets
warm   only on a GPU: device time alone, with the same input set every time
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from gpuconv import backends
from gpuconv.devices import Device

Mark = Any  # a time in seconds, or CuPy's event

Call = Callable[[int], object]
Samples = dict[str, list[float]]

MAX_SAMPLES = 40  # the most samples per column in a burst
_DELAY_BYTES = 1 << 29  # the bytes of a copy that keeps the GPU busy; more than the GPU's cache holds
_QUEUED_SECONDS = 2.5e-3  # seconds of host work that is queued at once: some 800 launches, too few to block the host


class Timer(Protocol):
    """Times calls on one device."""

    def burst(self, call: Call, seconds: float) -> Samples:
        """Time a call at least three times, after one call that is not timed. Stop after about `seconds`."""
        ...

    def hold(self, seconds: float) -> None:
        """Keep the device busy long enough for the host to queue the work that follows, so that it runs without waiting
        for the host."""
        ...

    def mark(self) -> Mark:
        """A point in the device's time, at which all earlier work is done and no later work has begun."""
        ...

    def seconds(self, marks: Sequence[Mark]) -> list[float]:
        """The seconds from the first mark to each of the marks."""
        ...


class CpuTimer:
    def burst(self, call: Call, seconds: float) -> Samples:
        call(0)
        times: list[float] = []
        while len(times) < 3 or (sum(times) < seconds and len(times) < MAX_SAMPLES):
            start = time.perf_counter()
            call(len(times))
            times.append(time.perf_counter() - start)
        return {"wall": times}

    def hold(self, seconds: float) -> None:
        """Does nothing: there is no queue, because a call returns when it is done."""

    def mark(self) -> float:
        return time.perf_counter()

    def seconds(self, marks: Sequence[float]) -> list[float]:
        return [mark - marks[0] for mark in marks]


class CudaTimer:
    """Measures device time without the host's: calls are queued behind a large copy, so that the GPU never waits for
    Python.

    That copy also evicts the data of earlier calls from the cache. The timer needs CuPy; it times work of other
    libraries too if they use the default stream.
    """

    def __init__(self, device: str) -> None:
        import cupy

        self._cupy, self._device = cupy, cupy.cuda.Device(Device.named(device).index)
        with self._device:
            self._from, self._to = (cupy.ones(_DELAY_BYTES, cupy.uint8) for _ in range(2))
            self._delay(2)
            self._device.synchronize()
            start = time.perf_counter()
            self._delay(8)
            self._device.synchronize()
            self._delay_seconds = (time.perf_counter() - start) / 8

    def burst(self, call: Call, seconds: float) -> Samples:
        with self._device:
            call(0)
            self._device.synchronize()
            host, wall = self._time_call(call)
            count = max(3, min(MAX_SAMPLES, int(seconds / 3 / max(wall, 1e-6))))
            samples: Samples = {"wall": [], "host": []}
            for _ in range(3):
                samples["host"].append(self._time_call(call)[0])
                samples["wall"].append(self._mean_seconds(call, count))
            queued = max(1, min(count, int(_QUEUED_SECONDS / max(host, 1e-7))))
            samples["cold"] = self._device_seconds(call, queued, host)
            samples["warm"] = self._device_seconds(lambda _: call(0), queued, host)
        return samples

    def hold(self, seconds: float) -> None:
        with self._device:
            self._delay(1 + math.ceil(seconds / self._delay_seconds))

    def mark(self) -> Mark:
        with self._device:
            event = self._cupy.cuda.Event()
            event.record()
        return event

    def seconds(self, marks: Sequence[Mark]) -> list[float]:
        for mark in marks:
            mark.synchronize()
        return [1e-3 * float(self._cupy.cuda.get_elapsed_time(marks[0], mark)) for mark in marks]

    def _time_call(self, call: Call) -> tuple[float, float]:
        """The seconds until a call returned, and until its work was done."""
        start = time.perf_counter()
        call(0)
        queued = time.perf_counter()
        self._device.synchronize()
        return queued - start, time.perf_counter() - start

    def _mean_seconds(self, call: Call, count: int) -> float:
        """The seconds of a call, as the mean over `count` calls that are queued at once."""
        start = time.perf_counter()
        for number in range(count):
            call(number)
        self._device.synchronize()
        return (time.perf_counter() - start) / count

    def _device_seconds(self, call: Call, count: int, host: float) -> list[float]:
        """The seconds of device time of each of `count` calls. host: the seconds that queueing one of them takes."""
        marks = [self._cupy.cuda.Event() for _ in range(count + 1)]
        self.hold(1.5 * (count + 1) * host)  # half as long again, in case queueing is slower this time
        call(count)  # not timed; so the first timed call finds the cache as a call leaves it, not as the copy does
        marks[0].record()
        for number, mark in enumerate(marks[1:]):
            call(number)
            mark.record()
        marks[-1].synchronize()
        elapsed = self._cupy.cuda.get_elapsed_time
        return [1e-3 * float(elapsed(a, b)) for a, b in itertools.pairwise(marks)]

    def _delay(self, copies: int) -> None:
        for _ in range(copies):
            self._to.data.copy_from_device_async(self._from.data, _DELAY_BYTES, self._cupy.cuda.get_current_stream())


def current_device(device: str) -> AbstractContextManager[object]:
    """The context in which a CUDA device is the current one, for CuPy and PyTorch alike; for other devices it does
    nothing."""
    named = Device.named(device)
    if not named.on_gpu:
        return nullcontext()
    import cupy

    return cupy.cuda.Device(named.index)


def open_timer(device: str) -> Timer:
    """The timer of a device. Raises ValueError for the emulated device, whose speed means nothing."""
    device = backends.resolve(device)
    named = Device.named(device)
    if named.emulated:
        raise ValueError("the emulated device checks kernels and says nothing about their speed: time numpy or cuda")
    return CudaTimer(device) if named.on_gpu else CpuTimer()
