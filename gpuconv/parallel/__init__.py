"""Several processes, the ranks, that train one net together: each computes a part of every batch."""

from __future__ import annotations

import os
from typing import Any

from gpuconv.names import lookup
from gpuconv.parallel.mpi import MPI
from gpuconv.parallel.ranks import ParallelError, Ranks, report_errors

__all__ = ["MPI", "ParallelError", "Ranks", "launched", "ranks", "report_errors"]

_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")  # by the mpiexec of MPICH or Open MPI


def launched() -> bool:
    """Whether mpiexec started this process as one of several."""
    return any(os.environ.get(name, "1") not in ("", "0", "1") for name in _SIZES)


def ranks(parallel: Any) -> Ranks:
    """The ranks that `Trainer(parallel=...)` names: None, "mpi", or an object as `MPI(time_limit=60)`."""
    if parallel is None:
        return Ranks()
    if isinstance(parallel, Ranks):
        return parallel
    kinds: dict[str, type[Ranks]] = {"mpi": MPI}
    return lookup("parallel", parallel, kinds)()
