"""Devices, and the backend of an array.

A device is named "numpy" (or "cpu"), "cuda" (or "cuda:1", ...), "emulated", or "auto". An array's type determines its
backend: NumPy arrays belong to the CPU backend (within `oracle()`, to the reference), and CuPy arrays and emulated
arrays belong to the CUDA backend. Nothing is moved silently: a call with arrays of two devices raises TypeError.

`dispatch` finds the backend that serves a call; `adapters` opens devices; `arrays` creates and moves arrays. Importing
this package loads no CUDA library; each backend is imported on the first use of its name or its arrays.
"""

from gpuconv.backends.adapters import algorithms, choose, describe, identity, recorder, resolve, same_bits, synchronize
from gpuconv.backends.arrays import asarray, assign, constant, current_device_of, empty, host_copies, to_numpy, zeros
from gpuconv.backends.dispatch import backend_of, oracle, watch_calls
from gpuconv.devices import DeviceError, address, device_of

fixed_parts, watched = same_bits, watch_calls  # the former names

__all__ = [
    "DeviceError",
    "address",
    "algorithms",
    "asarray",
    "assign",
    "backend_of",
    "choose",
    "constant",
    "current_device_of",
    "describe",
    "device_of",
    "empty",
    "fixed_parts",
    "host_copies",
    "identity",
    "oracle",
    "recorder",
    "resolve",
    "same_bits",
    "synchronize",
    "to_numpy",
    "watch_calls",
    "watched",
    "zeros",
]
