"""The command ``gpuconv``: one file a command."""

from gpuconv.cli.main import main

__all__ = ["main"]
