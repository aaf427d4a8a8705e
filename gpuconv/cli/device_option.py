"""The option --device, and the device that it names or "auto" chooses."""

from __future__ import annotations

import argparse

from gpuconv import backends
from gpuconv.cli.errors import user_errors
from gpuconv.cli.output_lines import print_line


def add_device(parser: argparse.ArgumentParser) -> None:
    names = "numpy (or cpu), cuda, cuda:1, emulated or auto (default: auto)"
    parser.add_argument("--device", metavar="NAME", default="auto", help=names)


def choose_device(options: argparse.Namespace) -> str:
    """The requested device, or the one that "auto" chooses; prints which, and why."""
    return choose_with_reason(options)[0]


def choose_with_reason(options: argparse.Namespace) -> tuple[str, str]:
    """Like `choose_device`; also returns why."""
    with user_errors():
        device, why = backends.choose(options.device)
    print_line("device", f"{device} ({why})")
    return device, why
