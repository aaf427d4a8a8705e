"""The launchers of the ops, one file for each family, named as in the other backends, and their helpers."""

from gpuconv.backends.cuda.ops import (
    activation,
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
