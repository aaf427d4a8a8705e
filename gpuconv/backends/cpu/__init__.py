"""The CPU backend, device "numpy": every op in fast NumPy, proved against the oracle (`gpuconv.backends.reference`)."""

from gpuconv.backends.cpu import allocator
from gpuconv.backends.cpu.activation import *  # noqa: F403
from gpuconv.backends.cpu.arithmetic import *  # noqa: F403
from gpuconv.backends.cpu.batch import *  # noqa: F403
from gpuconv.backends.cpu.conv import *  # noqa: F403
from gpuconv.backends.cpu.dropout import *  # noqa: F403
from gpuconv.backends.cpu.linear import *  # noqa: F403
from gpuconv.backends.cpu.loss import *  # noqa: F403
from gpuconv.backends.cpu.muon import *  # noqa: F403
from gpuconv.backends.cpu.norm import *  # noqa: F403
from gpuconv.backends.cpu.optim import *  # noqa: F403
from gpuconv.backends.cpu.pool import *  # noqa: F403
from gpuconv.backends.cpu.random_fill import *  # noqa: F403
from gpuconv.backends.cpu.step_counter import *  # noqa: F403

allocator.keep_freed_memory()
