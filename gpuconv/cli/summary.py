"""Print a net layer by layer: shapes, parameters, multiply-adds, memory, algorithms. Without a name, list the nets."""

from __future__ import annotations

import argparse

from gpuconv.cli import json_output
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.option_types import count
from gpuconv.cli.runs import open_run
from gpuconv.cli.shared_options import add_precision
from gpuconv.text import parse_numbers

EXAMPLES = [
    "gpuconv summary",
    "gpuconv summary --model vgg16",
    "gpuconv summary --model resnet20 --input 64x64x3",
    "gpuconv summary --model tiny-vgg --precision bfloat16 --device emulated --batch-size 512",
]
MODEL_OPTIONS = ("input", "classes", "precision")  # a run's net has its own values of these


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="a net by name, or FILE.py:FUNCTION; with --run-dir, the file of the net's layers",
    )
    parser.add_argument("--run-dir", metavar="DIR", help="the net of a run")
    parser.add_argument("--input", metavar="HxWxC", type=volume, help="the input volume (default: the net's own)")
    parser.add_argument("--classes", metavar="N", type=count(1), help="the number of scores")
    add_precision(parser, None)
    parser.add_argument("--device", default="numpy", help="show the algorithms of this device: emulated, cuda, cuda:1")
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=count(1),
        default=128,
        help="images per step, for which algorithms are shown (default: 128)",
    )


def volume(text: str) -> tuple[int, ...]:
    """An argparse type: "32x32x3"."""
    try:
        return parse_numbers.volume(text, axes=3)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(options: argparse.Namespace) -> int:
    from gpuconv import backends, models
    from gpuconv.cli import nets
    from gpuconv.summary import rows, summary, total

    alone = [f"--{name}" for name in MODEL_OPTIONS if getattr(options, name) is not None]
    if alone and (options.run_dir or not options.model):
        go = "go" if len(alone) > 1 else "goes"
        raise UserError(f"{' and '.join(alone)} {go} with --model; a run's net has its own")
    with user_errors():
        device = backends.resolve(options.device)
    if not (options.run_dir or options.model):
        print("nets (gpuconv summary --model NAME shows one):")
        for name, model in models.MODELS.items():
            about = " ".join((model.__doc__ or "").partition("\n\n")[0].split())
            json_output.add("nets", {"name": name, "about": about})
            print(f"  {name:16}{about}")
        return 0
    if options.run_dir:
        net = open_run(options.run_dir, "numpy", model=options.model).net
    else:
        with user_errors():
            more = {"precision": options.precision, "initialize": False}
            net = nets.build(options.model, options.input, options.classes, **more)
        if options.input not in (None, net.input_shape):
            given, taken = (" x ".join(map(str, shape)) for shape in (options.input, net.input_shape))
            raise UserError(f"{options.model} makes a net for {taken}, whatever --input is; received {given}")
    if options.json:
        table = rows(net, options.batch_size, device)
        json_output.note(precision=net.precision, device=device, layers=table, total=total(table))
    print(summary(net, batch_size=options.batch_size, device=device))
    return 0
