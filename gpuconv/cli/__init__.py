"""The command ``gpuconv``: one file for each subcommand."""

from gpuconv.cli.main import main

__all__ = ["main"]
