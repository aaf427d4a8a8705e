"""Repeat a call of an op that `gpuconv train --shadow` found wrong, on any device.

The call is read from the file that the run wrote. The command prints the worst error as a share of its bound, both as
stored and as the device gives it now. Status 1 if the new error exceeds its bound."""

from __future__ import annotations

import argparse

from gpuconv.cli import json_output
from gpuconv.cli.device_option import add_device, choose_device
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.output_lines import print_line

EXAMPLES = [
    "gpuconv shadow replay runs/digits-digits-net-1/shadow-conv2d-conv1-step120.safetensors",
    "gpuconv shadow replay shadow-conv2d-conv1-step120.safetensors --device emulated",
]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["replay"], help="replay: run the call again")
    parser.add_argument("file", metavar="FILE", help="the file that the run wrote")
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    from gpuconv import checkpoint
    from gpuconv.verify.call import Call

    stored = checkpoint.load(options.file)
    call = Call.read(options.file, stored)
    device = choose_device(options)
    place = " of ".join(filter(None, [call.op, str(stored.state.get("layer") or "")]))
    print_line("call", f"{place}, step {stored.state.get('step', '?')}")
    try:
        with user_errors():
            again = call.on(device)
            found = {"stored": call.compare(), device: again.compare()}
            same = all(again.results[name].tobytes() == array.tobytes() for name, array in call.results.items())
    except (RuntimeError, IndexError, KeyError) as error:  # faults of kernels, and files made by hand
        raise UserError(f"{options.file} cannot be repeated on {device}: {type(error).__name__}: {error}") from error
    for name, worst in found.items():
        verdict = f"{worst.share:.3g} of its bound" if worst.share <= 1 else f"wrong: {worst.text}"
        print_line(name, verdict)
        json_output.add("results", {"of": name, "error": worst.error, "bound": worst.bound, "share": worst.share})
    json_output.note(op=call.op, same_bits=same)
    print_line("bits", "as stored" if same else "different from those stored")
    return int(found[device].wrong)
