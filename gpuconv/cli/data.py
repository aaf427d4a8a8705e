"""Download a data set into a folder. The checksum is verified, and an interrupted download is continued."""

from __future__ import annotations

import argparse

from gpuconv.cli import json_output
from gpuconv.cli.errors import user_errors
from gpuconv.names import lookup
from gpuconv.system.shell import command

EXAMPLES = ["gpuconv data cifar10 --to data", "gpuconv train --data cifar10:data"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the data set: cifar10 (170 MB)")
    parser.add_argument("--to", metavar="DIR", required=True, help="the folder for it; created if missing")


def run(options: argparse.Namespace) -> int:
    from gpuconv.data import cifar10

    with user_errors():
        download = lookup("downloadable data set", options.name, {"cifar10": cifar10.download})
        folder = download(options.to)
    json_output.note(folder=folder)
    print(f"CIFAR-10 is in {folder}\ntry next:  {command('gpuconv', 'train', '--data', f'cifar10:{options.to}')}")
    return 0
