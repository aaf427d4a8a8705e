"""The launchers of the ops, one file a family under the names of the other backends, and what only they share."""

from gpuconv.backends.cuda.ops import (
    activation,
    arithmetic,
    batch,
    conv,
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
