"""Is training healthy? Run the sanity suite of the CS231n notes on a net and its data; status 1 if a check fails.

The initial loss must be that of guessing, regularization must raise it, the net must overfit 20 images, an update must
change the weights by about a thousandth, and backward must agree with numerical gradients in float64."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from gpuconv.cli import json_output, run_settings, shared_options
from gpuconv.cli.device_option import add_device, choose_device
from gpuconv.cli.errors import user_errors
from gpuconv.cli.output_lines import print_line

if TYPE_CHECKING:
    from gpuconv.checks import GradientCheck
    from gpuconv.layers.sequential import Sequential


EXAMPLES = ["gpuconv check", "gpuconv check --model tiny-vgg --data synthetic", "gpuconv check --lr 0.5"]

IMAGES = 64  # in the batch on which the net is checked


def configure(parser: argparse.ArgumentParser) -> None:
    shared_options.add_options(parser, only=("data", "model", "seed", "lr", "optimizer", "schedule", "loss"))
    add_device(parser)


def run(options: argparse.Namespace) -> int:
    from gpuconv import checks, losses
    from gpuconv.cli import nets
    from gpuconv.data import Normalization, load
    from gpuconv.data.stream_loader import make_loader
    from gpuconv.training import data_checks, optimizers, schedules

    settings = run_settings.with_recipe(run_settings.from_options(options))
    loss = losses.get(settings.loss)
    with user_errors():
        train, _ = load(settings.data)
        print_line("data", f"{train.name}: {min(IMAGES, len(train))} training images")
        device = choose_device(options)
        net: Sequential = nets.build(settings.model, train.image_shape, len(train.classes), seed=settings.seed).to(
            device
        )
        loader = make_loader(
            train, IMAGES, normalization=Normalization.from_dataset(train), seed=settings.seed, device=device
        )
        data_checks.expect("train", loader, net, loss)
    print_line("model", f"{settings.model}, loss {settings.loss}, seed {settings.seed}\n")
    x, labels = next(loader.epoch(0))
    passed = True
    steps = math.ceil(len(loader) / settings.accumulate)
    first_factor = schedules.get(settings.schedule)(0, settings.epochs * steps, steps)
    optimizer = optimizers.get(settings.optimizer, lr=settings.lr * first_factor)
    with user_errors():
        for check in checks.sanity(net, x, labels, loss=loss, optimizer=optimizer):
            json_output.add("checks", check)
            passed &= report(check.passed, check.name, f"{check.value:.4g}, expected {check.expected}", check.details)
    # The gradients are checked on random volumes, because the check may fail on images: in a plain background neighbors
    # are equal, and max pooling has no derivative at ties.
    gradients = checks.gradient_check(net, samples=4)
    worst = max(gradients, key=_badness)
    agree = all(found.passed for found in gradients)
    details = f"{sum(found.checked for found in gradients)} compared; the worst is in {worst.name}"
    parts = f"raw {worst.raw:.1e}, rounding noise {worst.noise:.1e}"
    passed &= report(agree, "gradients", f"worst relative error {worst.worst:.1e} beyond rounding ({parts})", details)
    json_output.note(gradients=gradients, passed=passed)
    print("\nall checks pass" if passed else "\nchecks failed")
    return 0 if passed else 1


def _badness(found: GradientCheck) -> tuple[bool, float, float]:
    """The order of gradients from good to bad; NaN is the largest error."""
    worst, raw = (math.inf if math.isnan(error) else error for error in (found.worst, found.raw))
    return not found.passed, worst, raw


def report(passed: bool, name: str, measured: str, details: str) -> bool:
    print(f"{'PASS' if passed else 'FAIL'}  {name}: {measured}", flush=True)
    if details:
        print(f"      {details}")
    return passed
