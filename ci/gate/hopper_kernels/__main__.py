"""Run one check."""

from __future__ import annotations

import argparse
import functools
import sys

from ci.gate import hopper_kernels
from ci.gate.hopper_kernels import algorithms, cluster, ring, warpgroup

CHECKS = {
    "k-major": lambda device, small: warpgroup.check(device, (0,), small),
    "mn-major": lambda device, small: warpgroup.check(device, (1, 2, 3), small),
    "ring": ring.check,
    "cluster": cluster.check,
} | {name: functools.partial(algorithms.check, name) for name in algorithms.DIRECTIONS}


def main() -> int:
    parser = argparse.ArgumentParser(
        "python -m ci.gate.hopper_kernels",
        description=hopper_kernels.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=CHECKS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="do less work, for a rehearsal")
    options = parser.parse_args()
    try:
        return CHECKS[options.name](options.device, options.small)
    except KeyboardInterrupt:  # the time is up; a traceback would hide the last line
        return 130


if __name__ == "__main__":
    sys.exit(main())
