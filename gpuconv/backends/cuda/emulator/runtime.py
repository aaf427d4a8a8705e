"""The emulator's runtime library (runtime.h), and the request for a launch that it takes."""

from __future__ import annotations

import ctypes
import functools

from gpuconv.backends.cuda.emulator import cxx


class Region(ctypes.Structure):
    """An array that a launch takes as an argument."""

    _fields_ = [("name", ctypes.c_char_p), ("base", ctypes.c_void_p), ("bytes", ctypes.c_size_t)]


class LaunchRequest(ctypes.Structure):
    """The struct `Launch` of launch.h, field by field."""

    _fields_ = [
        ("entry", ctypes.c_void_p),
        ("arguments", ctypes.c_void_p),
        ("kernel", ctypes.c_char_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("cluster", ctypes.c_uint),
        ("shared_bytes", ctypes.c_size_t),
        ("seed", ctypes.c_uint64),
        ("workers", ctypes.c_int),
        ("checked", ctypes.c_int),
        ("region_count", ctypes.c_int),
        ("regions", ctypes.POINTER(Region)),
    ]


@functools.cache
def runtime() -> ctypes.CDLL:
    """The runtime library, compiled on first use. Raises HostCompilerError if that fails."""
    path = cxx.compile_library("runtime", '#include "runtime.h"\n', once=True)  # compiling takes seconds
    library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)  # so that kernels find the runtime's functions
    library.gpuconv_allocate.argtypes = [ctypes.c_size_t, ctypes.c_int]
    library.gpuconv_allocate.restype = ctypes.c_void_p
    library.gpuconv_release.argtypes = [ctypes.c_void_p]
    library.gpuconv_release.restype = None
    library.gpuconv_launch.argtypes = [ctypes.POINTER(LaunchRequest), ctypes.c_char_p, ctypes.c_size_t]
    library.gpuconv_launch.restype = ctypes.c_int
    library.gpuconv_count_banks.argtypes = [ctypes.c_int]
    library.gpuconv_count_banks.restype = None
    library.gpuconv_bank_counts.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint64)]
    library.gpuconv_bank_counts.restype = None
    library.gpuconv_watch.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    library.gpuconv_watch.restype = None
    library.gpuconv_watched.argtypes = []
    library.gpuconv_watched.restype = ctypes.c_char_p
    return library
