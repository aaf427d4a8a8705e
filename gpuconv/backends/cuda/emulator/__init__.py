"""The emulated device: the same .cu files and launchers on the CPU, with checks for faults that a GPU hides.

It needs only a C++ compiler. `configure` chooses the order in which threads run and what is checked; see `Settings`.
"""

from gpuconv.backends.cuda.emulator.array import EmulatedArray, asarray, empty, zeros
from gpuconv.backends.cuda.emulator.banks import bank_conflicts
from gpuconv.backends.cuda.emulator.capture import HostAccessError, capture_launches, device_only, host_reads
from gpuconv.backends.cuda.emulator.cxx import address_environment
from gpuconv.backends.cuda.emulator.errors import EmulatorError, after_fault
from gpuconv.backends.cuda.emulator.settings import Settings, configure, settings
from gpuconv.backends.cuda.emulator.watch import ArgumentBytes, Touched, Writer, watch_writes

recorded = record_launches = capture_launches  # the former names; not `profiling.launches.record_launches`
watched = watch_writes

__all__ = [
    "ArgumentBytes",
    "EmulatedArray",
    "EmulatorError",
    "HostAccessError",
    "Settings",
    "Touched",
    "Writer",
    "address_environment",
    "after_fault",
    "asarray",
    "bank_conflicts",
    "capture_launches",
    "configure",
    "device_only",
    "empty",
    "host_reads",
    "record_launches",
    "recorded",
    "settings",
    "watch_writes",
    "watched",
    "zeros",
]
