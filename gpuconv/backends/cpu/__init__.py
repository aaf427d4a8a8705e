"""The CPU backend, device "numpy": every op in fast NumPy, verified against `gpuconv.backends.reference`."""

from gpuconv.backends.cpu import (
    activation,
    allocator,
    arithmetic,
    batch,
    conv,
    digest,
    dropout,
    linear,
    loss,
    muon,
    norm,
    optim,
    pool,
    random,
    step_counter,
)

allocator.keep_freed_memory()
