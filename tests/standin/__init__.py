"""A stand-in for CuPy in host memory that enforces CUDA's rules, to test host code that otherwise runs only on a GPU.

    with standin.installed(gpus=("90", "80"), schedule="late") as machine:
        y = gpuconv.ops.relu(gpuconv.asarray(x, "cuda:1"))

Kernels run in gpuconv's emulator. Where CUDA leaves the order of work open, the schedule decides. "late" runs the work
of a stream, or of a branch of a graph, only when something waits for it. "early" runs it as soon as it is queued.
Correct code gives the same numbers with both. The stand-in enforces these rules, and test_rules.py tests each of them:

- arrays and streams belong to the device that was current at their creation. While another device is current, a stream
  cannot be entered, and an array cannot be filled, assigned or copied;
- a new stream has the address of one that no longer exists, if there is one;
- legacy, blocking and non-blocking streams wait for one another as in the CUDA Programming Guide, "Default Stream";
- what CUDA forbids during a capture is refused or invalidates the capture; a graph keeps no array alive;
- a pool reuses a freed block at once for the stream that allocated it, and for no other stream. Outside of a capture
  the block is poisoned first;
- a kernel runs only on GPUs of the compute capability that it was compiled for, or of a higher one with the same major
  number, and within their shared memory;
- events measure the GPU's time. The kernels and copies of a stream run one after another. Each takes the time that the
  machine's `kernel_seconds` or `copy_rate` gives.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tests.standin import arrays, driver, memory, modules, nccl, streams
from tests.standin.errors import CUDARuntimeError
from tests.standin.machine import Machine, use


def module(machine: Machine) -> types.ModuleType:
    """A module with the names of CuPy that gpuconv uses."""
    cupy = types.ModuleType("cupy")
    for name in ("ndarray", "empty", "zeros", "ones", "asarray", "asnumpy", "from_dlpack"):
        setattr(cupy, name, getattr(arrays, name))
    vars(cupy).update(
        RawModule=modules.RawModule,
        uint8=np.uint8,
        float32=np.float32,
        get_default_memory_pool=memory.get_default_memory_pool,
    )
    names = ("Device", "Stream", "Event", "get_current_stream", "get_elapsed_time")
    cupy.cuda = types.SimpleNamespace(
        **{name: getattr(streams, name) for name in names},
        Memory=memory.Memory,
        MemoryPointer=memory.MemoryPointer,
        MemoryPool=memory.MemoryPool,
        using_allocator=memory.using_allocator,
        set_allocator=memory.set_allocator,
        nccl=nccl.module(machine),
        runtime=types.SimpleNamespace(
            CUDARuntimeError=CUDARuntimeError,
            getDeviceCount=lambda: len(machine.gpus),
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 13020,
            getDevice=lambda: machine.device,
            getDeviceProperties=machine.properties,
        ),
    )
    return cupy


@contextlib.contextmanager
def installed(gpus: Sequence[str] = ("90",), *, schedule: str = "late") -> Iterator[Machine]:
    """Within this context `import cupy` gives the stand-in, on a machine with these GPUs.

    gpus: the compute capability of each. schedule: "late" or "early". At the end all work is run, so that a fault in it
    is raised here.
    """
    from gpuconv.backends.cuda.runtime import nvrtc, tensor_map

    machine = Machine(tuple(gpus), schedule)
    before, stand_in = (nvrtc.compile_cubin, nvrtc.find_cubin, tensor_map.driver), module(machine)
    with use(machine), replaced({"cupy": stand_in, "cupy.cuda.nccl": stand_in.cuda.nccl}):
        nvrtc.compile_cubin = nvrtc.find_cubin = modules.compile_cubin
        tensor_map.driver = lambda: driver
        clear_caches()
        try:
            yield machine
            machine.run_all()
        finally:
            nvrtc.compile_cubin, nvrtc.find_cubin, tensor_map.driver = before
            clear_caches()


@contextlib.contextmanager
def functions_restored() -> Iterator[None]:
    """Fail if gpuconv does not have its own functions again at the end of this context."""
    from gpuconv.backends.cuda.runtime import nvrtc, tensor_map
    from gpuconv.profiling import peaks, timer

    replaced_functions = [  # by `installed` or by `made_up_times.installed`
        (nvrtc, "compile_cubin"),
        (nvrtc, "find_cubin"),
        (tensor_map, "driver"),
        (peaks, "_on_gpu"),
        (timer, "CudaTimer"),
    ]
    before = [getattr(module, name) for module, name in replaced_functions]
    yield
    assert [getattr(module, name) for module, name in replaced_functions] == before


@contextlib.contextmanager
def replaced(modules: dict[str, Any]) -> Iterator[None]:
    """Within this context `import` finds these modules."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def clear_caches() -> None:
    """Clear gpuconv's caches that depend on the machine."""
    from gpuconv import losses
    from gpuconv.backends.cuda.gemm import tuner
    from gpuconv.backends.cuda.ops import block_counters
    from gpuconv.backends.cuda.runtime import capability, graph, kernel, parallel_streams, replaced_files, tensor_map
    from gpuconv.verify import algorithm_check

    of_streams: tuple[Any, ...] = (parallel_streams._stream, graph._capture_stream)
    of_devices: tuple[Any, ...] = (capability._capability, tuner._gpu, block_counters._of_stream, losses._on_device)
    for cache in (*of_streams, *of_devices, kernel._load, tensor_map._encoded, algorithm_check.guards_of_gpus):
        cache.cache_clear()
    replaced_files.forget()
