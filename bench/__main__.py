"""python -m bench: see `bench.cli`."""

import signal
import sys

from bench.cli import main
from gpuconv.cli import streams

streams.begin()
signal.signal(signal.SIGINT, signal.default_int_handler)  # so that `main` can report that the times were saved
sys.exit(streams.end(main()))
