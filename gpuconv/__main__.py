"""The command ``gpuconv``, also as ``python -m gpuconv``."""

import sys


def main() -> int:
    """Run this process's command line. Ctrl-C during imports has the same effect as later."""
    try:
        from gpuconv.cli import main as command_line

        return command_line()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
