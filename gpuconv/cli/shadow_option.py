"""The options --shadow and --on-violation."""

from __future__ import annotations

import argparse

from gpuconv.cli.option_types import share


def add_shadow(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shadow",
        type=share,
        metavar="SHARE",
        help="check calls of ops against the oracle during training, for this share of the training time, such as 2%%",
    )
    parser.add_argument(
        "--on-violation",
        choices=["stop", "warn"],
        default="stop",
        help="what --shadow does about an error beyond its bound (default: stop)",
    )
