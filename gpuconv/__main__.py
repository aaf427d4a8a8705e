"""The command ``gpuconv``, also as ``python -m gpuconv``."""

import os
import signal
import sys


def main() -> int:
    """Run the command line of this process. Ctrl-C ends the process with status 130, even during the imports."""
    # NumPy would turn a KeyboardInterrupt during its import into an ImportError about a broken installation.
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    from gpuconv.cli import main as command_line

    return command_line()


if __name__ == "__main__":
    sys.exit(main())
