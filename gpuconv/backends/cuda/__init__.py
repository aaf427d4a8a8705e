"""The CUDA backend: each op as a launcher of hand-written kernels, for GPUs and the emulated device.

The files carry the names of the other backends' files. `gemm` plans and runs matrix products, `kernel` launches,
`compiler` compiles, `emulator` runs the same kernels on the CPU.
"""

from gpuconv.backends.cuda.activation import *  # noqa: F403
from gpuconv.backends.cuda.arithmetic import *  # noqa: F403
from gpuconv.backends.cuda.batch import *  # noqa: F403
from gpuconv.backends.cuda.bias import *  # noqa: F403
from gpuconv.backends.cuda.conv import *  # noqa: F403
from gpuconv.backends.cuda.dropout import *  # noqa: F403
from gpuconv.backends.cuda.linear import *  # noqa: F403
from gpuconv.backends.cuda.loss import *  # noqa: F403
from gpuconv.backends.cuda.muon import *  # noqa: F403
from gpuconv.backends.cuda.norm import *  # noqa: F403
from gpuconv.backends.cuda.optim import *  # noqa: F403
from gpuconv.backends.cuda.pool import *  # noqa: F403
from gpuconv.backends.cuda.random_fill import *  # noqa: F403
from gpuconv.backends.cuda.step_counter import *  # noqa: F403
