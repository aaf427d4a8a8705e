"""Ranks over MPI, started by mpiexec. They need mpi4py with MPICH, which the extra `mpi` installs, or with the system's
MPI."""

from __future__ import annotations

import atexit
import os
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from gpuconv import backends
from gpuconv.arguments import positive
from gpuconv.devices import Device
from gpuconv.parallel.ranks import ParallelError, Ranks, host
from gpuconv.parallel.tree import collect, sum_along_tree, tree
from gpuconv.types import Array

T = TypeVar("T")

DATA, ALIVE, FAILED, SUM = 1, 2, 3, 4  # tags of messages; the sum that `start` starts under number n has tag SUM + n
SPINS = 200  # tests of a request without sleeping; after these, each test is followed by a sleep
NAP = 50e-6  # seconds
GRACE = 2.0  # seconds in which other ranks may report why they end, before all are aborted

_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")  # set by the mpiexec of MPICH or Open MPI


class _StartedSum:
    """A sum that has been started. Each call of `MPI.progress` continues it, and `finish` waits for its end."""

    def __init__(self, ranks: MPI, flat: Array, tag: int) -> None:
        self._ranks, self._tag, self._steps = ranks, tag, tree(flat, ranks.rank, ranks.size)
        self._requests: list[object] = []
        self._received: object = None
        self._into: Array | None = None
        self._next()

    def advance(self) -> None:
        """Continue as far as messages have arrived."""
        while self._requests and self._ranks._test(self._requests):
            self._next()

    def finish(self) -> None:
        while self._requests:
            self._ranks._wait(self._requests)
            self._next()
        self._ranks._started_sums.remove(self)

    def _next(self) -> None:
        if self._into is not None and self._received is not self._into:
            backends.assign(self._into, self._received)
        self._requests, self._received, self._into = [], None, None
        if (step := next(self._steps, None)) is not None:
            self._into = step.into
            self._requests, self._received = self._ranks._send(*step, self._tag)


def is_launched() -> bool:
    """Whether mpiexec started this process as one of several."""
    return any(os.environ.get(name, "1") not in ("", "0", "1") for name in _SIZES)


class MPI(Ranks):
    """The processes that mpiexec started, with arrays on numpy or emulated. Sums always have the order of the tree,
    whether `fixed` or not.

    Args:
        time_limit: The seconds that another rank may take to answer, above 0.

    Raises ValueError for another time limit, and ImportError that names the extra if mpi4py or the MPI library is
    missing.
    """

    capturable = False

    def __init__(self, time_limit: float = 300.0) -> None:
        self.time_limit, self.sent = positive("time_limit", time_limit), 0
        try:
            from mpi4py import MPI as mpi
        except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py finds no MPI library
            why = str(error).splitlines()[0]
            raise ImportError(
                f"training on several ranks needs mpi4py and an MPI library ({why}): pip install 'gpuconv[mpi]'"
            ) from error
        self._mpi, self._comm = mpi, mpi.COMM_WORLD.Dup()
        self.rank, self.size = self._comm.rank, self._comm.size
        self._reported = False
        self._posted: list[object] = []
        self._started_sums: list[_StartedSum] = []
        self._processes = self.gather(f"process {os.getpid()} on {host()}")

    def broadcast(self, value: T) -> T:
        packed = np.frombuffer(pickle.dumps(value), np.uint8) if self.rank == 0 else None
        length = np.array([0 if packed is None else packed.size])
        self._wait([self._comm.Ibcast(length, 0)])
        content = np.empty(length[0], np.uint8) if packed is None else packed.copy()
        self._wait([self._comm.Ibcast(content, 0)])
        return value if self.rank == 0 else pickle.loads(content.tobytes())

    def gather(self, value: T) -> list[T]:
        packed = np.frombuffer(pickle.dumps(value), np.uint8)
        lengths = np.empty(self.size, np.int64)
        self._wait([self._comm.Iallgather(np.array([packed.size]), lengths)])
        ends = np.cumsum(lengths)
        content = np.empty(ends[-1], np.uint8)
        destination = (content, (lengths.tolist(), (ends - lengths).tolist()), self._mpi.BYTE)
        self._wait([self._comm.Iallgatherv((packed, self._mpi.BYTE), destination)])
        return [pickle.loads(content[end - length : end].tobytes()) for end, length in zip(ends, lengths)]

    def begin(self, device: str) -> None:
        if self.size > 1 and Device.named(device).on_gpu:
            raise ValueError(
                f"MPI sums arrays of numpy and emulated, and the net is on {device}; parallel='nccl' is for GPUs"
            )

    def sum(self, flat: Array, fixed: bool = True) -> None:
        sum_along_tree(flat, self.rank, self.size, self._swap)

    def collect(self, flat: Array, ends: Sequence[int]) -> None:
        collect(flat, ends, self.rank, self.size, self._swap)

    def _swap(self, partner: int, *, give: Array | None = None, into: Array | None = None) -> None:
        requests, received = self._send(partner, give, into, DATA)
        self._wait(requests)
        if into is not None and received is not into:
            backends.assign(into, received)

    def _send(self, partner: int, give: Array | None, into: Array | None, tag: int) -> tuple[list[Any], Any]:
        """Start an exchange. Returns its requests, and the host array that receives the data."""
        requests, received = [], None
        if into is not None:
            received = into if type(into) is np.ndarray else np.empty(into.shape, into.dtype)
            requests.append(self._comm.Irecv((received.view(np.uint8), self._mpi.BYTE), partner, tag))
        if give is not None:
            sent = backends.to_numpy(give)
            self.sent += sent.nbytes
            requests.append(self._comm.Isend((sent.view(np.uint8), self._mpi.BYTE), partner, tag))
        return requests, received

    def start(self, flat: Array, fixed: bool, number: int) -> Callable[[], None]:
        sum_started = _StartedSum(self, flat, SUM + number)
        self._started_sums.append(sum_started)
        sum_started.advance()
        return sum_started.finish

    def progress(self) -> None:
        for sum_started in self._started_sums:
            sum_started.advance()

    # --- waiting, and failures of other ranks meanwhile ------------------------------------------------

    def _wait(self, requests: list[object]) -> None:
        """Wait for requests. Raises ParallelError if a rank failed or does not answer within the time limit."""
        if self._test(requests):
            return
        self._waiting_ranks()  # drops reports from earlier waits
        start, spins, posted = time.monotonic(), 0, False
        while not self._test(requests):
            if self._comm.Iprobe(tag=FAILED):
                self._reported = True
                self._abort_at_exit()
                raise ParallelError(self._comm.recv(tag=FAILED))
            spins += 1
            if spins < SPINS:
                continue
            time.sleep(NAP)
            waited = time.monotonic() - start
            if waited > self.time_limit / 2 and not posted:
                posted = True
                self._post(b"", ALIVE)
            if waited > self.time_limit:
                raise ParallelError(self._timeout_message(self._waiting_ranks()))

    def _test(self, requests: list[Any]) -> bool:
        try:
            return self._mpi.Request.Testall(requests)
        except self._mpi.Exception as error:
            raise ParallelError(f"MPI failed: {error}") from error

    def _waiting_ranks(self) -> set[int]:
        """The ranks that reported that they are waiting too."""
        found, status = set(), self._mpi.Status()
        while self._comm.Iprobe(tag=ALIVE, status=status):
            self._comm.recv(source=status.source, tag=ALIVE)
            found.add(status.source)
        return found

    def _timeout_message(self, waiting: set[int]) -> str:
        silent = [self.name(rank) for rank in range(self.size) if rank not in waiting | {self.rank}]
        if not silent:
            return f"the ranks have waited for one another for {self.time_limit:g} s: they are out of step"
        return f"{' and '.join(silent)} did not answer within {self.time_limit:g} s"

    def fail(self, error: BaseException) -> None:
        if self._reported or self.size == 1:
            return
        self._reported = True
        self._post(self.failure(error), FAILED)
        self._abort_at_exit()

    def _post(self, message: object, tag: int) -> None:
        for rank in range(self.size):
            if rank != self.rank:
                self._posted.append(self._comm.isend(message, rank, tag))

    def _abort_at_exit(self) -> None:
        """Abort all ranks when this process ends: a normal end of MPI would wait for ranks that do not answer."""
        atexit.register(self._abort)

    def _abort(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(GRACE)
        self._comm.Abort(1)
