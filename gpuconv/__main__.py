"""The command ``gpuconv``, also as ``python -m gpuconv``."""

import sys


def main() -> int:
    """Run this process's command line. Ctrl-C while the rest is imported ends it as later ones do."""
    try:
        from gpuconv.cli import main as command_line

        return command_line()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
