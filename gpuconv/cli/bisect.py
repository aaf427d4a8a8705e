"""Find where two runs, devices, precisions or algorithms begin to differ.

A and B may be two runs of `gpuconv train --digests`. The command then names the first step and tensor (a layer's
output, a gradient, an updated parameter) that differs. On one machine any differing bit counts; on two machines only a
difference that rounding does not explain.

A and B may also be two sides, such as numpy, emulated, float16 or cuda:1,tf32,simt-64x64. The command then trains the
same net on both for some steps, checks each call of an op against the oracle on the same arrays, and names the first
call beyond its bound: step, layer, direction and element. With --kernel FILE --op NAME, B runs your .cu in place of the
shipped one.

Status 1 if A and B differ."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from gpuconv.cli import json_output, option_types, pictures, run_settings, shared_options
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.output_lines import print_line
from gpuconv.devices import Device

if TYPE_CHECKING:
    from gpuconv.data import Dataset, Samples
    from gpuconv.inspect.bisect import Side
    from gpuconv.inspect.bisect_runs import Runs
    from gpuconv.training import Trainer

EXAMPLES = [
    "gpuconv bisect runs/digits-digits-net-1 runs/digits-digits-net-2",
    "gpuconv bisect here.jsonl there.jsonl --picture differences.png",
    "gpuconv bisect numpy emulated --model seed-net --batch-size 8 --steps 2",
    "gpuconv bisect emulated,float16 emulated,bfloat16",
    "gpuconv bisect numpy emulated --kernel my_conv.cu --op conv2d_relu",
]

SETTINGS = ("data", "model", "seed", "batch_size", "optimizer", "lr", "loss")
SIDE_OPTIONS = (*SETTINGS, "steps", "kernel", "op", "algo")


def configure(parser: argparse.ArgumentParser) -> None:
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), help="a run's folder, a file of digests, or a side")
    shared_options.add_options(parser, only=SETTINGS)
    parser.add_argument("--steps", type=option_types.count(1), metavar="N", help="how many steps (default: 2)")
    parser.add_argument("--kernel", type=Path, metavar="FILE", help="your .cu file, which B uses")
    parser.add_argument("--op", metavar="NAME", help="the op that FILE implements")
    parser.add_argument("--algo", metavar="NAME", help="for a matrix product, the algorithm that FILE implements")
    parser.add_argument(
        "--element",
        action=argparse.BooleanOptionalAction,
        help="for two runs: repeat both up to the tensor that differs, and name the element that differs most "
        "(default: only if that repeats at most an epoch of each run)",
    )
    parser.add_argument("--picture", metavar="FILE", help="draw the differences by step and tensor, or by op (a .png)")


def run(options: argparse.Namespace) -> int:
    pictures.expect_target(options.picture)
    if not (os.path.exists(options.a) or os.path.exists(options.b)):
        if options.element is not None:
            raise UserError("--element and --no-element are for two runs; for two sides the element is always named")
        return _compare_sides(options)
    if others := [shared_options.option(name) for name in SIDE_OPTIONS if getattr(options, name) is not None]:
        raise UserError(f"runs are compared as they were recorded; leave {', '.join(others)} out")
    return _compare_runs(options)


def _compare_runs(options: argparse.Namespace) -> int:
    from gpuconv.inspect.bisect_runs import bisect_runs

    with user_errors():
        found = bisect_runs(options.a, options.b)
        why = _find_element(found, options)
    facts = {name: value for name, value in vars(found).items() if name not in ("bits", "beyond", "shares")}
    json_output.note(**facts, bits=found.bits, beyond=found.beyond, agree=found.found is None, no_element=why or None)
    print(found)
    if why:
        print(f"the element is not known: {why}")
    pictures.draw(options.picture, found.picture)
    return int(found.found is not None)


def _find_element(found: Runs, options: argparse.Namespace) -> str:
    """Repeat both runs up to the tensor that differs, and add the element that differs most to `found`. Returns why
    that was not done, or ""."""
    from gpuconv.checkpoint import CheckpointError
    from gpuconv.cli.bisect_repeat import Repetition
    from gpuconv.inspect.bisect_runs import Element

    difference = found.found
    if difference is None or options.element is False:
        return ""
    try:
        if not (Path(options.a).is_dir() and Path(options.b).is_dir()):
            raise UserError("only two run directories can be repeated, not files of digests")
        runs = [Repetition(path, difference.step) for path in (options.a, options.b)]
        if options.element is None and any(run.steps > run.steps_per_epoch for run in runs):
            steps = " and ".join(f"{run.steps:,}" for run in runs)
            return f"to find it, {steps} steps of the runs, more than an epoch, must be repeated; --element does that"
        element = Element.of(*(run.values(difference.key) for run in runs))
    except (UserError, CheckpointError, OSError, ValueError) as error:
        if options.element:
            raise
        return str(error)
    found.set_element(element)
    return "" if element else "the repeated tensors differ in shape, or only in the signs of zeros"


def _compare_sides(options: argparse.Namespace) -> int:
    from gpuconv.data import Normalization, load
    from gpuconv.inspect.bisect import Side, bisect

    with user_errors():
        sides = [Side.parse(text) for text in (options.a, options.b)]
        kernels = _kernels(options)
        a, b = _with_devices(*sides)
    if a == b and not kernels:
        raise UserError(f"A and B are both {a}; name two sides, or a --kernel for B")
    settings = run_settings.with_recipe(run_settings.from_options(options))
    steps = options.steps or 2
    with user_errors():
        train, _ = load(settings.data)
        trainers = _trainer(settings, a, train), _trainer(settings, b, train)
        for name, side, trainer in zip("AB", (a, b), trainers):
            print_line(name, f"{trainer.net.device}, {trainer.net.precision}, algorithm {side.algo}")
        if kernels and not Device.named(trainers[1].net.device).runs_kernels:
            raise UserError(f"{trainers[1].net.device} runs no kernels: B must be cuda or emulated for --kernel")
        normalization = Normalization.from_dataset(train)
        try:
            found = bisect(
                *trainers,
                train,
                steps=steps,
                kernels=kernels,
                batch_size=settings.batch_size,
                normalization=normalization,
            )
        except (RuntimeError, FloatingPointError) as error:  # faults of kernels, and losses that are not finite
            where = ", ".join(getattr(error, "__notes__", []))
            raise UserError(f"{type(error).__name__}: {error}{where and f' ({where})'}") from error
    facts = {name: value for name, value in vars(found).items() if name != "shares"}
    json_output.note(**facts, agree=found.violation is None)
    print(found)
    pictures.draw(options.picture, found.picture)
    return int(found.violation is not None)


def _kernels(options: argparse.Namespace) -> dict[str, Path]:
    """The files that B uses in place of shipped ones."""
    from gpuconv import lab

    if options.kernel is None or options.op is None:
        if options.kernel or options.op or options.algo:
            raise UserError("--kernel FILE and --op NAME belong together, as in gpuconv lab")
        return {}
    if not options.kernel.is_file():
        raise UserError(f"{options.kernel}: no such file")
    lab.check_signatures(options.kernel, options.op, options.algo)
    return {lab.shipped_file(options.op, options.algo): options.kernel.resolve()}


def _with_devices(a: Side, b: Side) -> list[Side]:
    """Both sides, each with the full name of its device, or of the other side's if it has none."""
    from gpuconv import backends

    devices = a.device or b.device or "auto", b.device or a.device or "auto"
    return [dataclasses.replace(side, device=backends.resolve(device)) for side, device in zip((a, b), devices)]


def _trainer(settings: run_settings.Settings, side: Side, train: Dataset | Samples) -> Trainer:
    from gpuconv.cli import nets
    from gpuconv.training import Trainer

    net = nets.build(settings.model, train.image_shape, len(train.classes), seed=settings.seed)
    for layer in net.walk():
        if hasattr(layer, "algo"):
            layer.algo = side.algo
    return Trainer(
        net.to(side.device),
        settings.optimizer,
        lr=settings.lr,
        loss=settings.loss,
        clip=settings.clip,
        seed=settings.seed,
        precision=side.precision,
        graph=False,
    )
