"""Opens a device by its name, chooses one, and says what it is and which algorithms it runs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from gpuconv.devices import Device, DeviceError, SettingError
from gpuconv.dtypes import as_dtype
from gpuconv.problems import PLAIN, Conv2dProblem, Epilogue
from gpuconv.text.plain_text import one_line

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

    from gpuconv.backends.cuda.runtime.graph import CudaRecorder, EmulatedRecorder


def adapter_of(device: str) -> Any:  # noqa: ANN401 - each device's adapter has methods that others lack
    """The adapter that creates arrays on a device. Raises as `resolve` does."""
    named = Device.named(device)
    if named.automatic:
        return _choose_device()[0]
    if named.on_gpu:
        from gpuconv.backends.cuda.adapter import CudaDevice

        return CudaDevice(named.index)
    if named.emulated:
        from gpuconv.backends.cuda.emulated_adapter import EmulatedDevice

        return EmulatedDevice()
    from gpuconv.backends.cpu.adapter import NumpyDevice

    return NumpyDevice()


def resolve(device: str) -> str:
    """The full name of a device: "auto" becomes the device of `choose`, "cuda" becomes "cuda:0", "cpu" becomes "numpy".

    Raises ValueError for an unknown name, and names the nearest known one. Raises DeviceError for a device that is not
    available, and says what is missing, and for an invalid value of an environment variable that the device reads.
    """
    return adapter_of(device).name


def choose(device: str = "auto") -> tuple[str, str]:
    """The full name of a device, and in one line why it was chosen. "auto" is the first CUDA GPU if one works, else
    NumPy. Raises as `resolve` does; an invalid setting of the GPU is raised too, and does not mean NumPy."""
    if not Device.named(device).automatic:
        return resolve(device), "as you asked"
    chosen, why = _choose_device()
    return chosen.name, one_line(why)


def _choose_device() -> tuple[Any, str]:
    try:
        device = adapter_of("cuda")
    except SettingError:
        raise
    except DeviceError as error:
        return adapter_of("numpy"), f"no CUDA device: {error}"
    return device, device.description


def describe(device: str) -> str:
    """A one-line description of a device. Raises as `resolve` does."""
    return adapter_of(device).description


def algorithms(
    device: str,
    problem: Conv2dProblem,
    dtype: DTypeLike,
    *,
    algo: str = "auto",
    tf32: bool = False,
    epilogue: Epilogue = PLAIN,
) -> dict[str, str]:
    """The name of a convolution's algorithm for each of "fprop", "dgrad" and "wgrad" on a device; {} on "numpy", which
    has only one. On a GPU "auto" is the fastest measured one, or the cost model's choice if nothing was measured yet.
    Each name is a `gpuconv.algorithms.Choice`: a string that also holds the GPU's proof, if "auto" chose an algorithm
    that needs one (docs/prover.md). Raises as `resolve` does. On a device that runs kernels, also raises ValueError for
    an algorithm that does not serve the problem."""
    device = resolve(device)
    if not Device.named(device).runs_kernels:
        return {}
    from gpuconv.backends.cuda.ops.conv import chosen_algorithms

    return chosen_algorithms(device, problem, epilogue, as_dtype(dtype), algo=algo, tf32=tf32)


def synchronize(device: str = "numpy") -> None:
    """Wait until everything launched on a device is done; NumPy runs synchronously, so this does nothing there."""
    adapter_of(device).synchronize()


def same_bits(device: str) -> AbstractContextManager[None]:
    """A context in which ops give reproducible bits: on a GPU, the same bits on every GPU of one compute capability;
    on "numpy", the same bits on any number of cores, if threadpoolctl can set the threads of NumPy's BLAS. On
    "emulated" it does nothing: the order of a kernel's sums depends only on the shapes.

    Threads that you start are outside of the context, unless they run in a copy of it (`contextvars.copy_context`). On
    "numpy" their ops wait until the context ends, so do not wait for such a thread within the context."""
    adapter = adapter_of(device)
    return adapter.same_bits() if hasattr(adapter, "same_bits") else nullcontext()


def identity(device: str) -> str:
    """The full name of a device, and what determines the bits of its results besides gpuconv and the processor: for
    "numpy", NumPy's version and the number of threads; for any other device, its description."""
    adapter = adapter_of(device)
    details = adapter.identity() if hasattr(adapter, "identity") else adapter.description
    return f"{adapter.name}: {details}"


def recorder(device: str) -> EmulatedRecorder | CudaRecorder:
    """The recorder that captures and replays work on a CUDA device or the emulated one (`cuda.runtime.graph`)."""
    return adapter_of(device).recorder()
