"""``python -m gpuconv`` is the command ``gpuconv``."""

import sys

from gpuconv.cli import main

sys.exit(main())
