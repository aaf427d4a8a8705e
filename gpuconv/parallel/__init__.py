"""Several processes, the ranks, that train one net together: each computes a part of every batch."""

from __future__ import annotations

from gpuconv import backends
from gpuconv.arguments import positive
from gpuconv.devices import Device
from gpuconv.names import lookup
from gpuconv.parallel import mpi, tcp
from gpuconv.parallel.mpi import MPI
from gpuconv.parallel.nccl import NCCL
from gpuconv.parallel.ranks import ParallelError, Ranks, report_errors

__all__ = [
    "MPI",
    "NCCL",
    "ParallelError",
    "Ranks",
    "is_launched",
    "launched",
    "launched_ranks",
    "ranks",
    "report_errors",
    "started",
]


def is_launched() -> bool:
    """Whether this process is one of several, started by mpiexec or described by environment variables, as by
    those of torchrun."""
    return mpi.is_launched() or tcp.is_launched()


def launched_ranks(device: str, time_limit: float) -> Ranks:
    """The ranks to which this process belongs. Their kind depends on how the process was started; a process that was
    started alone is a single rank.

    Args:
        device: The name of the net's device, "auto" included.
        time_limit: The seconds that another rank may take to answer, above 0.

    Raises ValueError for an unknown device, a time limit that is not above 0, and ranks on the CPU that were not
    started by mpiexec.
    """
    named, time_limit = Device.named(device), positive("time_limit", time_limit)
    if not is_launched():
        return Ranks()
    if (Device.named(backends.resolve(device)) if named.automatic else named).on_gpu:
        return NCCL(time_limit)
    if not mpi.is_launched():
        raise ValueError(
            f"RANK and WORLD_SIZE are set, as by torchrun, which starts ranks on GPUs, but the device is {device}; "
            "mpiexec -n 2 starts two ranks on the CPU"
        )
    return MPI(time_limit)


launched, started = is_launched, launched_ranks  # the former names


def ranks(parallel: str | Ranks | None) -> Ranks:
    """The ranks that `Trainer(parallel=...)` names.

    Args:
        parallel: None for this process alone, "mpi" or "nccl", or ranks made by the caller, such as
            `MPI(time_limit=60)`.

    Raises ValueError for another name, and TypeError for anything else.
    """
    if parallel is None:
        return Ranks()
    if isinstance(parallel, Ranks):
        return parallel
    kinds: dict[str, type[Ranks]] = {"mpi": MPI, "nccl": NCCL}
    return lookup("kind of ranks", parallel, kinds)()
