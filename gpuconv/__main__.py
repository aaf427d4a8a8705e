"""The command ``gpuconv``, also as ``python -m gpuconv``."""

import os
import signal
import sys


def main() -> int:
    """Run the command line of this process. Ctrl-C during its imports ends it with status 130, as later."""
    # Not by KeyboardInterrupt: during the import of NumPy, it becomes an ImportError about a broken installation.
    signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    from gpuconv.cli import main as command_line

    return command_line()


if __name__ == "__main__":
    sys.exit(main())
