import signal
import sys

from bench.cli import main
from gpuconv.cli import process

process.begin()
signal.signal(signal.SIGINT, signal.default_int_handler)  # `main` says that what was timed is kept
sys.exit(process.end(main()))
