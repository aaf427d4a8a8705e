"""Write a trained net as an ONNX file, which other runtimes read.

The model takes batches of any size. By default its inputs and outputs have ONNX's layout, N x C x H x W."""

from __future__ import annotations

import argparse

from gpuconv.cli import json_output
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.nets import add_model_file, import_file
from gpuconv.cli.output_lines import print_line
from gpuconv.cli.runs import add_which, file_needed
from gpuconv.dtypes import full_name
from gpuconv.system.files import same_file

EXAMPLES = [
    "gpuconv export runs/digits-digits-net-1 net.onnx",
    "gpuconv export runs/digits-digits-net-1 net.onnx --which best --normalization --softmax",
    "gpuconv export net.safetensors net.onnx --dtype float16",
]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="FILE_OR_RUN", help="a run directory or a saved net")
    parser.add_argument("file", metavar="FILE", help="the ONNX file to write; an existing file is replaced")
    add_which(parser)
    add_model_file(parser)
    parser.add_argument(
        "--normalization", action="store_true", help="the model takes uint8 images and normalizes them, as in training"
    )
    parser.add_argument("--softmax", action="store_true", help="output probabilities instead of scores")
    parser.add_argument(
        "--dtype",
        type=full_name,
        choices=["float32", "float16"],
        help="the dtype in which the model computes (default: float16 for a float16 net, else float32)",
    )
    parser.add_argument(
        "--layout", choices=["NCHW", "NHWC"], default="NCHW", help="the layout of the model's inputs and outputs"
    )


def run(options: argparse.Namespace) -> int:
    from gpuconv.checkpoint import CheckpointError
    from gpuconv.interop import to_onnx
    from gpuconv.layers.registry import UndefinedLayerError
    from gpuconv.training import RunDirectory, load
    from gpuconv.training.trained_net import checkpoint_file

    import_file(options.model)
    with user_errors():
        if same_file(checkpoint_file(options.run, options.which), options.file):
            raise UserError(f"{options.file} holds the net to export; give the ONNX file another name")
        if RunDirectory(options.run).has_own(options.file):
            raise UserError(f"{options.file} is a file of the run; give the ONNX file another name")
        try:
            net = load(options.run, which=options.which)
        except CheckpointError as error:
            if isinstance(error.__cause__, UndefinedLayerError):
                raise file_needed(error.__cause__) from error
            raise
        to_onnx(
            net,
            options.file,
            layout=options.layout,
            normalization=options.normalization,
            softmax=options.softmax,
            dtype=options.dtype,
        )
    print_line("net", options.run)
    print_line("onnx", options.file)
    json_output.note(run=options.run, file=options.file)
    return 0
