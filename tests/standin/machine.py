"""The simulated machine: its GPUs, its time, and what a test can set and count."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

from tests.standin.errors import CUDARuntimeError
from tests.standin.queues import Queue

# The most bytes of shared memory that a block may opt in to, by compute capability.
SHARED_MEMORY = {
    "75": 64 * 1024,
    "80": 163 * 1024,
    "86": 99 * 1024,
    "87": 163 * 1024,
    "89": 99 * 1024,
    "90": 227 * 1024,
    "100": 227 * 1024,
    "120": 99 * 1024,
}


class SimulatedTime:
    """Replaces the module `time`; its time advances only in `sleep`."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Machine:
    """A simulated machine. gpus: the compute capability of each. launches: (kernel, device) in the order of the calls.

    kernel_seconds, copy_rate: how long a kernel takes, and how many bytes a second a copy on a GPU moves.
    time: the module `time`, or a `SimulatedTime`.
    """

    def __init__(self, gpus: tuple[str, ...], schedule: str) -> None:
        if schedule not in ("early", "late"):
            raise ValueError(f"a schedule is early or late, received {schedule!r}")
        self.gpus, self.schedule = gpus, schedule
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)  # notified when an NCCL call advances or a rank joins
        self.queues: list[Queue] = []
        self.launches: list[tuple[str, int]] = []
        self.property_calls = 0
        self.allocated = 0  # bytes
        self.kernel_seconds, self.copy_rate = 0.0, float("inf")  # neither takes time
        self.time = time
        self.legacy = [Queue(self, device, "legacy") for device in range(len(gpus))]
        # Its attributes, set on first use: device, the thread's current GPU; runs, the queue whose work it runs.
        self.thread = threading.local()
        self.nccl_worlds: list[Any] = []
        self.hung: set[int] = set()  # hanging GPUs

    @property
    def device(self) -> int:
        """The current device of this thread."""
        return getattr(self.thread, "device", 0)

    @device.setter
    def device(self, index: int) -> None:
        if not 0 <= index < len(self.gpus):
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self.thread.device = index

    def sleep_until(self, moment: float) -> None:
        if (remaining := moment - self.time.perf_counter()) > 0:
            self.time.sleep(remaining)

    def properties(self, index: int) -> dict[str, Any]:
        self.property_calls += 1
        return {"name": f"Stand-in {self.gpus[index]}".encode()}

    def synchronize(self, device: int) -> None:
        """Wait for all streams of a device, as cudaDeviceSynchronize does; this invalidates a capture there."""
        for queue in [queue for queue in self.queues if queue.device == device]:
            queue.synchronize()

    def run_all(self) -> None:
        for queue in list(self.queues):
            queue.run(queue.end)


_machine: Machine | None = None


def current() -> Machine:
    assert _machine is not None, "the stand-in is used outside of standin.installed()"
    return _machine


@contextlib.contextmanager
def use(machine: Machine) -> Iterator[None]:
    global _machine
    _machine = machine
    try:
        yield
    finally:
        _machine = None
