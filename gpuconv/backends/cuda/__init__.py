"""The CUDA backend: each op as a launcher of hand-written kernels, for GPUs and the emulated device.

The files carry the names of the other backends' files. `gemm` plans and runs matrix products, `kernel` launches,
`compiler` compiles, `emulator` runs the same kernels on the CPU.
"""

from gpuconv.backends import gathered
from gpuconv.backends.cuda import (
    activation,
    arithmetic,
    batch,
    bias,
    conv,
    dropout,
    linear,
    loss,
    muon,
    norm,
    optim,
    pool,
    random_fill,
    step_counter,
)

globals().update(
    gathered.defined_in(
        activation,
        arithmetic,
        batch,
        bias,
        conv,
        dropout,
        linear,
        loss,
        muon,
        norm,
        optim,
        pool,
        random_fill,
        step_counter,
    )
)
