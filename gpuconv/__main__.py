"""The command ``gpuconv``, also as ``python -m gpuconv``."""

import sys


def main() -> int:
    """Run the command line of this process. Ctrl-C has the same effect during imports as later."""
    try:
        from gpuconv.cli import main as command_line

        return command_line()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
