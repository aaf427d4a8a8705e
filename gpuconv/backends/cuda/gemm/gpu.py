"""A GPU as the tuner and the prover see it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path

from gpuconv.backends.cuda.runtime.graph import capture_lock
from gpuconv.devices import gpu_name

_GATE_SECONDS = 0.2  # after this the gate opens even if not all runs are queued


class Gpu:
    """A GPU, given its index. device: its name in gpuconv, such as "cuda:0". model: NVIDIA's name for it. driver: the
    driver's version, on which proofs depend."""

    def __init__(self, index: int) -> None:
        import cupy

        self._cuda, self._device, self._capture_lock = cupy.cuda, cupy.cuda.Device(index), capture_lock(index)
        self.device = gpu_name(index)
        self.model: str = cupy.cuda.runtime.getDeviceProperties(index)["name"].decode()

    @functools.cached_property
    def driver(self) -> str:
        try:
            return Path("/proc/driver/nvidia/version").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return f"CUDA {self._cuda.runtime.driverGetVersion()}"

    def capturing(self) -> bool:
        """Whether launches are currently captured into a graph."""
        with self._device:
            return bool(self._cuda.get_current_stream().is_capturing())

    def seconds(self, run: Callable[[], None], count: int) -> float:
        """Device time of `count` runs. They begin when the device is idle, because other work would distort the time,
        and are queued behind a closed gate, so that the GPU does not wait for Python."""
        with self._capture_lock:
            self._device.synchronize()
        with self._device:
            stream, gate = self._cuda.get_current_stream(), threading.Event()
            begin, end = self._cuda.Event(), self._cuda.Event()
            stream.launch_host_func(lambda _: gate.wait(_GATE_SECONDS), None)
            try:
                begin.record()
                for _ in range(count):
                    run()
                end.record()
            finally:
                gate.set()
            end.synchronize()
            return 1e-3 * float(self._cuda.get_elapsed_time(begin, end))


class Emulated:
    """The emulated device in place of a GPU, for proofs that are requested explicitly."""

    device, model, driver = "emulated", "the emulated device", ""
