"""Test a trained net on images that it has not seen: the accuracy, and a table of the classes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from gpuconv import losses
from gpuconv.cli import json_output
from gpuconv.cli.device_option import add_device, choose_device
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.nets import add_model_file
from gpuconv.cli.output_lines import print_line
from gpuconv.cli.run_data import load_data, warn_of_other_data, warn_of_trained_images
from gpuconv.cli.run_settings import read_tta
from gpuconv.cli.runs import Run, add_which, expect_classes, expect_normalization, newest_run, open_run
from gpuconv.cli.shared_options import add_options
from gpuconv.system.console import is_quiet
from gpuconv.text.plain_text import display_width, padded, printable

if TYPE_CHECKING:
    from gpuconv.data import Dataset, Samples
    from gpuconv.training.protocols import LossLike


EXAMPLES = [
    "gpuconv evaluate",
    "gpuconv evaluate runs/digits-digits-net-1 --tta shift",
    "gpuconv evaluate --test folder:photos/test",
]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", nargs="?", help="a run directory (default: the newest in ./runs)")
    add_options(parser, only=["data", "test"])
    add_which(parser)
    add_model_file(parser)
    parser.add_argument(
        "--tta",
        metavar="MODE",
        help="test-time averaging of each image's scores over views of it: none, mirror, shift (by a pixel) or "
        "mirror+shift (default: as in the run's settings)",
    )
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    from gpuconv.data.dataset import class_indices
    from gpuconv.data.stream_loader import make_loader
    from gpuconv.layers import Input
    from gpuconv.training import evaluate
    from gpuconv.training.tta import TTA, expect_views

    directory = options.run_dir or newest_run()
    print_line("run", directory)
    device = choose_device(options)
    trained = open_run(directory, device, options.which, options.model)
    expect_normalization(trained)
    expect_classes(trained)
    print_line("checkpoint", f"{options.which}, {trained.progress}")
    train, test = _images(trained, options.data, options.test)
    with user_errors():
        first = trained.net[0]
        (first if isinstance(first, Input) else Input(trained.input_shape)).expect(test.image_shape)
        indices = class_indices(test, trained.classes)  # raises an error that names missing classes
        if (indices != np.arange(len(test.classes))).any():
            raise ValueError(
                f"the net's classes are {', '.join(trained.classes)}, in this order, received {', '.join(test.classes)}"
            )
    of_all = ""
    if train and options.data and test.spec.startswith("folder:"):
        of_all = f" of {len(train) + len(test):,}; test=1 in --data uses all of them"
    print_line("data", f"{test.name}: {len(test):,} test images{of_all}")
    if train:
        warn_of_other_data(trained, train, test)
    else:
        warn_of_trained_images(trained, test)
    net = trained.net
    loader = make_loader(test, 256, normalization=trained.normalization, device=device, dtype=net.dtype, shuffle=False)
    with user_errors():
        tta = read_tta(options.tta or trained.settings.tta)
        expect_views(tta, test.image_shape)
    if TTA[tta] > 1:
        print_line("averaging", f"over {TTA[tta]} views of each image")
    criterion, note = _loss(trained)
    found = evaluate(net, loader, loss=criterion, confusion=True, tta=tta)
    if not np.isfinite(found.loss):
        raise UserError(f"the test loss is {found.loss}: the net's scores are not finite, so its answers mean nothing")
    confusion = np.asarray(found.confusion)
    counts = zip(trained.classes, confusion.sum(axis=1), confusion.diagonal())
    json_output.note(
        run=directory,
        data=test.name,
        images=found.samples,
        test_loss=found.loss,
        test_accuracy=found.accuracy,
        test_time_augmentation=tta,
        confusion=confusion,
        classes=[{"class": name, "images": images, "right": right} for name, images, right in counts],
    )
    if not is_quiet():
        print()
    print(f"{table(confusion, trained.classes)}\n")
    print(f"test loss {found.loss:.4f}{note}")
    print(f"test accuracy {100 * found.accuracy:.2f}%")
    return 0


def _loss(trained: Run) -> tuple[LossLike, str]:
    """The run's loss, and a note to print about it."""
    text = trained.settings.loss
    if not trained.started_in_python:
        return text, ""
    try:
        return losses.read(text), ""
    except ValueError:
        return "softmax", f" with softmax, because the run's own loss, {text}, is unknown here"


def _images(trained: Run, data: str | None, test: str | None) -> tuple[Dataset | Samples | None, Dataset | Samples]:
    """(train, test) of a run, possibly from another location; (None, test) if the options give only test images."""
    from gpuconv.data import from_spec

    with user_errors():
        if data and test:
            raise ValueError(f"--test {test} already gives the test images; leave --data {data} out")
        test = data if data and from_spec.is_test_set(data) else test
        if not test and not data and trained.started_in_python:
            try:
                from_spec.with_full_name(trained.settings.data)
            except ValueError:
                name = trained.settings.data
                raise ValueError(
                    f"the run was trained in Python on {name!r}, which is not the name of a data set: give the "
                    "location of its images with --data or --test"
                ) from None
        if not test:
            return load_data(trained.settings, data)
        return None, from_spec.load_test(test, trained.settings.data, trained.classes)


def table(confusion: np.ndarray, classes: list[str]) -> str:
    """A line for each class: its images, the number of right answers, and the class with which it was confused most
    often."""
    classes = list(map(printable, classes))
    width = max(5, *map(display_width, classes))
    lines = [f"{'class':{width}}  images   right  accuracy  most often mistaken for"]
    for label, name in enumerate(classes):
        row = confusion[label].copy()
        images, right = row.sum(), row[label]
        row[label] = 0
        worst = int(np.argmax(row))
        mistaken = f"{classes[worst]} ({row[worst]})" if row[worst] else ""
        share = f"{100 * right / images:6.2f} %" if images else "       -"
        lines.append(f"{padded(name, width)}  {images:6}  {right:6}  {share}  {mistaken}".rstrip())
    return "\n".join(lines)
