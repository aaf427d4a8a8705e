"""The former name of `gpuconv.checkpoint`."""

import sys

from gpuconv import checkpoint

sys.modules[__name__] = checkpoint
