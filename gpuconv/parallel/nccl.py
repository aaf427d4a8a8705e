"""Ranks with a GPU each: arrays are summed by NCCL through CuPy, messages go through MPI or TCP."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from gpuconv import backends
from gpuconv.arguments import positive
from gpuconv.devices import Device, gpu_name
from gpuconv.parallel import mpi, tcp
from gpuconv.parallel.ranks import ParallelError, Ranks, host, number_in_environment
from gpuconv.parallel.tree import collect, sum_along_tree
from gpuconv.types import Array

if TYPE_CHECKING:
    import cupy

T = TypeVar("T")

NAP = 50e-6  # seconds between queries of a GPU
GRACE = 10.0  # seconds in which a GPU has to end its communication, once the communicator is aborted


class NCCL(Ranks):
    """The processes that mpiexec started, or that environment variables describe, as those of torchrun do (RANK,
    WORLD_SIZE, MASTER_ADDR, MASTER_PORT), each with a GPU of its own.

    Sums run on the current stream, so they can be captured as a part of a CUDA graph.

    Args:
        time_limit: The seconds that another rank may take to answer, above 0. A GPU may take half that time for the
            work between two readings of the metrics.
        messages: Ranks of the same processes that exchange messages on the host, over MPI or TCP; by default the kind
            that fits how the processes were started.

    Raises ValueError for a time limit that is infinite, NaN or not above 0, and for a variable LOCAL_RANK that is not a
    whole number; TypeError for a time limit that is not a number.
    """

    def __init__(self, time_limit: float = 300.0, messages: Ranks | None = None) -> None:
        local_rank = number_in_environment("LOCAL_RANK") if os.environ.get("LOCAL_RANK") else None
        self.time_limit = positive("time_limit", time_limit)
        self.messages = messages or _host_ranks(self.time_limit)
        self.rank, self.size, self.sent = self.messages.rank, self.messages.size, 0
        nodes = self.messages.gather(host())
        self._local_rank = nodes[: self.rank].count(nodes[self.rank]) if local_rank is None else local_rank
        self._nccl: Any = None  # CuPy's module of NCCL
        self._communicator: Any = None
        self._gpu: Device | None = None
        self._side_stream: Any = None  # the stream for sums that start during backward

    @property
    def device(self) -> str:
        """This rank's GPU: the ranks on a machine take its GPUs in order."""
        backends.resolve("cuda")
        import cupy

        return gpu_name(self._local_rank % cupy.cuda.runtime.getDeviceCount())

    def own_device(self, device: str) -> str:
        return self.device if Device.named(device).any_gpu else device

    def begin(self, device: str) -> None:
        named = Device.named(device)
        if not named.on_gpu:
            raise ValueError(f"NCCL sums arrays of GPUs, and the net is on {device}; parallel='mpi' sums arrays there")
        if self.size == 1:
            return
        if self._gpu is not None:
            if named != self._gpu:
                known = gpu_name(self._gpu.index)
                raise ValueError(f"these ranks sum arrays on {known} already, received a net on {device}")
            return
        import cupy

        gpu = cupy.cuda.Device(named.index)
        self._expect_own_gpus(f"{device} of {host()} ({gpu.pci_bus_id})")
        library = _library()
        with gpu:
            identifier = self.broadcast(library.get_unique_id() if self.rank == 0 else None)
            self._communicator = library.NcclCommunicator(self.size, identifier, self.rank)
        self._nccl, self._gpu = library, named

    def barrier(self) -> None:
        """As `Ranks.barrier`, and also waits for this rank's GPU. Raises ParallelError if a rank's GPU has not finished
        within half the time limit; it names the ranks whose GPUs hang, or says that the GPUs wait for one another."""
        self.gather(None)
        if self._communicator is None or self._gpu is None:
            return
        import cupy

        with cupy.cuda.Device(self._gpu.index):
            mark = cupy.cuda.get_current_stream().record()
            in_time = _reached_in_time(mark, self.time_limit / 2)
            if not in_time:
                self._abort()  # a GPU that only waits for another one then continues
            states = self.gather((in_time, in_time or _reached_in_time(mark, GRACE)))
        if all(finished for finished, _ in states):
            return
        hung = [self.name(rank) for rank, (_, ended) in enumerate(states) if not ended]
        limit = f"within {self.time_limit / 2:g} s"
        if hung:
            raise ParallelError(f"the GPU of {' and '.join(hung)} did not finish its work {limit}")
        raise ParallelError(f"the GPUs wait for one another and did not finish {limit}: the ranks are out of step")

    def _expect_own_gpus(self, gpu: str) -> None:
        """Raise ValueError if two ranks use the same GPU; the message names both."""
        taken: dict[str, int] = {}
        for rank, theirs in enumerate(self.gather(gpu)):
            if (first := taken.setdefault(theirs, rank)) != rank:
                raise ValueError(
                    f"{self.name(first)} and {self.name(rank)} are both on {theirs}; each rank needs a GPU of its own: "
                    "move the net to `ranks.device`, or start fewer ranks"
                )

    def sum(self, flat: Array, fixed: bool = True) -> None:
        with backends.current_device_of(flat):
            if fixed:
                sum_along_tree(flat, self.rank, self.size, self._swap)
            elif flat.size and self.size > 1:
                self._all_reduce(flat)

    def start(self, flat: Array, fixed: bool, number: int) -> Callable[[], None]:
        """As `Ranks.start`, on a separate stream, which a capture turns into a branch of the graph."""
        import cupy

        with backends.current_device_of(flat):
            self._side_stream = self._side_stream or cupy.cuda.Stream(non_blocking=True)
            self._side_stream.wait_event(cupy.cuda.get_current_stream().record())
            with self._side_stream:
                self.sum(flat, fixed)
            done = self._side_stream.record()

        def finish() -> None:
            with backends.current_device_of(flat):
                cupy.cuda.get_current_stream().wait_event(done)

        return finish

    def collect(self, flat: Array, ends: Sequence[int]) -> None:
        with backends.current_device_of(flat):
            collect(flat, ends, self.rank, self.size, self._swap)

    def _open(self) -> Any:  # noqa: ANN401 - CuPy's communicator
        if self._communicator is None:
            why = "either `begin` was not called, or an error ended it; in that case start all ranks again"
            raise ParallelError(f"{self.name(self.rank)} has no communicator: {why}")
        return self._communicator

    def _all_reduce(self, flat: Array) -> None:
        communicator = self._open()
        dtype = getattr(self._nccl, f"NCCL_{flat.dtype.name.upper()}")
        address = backends.address(flat)
        communicator.allReduce(address, address, flat.size, dtype, self._nccl.NCCL_SUM, self._stream())
        self.sent += 2 * (self.size - 1) * flat.nbytes // self.size

    def _swap(self, partner: int, *, give: Array | None = None, into: Array | None = None) -> None:
        """Send `give` to the partner and receive `into` from it, in one call."""
        communicator = self._open()
        byte, stream = self._nccl.NCCL_UINT8, self._stream()
        self._nccl.groupStart()
        if give is not None and give.size:
            communicator.send(backends.address(give), give.nbytes, byte, partner, stream)
            self.sent += give.nbytes
        if into is not None and into.size:
            communicator.recv(backends.address(into), into.nbytes, byte, partner, stream)
        self._nccl.groupEnd()

    def _stream(self) -> int:
        import cupy

        return int(cupy.cuda.get_current_stream().ptr)

    # --- messages --------------------------------------------------------------------------------

    def broadcast(self, value: T) -> T:
        with self._aborting_on_error():
            return self.messages.broadcast(value)

    def gather(self, value: T) -> list[T]:
        with self._aborting_on_error():
            return self.messages.gather(value)

    def name(self, rank: int) -> str:
        return self.messages.name(rank)

    def fail(self, error: BaseException) -> None:
        self._abort()
        self.messages.fail(error)

    @contextmanager
    def _aborting_on_error(self) -> Iterator[None]:
        """A context that, on an error, ends the GPU's wait for a rank that failed: otherwise even freeing memory would
        block."""
        try:
            yield
        except BaseException:
            self._abort()
            raise

    def _abort(self) -> None:
        communicator, self._communicator = self._communicator, None
        if communicator is not None:
            communicator.abort()


def _host_ranks(time_limit: float) -> Ranks:
    if mpi.is_launched():
        return mpi.MPI(time_limit)
    return tcp.TCP(time_limit) if tcp.is_launched() else Ranks()


def _reached_in_time(mark: cupy.cuda.Event, seconds: float) -> bool:
    """Wait for an event for at most so many seconds. Returns whether it was reached."""
    deadline = time.monotonic() + seconds
    while not mark.done:
        if time.monotonic() > deadline:
            return False
        time.sleep(NAP)
    return True


def _library() -> ModuleType:
    """CuPy's binding of NCCL. Raises ImportError that says how to install NCCL."""
    # Unlike an import statement, this also works if CuPy is replaced by a stand-in that is not a package.
    nccl = importlib.import_module("cupy.cuda.nccl")
    if not nccl.available:
        raise ImportError(
            "several GPUs need the NCCL library, which CuPy does not find: pip install nvidia-nccl-cu13 (or "
            "nvidia-nccl-cu12, to match CuPy's CUDA version)"
        )
    return nccl
