"""Devices, streams, events and graphs, with CuPy's names."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

from tests.standin.machine import current
from tests.standin.queues import Capture, Queue, Wait, Work

_at: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()  # the streams by their addresses


class Device:
    """A GPU; inside its context it is this thread's current device."""

    def __init__(self, device: int | None = None) -> None:
        self.id = current().device if device is None else int(device)

    __hash__ = None  # type: ignore[assignment]  # as CuPy's

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __int__(self) -> int:
        return self.id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def __enter__(self) -> Device:
        machine = current()
        machine.thread.__dict__.setdefault("devices", []).append(machine.device)
        machine.device = self.id
        return self

    def __exit__(self, *_: object) -> None:
        current().device = current().thread.devices.pop()

    def use(self) -> None:
        current().device = self.id

    @property
    def pci_bus_id(self) -> str:
        return f"0000:{self.id:02X}:00.0"

    @property
    def compute_capability(self) -> str:
        return current().gpus[self.id]

    def synchronize(self) -> None:
        current().synchronize(self.id)


class Stream:
    """A stream of the device that was current at its creation. Inside its context it is that device's current stream.

    null: the legacy stream of whichever device is current when it is used.
    """

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        machine = current()
        self.device_id = -1 if null else machine.device
        self._queue = None if null else Queue(machine, machine.device, "non-blocking" if non_blocking else "blocking")
        self.ptr = 0 if null else next(each for each in itertools.count(0x1000, 8) if each not in _at)
        _at[self.ptr] = self

    @property
    def queue(self) -> Queue:
        return self._queue or current().legacy[current().device]

    def __enter__(self) -> Stream:
        machine = current()
        if self.device_id not in (-1, machine.device):
            raise RuntimeError(
                f"this stream belongs to device {self.device_id}, the current device is {machine.device}"
            )
        _stack(machine.device).append(self)
        machine.thread.__dict__.setdefault("entered", []).append(machine.device)
        return self

    def __exit__(self, *_: object) -> None:
        _stack(current().thread.entered.pop()).pop()

    def synchronize(self) -> None:
        self.queue.synchronize()

    def is_capturing(self) -> bool:
        return self.queue.captured is not None

    def begin_capture(self) -> None:
        self.queue.begin_capture()

    def end_capture(self) -> Graph:
        return Graph(self.queue.end_capture())

    def launch_host_func(self, callback: Callable[[Any], None], argument) -> None:
        self.queue.push(lambda: callback(argument))

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        if event.position is not None:
            self.queue.wait(*event.position, event.capture)


def queue_at(address: int) -> Queue:
    """The queue of the stream whose `ptr` is this address; 0 is the current device's legacy stream."""
    return _at[address].queue if address else current().legacy[current().device]


def _stack(device: int) -> list[Stream]:
    stacks = current().thread.__dict__.setdefault("streams", {})
    return stacks.setdefault(device, [])


def get_current_stream(device_id: int = -1) -> Stream:
    stack = _stack(current().device if device_id == -1 else device_id)
    return stack[-1] if stack else Stream(null=True)


class Event:
    """position: the queue, and how many pieces of its work come before the event; None until the event is recorded.
    capture: the capture that recorded the event, if there was one."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.position: Wait | None = None
        self.capture: Capture | None = None
        self.time = 0.0

    def record(self, stream: Stream | None = None) -> None:
        queue = (stream or get_current_stream()).queue
        self.position, self.capture = queue.record()
        self.time = queue.busy_until

    @property
    def done(self) -> bool:
        if self.position is None:
            return True
        queue, end = self.position
        with current().lock:
            if queue.hangs(end):
                return False
            queue.run(end)
        return current().time.perf_counter() >= self.time

    def synchronize(self) -> None:
        if self.position is not None:
            queue, end = self.position
            queue.run(end)
            current().sleep_until(self.time)


def get_elapsed_time(start: Event, end: Event) -> float:
    """The time between two events, in milliseconds."""
    return 1e3 * (end.time - start.time)


class Graph:
    def __init__(self, work: list[Work]) -> None:
        self._work = work

    def launch(self, stream: Stream | None = None) -> None:
        queue = (stream or get_current_stream()).queue
        for work in self._work:
            queue.push(work)
