"""Classify image files: the five best scores of a trained net, sorted.

An image may have up to 67 million pixels, with 8 bits per value; gray images may also have 12 or 16 bits. Each image is
converted to the net's input, and the output says how."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from gpuconv.cli import json_output
from gpuconv.cli.device_option import add_device, choose_device
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.nets import add_model_file
from gpuconv.cli.output_lines import print_line
from gpuconv.cli.runs import Run, add_which, expect_classes, expect_normalization, newest_run, open_run
from gpuconv.text.plain_text import display_width, padded, printable
from gpuconv.types import Array

EXAMPLES = [
    "gpuconv predict cat.png dog.jpg",
    "gpuconv predict cat.png --run-dir runs/cifar10-tiny-vgg-1 --picture cat-inside.png",
]

BAR = 30  # characters of the bar of a score of 100 %


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="an image file")
    parser.add_argument("--run-dir", metavar="DIR", help="the run whose net to use (default: the newest in ./runs)")
    parser.add_argument("--picture", metavar="FILE", help="draw the activations of the first image (a .png)")
    add_which(parser)
    add_model_file(parser)
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    from gpuconv.cli import pictures
    from gpuconv.training.image_activations import activations_of

    pictures.expect_target(options.picture, options.images)
    directory = options.run_dir or newest_run()
    print_line("run", directory)
    trained = open_run(directory, choose_device(options), options.which, options.model)
    normalization = expect_normalization(trained)
    expect_classes(trained)
    failed, first = 0, None
    for path in options.images:
        try:
            image = read(path, trained)
        except UserError as error:
            if len(options.images) == 1:
                raise
            print(f"gpuconv: error: {printable(str(error))}", file=sys.stderr)
            json_output.add("images", {"image": path, "error": str(error)})
            failed = 1
            continue
        x = normalization(image[None])
        scores = activations_of(trained.net, _on_device_of_net(trained, x))[1]
        if not np.isfinite(scores).all():
            raise UserError(f"the net's scores of {path} are not finite, so they mean nothing")
        found = [{"class": trained.classes[index], "probability": scores[index]} for index in five_best(scores)]
        json_output.add("images", {"image": path, "best": found})
        print("\n".join(top(scores, trained.classes)))
        first = first or (image, Path(path).name)
    if options.picture and first:
        draw(options.picture, trained, *first)
    return failed


def read(path: str, trained: Run) -> np.ndarray:
    """The image as uint8 (H, W, C) of the net's size; prints how it was converted."""
    from gpuconv.images.image_file import Picture

    height, width, channels = trained.input_shape
    with user_errors():
        picture = Picture.open(path)
        original = picture.array()
        image = picture.array(size=(height, width), channels=channels)
    changes = []
    if original.shape[:2] != (height, width):
        changes.append(f"resized from {original.shape[0]}x{original.shape[1]} to {height}x{width}")
    mode = "L" if channels == 1 else "RGB"
    if picture.mode != mode:
        changes.append(f"converted from {picture.mode} to {mode}")
    if channels == 1 and np.ptp(original, axis=2).any():
        changes.append("colors converted to gray")
    print(f"\n{printable(path)}" + (f" ({', '.join(changes)})" if changes else ""))
    return image


def five_best(scores: np.ndarray) -> np.ndarray:
    """The indices of the five best scores, best first."""
    return np.argsort(-scores, kind="stable")[:5]


def top(scores: np.ndarray, classes: list[str]) -> list[str]:
    """The five best scores as lines with bars, best first."""
    best = five_best(scores)
    names = {index: printable(classes[index]) for index in best}
    width = max(map(display_width, names.values()))
    return [
        f"  {padded(names[index], width)}  {100 * scores[index]:6.2f} %  {'█' * round(BAR * scores[index])}".rstrip()
        for index in best
    ]


def draw(file: str, trained: Run, image: np.ndarray, name: str) -> None:
    from gpuconv import plots
    from gpuconv.cli import pictures

    title = f"{trained.settings.model} looks at {name}"
    try:
        normalization = expect_normalization(trained)
        pictures.draw_activations(file, trained.net, image, normalization, trained.classes, title=title)
    except plots.PlotError as error:
        raise UserError(str(error)) from error
    print()
    print_line("picture", file)


def _on_device_of_net(trained: Run, x: np.ndarray) -> Array:
    from gpuconv import backends

    return backends.asarray(x, trained.net.device, trained.net.dtype)
