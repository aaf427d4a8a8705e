"""The reference backend: every op in plain NumPy, written to be read and trusted. The oracle of the kernels."""

from gpuconv.backends.reference import memory
from gpuconv.backends.reference.activation import *  # noqa: F403
from gpuconv.backends.reference.arithmetic import *  # noqa: F403
from gpuconv.backends.reference.batch import *  # noqa: F403
from gpuconv.backends.reference.clock import *  # noqa: F403
from gpuconv.backends.reference.conv import *  # noqa: F403
from gpuconv.backends.reference.dropout import *  # noqa: F403
from gpuconv.backends.reference.linear import *  # noqa: F403
from gpuconv.backends.reference.loss import *  # noqa: F403
from gpuconv.backends.reference.muon import *  # noqa: F403
from gpuconv.backends.reference.norm import *  # noqa: F403
from gpuconv.backends.reference.optim import *  # noqa: F403
from gpuconv.backends.reference.pool import *  # noqa: F403
from gpuconv.backends.reference.random_fill import *  # noqa: F403

memory.keep_freed_memory()
