"""Explain one value of a net for an image, or show the parts of the image on which a class depends.

The explanation of a value lists its inputs, their factors, and the sum as the oracle, NumPy and the device compute it,
each with its error and bound. On a CUDA device or the emulated one it names the kernel, block, warp, thread and source
line that computed the value, as observed on the emulator."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from gpuconv.cli import json_output, pictures, predict
from gpuconv.cli.device_option import add_device, choose_device
from gpuconv.cli.errors import UserError, user_errors
from gpuconv.cli.nets import add_model_file
from gpuconv.cli.option_types import count
from gpuconv.cli.runs import Run, add_which, expect_normalization, open_run
from gpuconv.names import canonical, lookup
from gpuconv.text import parse_numbers
from gpuconv.text.plain_text import printable
from gpuconv.types import Array

if TYPE_CHECKING:
    from gpuconv.inspect.computed_by import Thread
    from gpuconv.inspect.explain import Explanation, Term
    from gpuconv.layers.sequential import Sequential


EXAMPLES = [
    "gpuconv explain runs/digits-digits-net-1 seven.png --layer conv2 --at 5,7,12",
    "gpuconv explain runs/digits-digits-net-1 seven.png --layer conv1 --at 0,0,3 --device emulated --picture value.png",
    "gpuconv explain runs/digits-digits-net-1 seven.png --layer conv1 --at 4,4,0 --backward --target 7",
    "gpuconv explain runs/digits-digits-net-1 seven.png --map grad-cam --picture where.png",
]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN", help="the run whose net looks at the image")
    parser.add_argument("image", metavar="IMAGE", help="an image file")
    parser.add_argument("--layer", metavar="NAME", help="the layer: conv2, or residual1.conv1 for one inside a block")
    parser.add_argument("--at", metavar="Y,X,C", type=index, help="the value's index; one number for a row of features")
    parser.add_argument(
        "--backward", action="store_true", help="explain the gradient of the layer's input at that place instead"
    )
    parser.add_argument("--map", metavar="KIND", help="saliency, occlusion or grad-cam: a picture of the whole image")
    parser.add_argument(
        "--target", metavar="CLASS", help="the class of --backward and --map (default: the best-scored)"
    )
    parser.add_argument("--most", metavar="N", type=count(1), default=8, help="how many inputs to name (default: 8)")
    parser.add_argument("--picture", metavar="FILE", help="draw the value or the map (a .png)")
    add_which(parser)
    add_model_file(parser)
    add_device(parser)


def index(text: str) -> tuple[int, ...]:
    """An argparse type: "5,7,12"."""
    try:
        return tuple(map(parse_numbers.integer, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers with commas, such as 5,7,12, received {text!r}") from None


def run(options: argparse.Namespace) -> int:
    from gpuconv import backends, plots
    from gpuconv.training.image_activations import activations_of

    _expect_choice(options)
    pictures.expect_target(options.picture, [options.image])
    trained = open_run(options.run_dir, choose_device(options), options.which, options.model)
    normalization = expect_normalization(trained)
    target = _target(options.target, trained.classes)
    image = predict.read(options.image, trained)
    x = backends.asarray(normalization(image[None]), trained.net.device, trained.net.dtype)
    scores = activations_of(trained.net, x)[1]
    if options.map:
        title, volumes = _map(options, trained.net, x, target)
    else:
        title, volumes = _value(options, trained, x, target)
    pictures.draw(options.picture, lambda: plots.activations(image, volumes, scores, trained.classes, title=title))
    return 0


def _expect_choice(options: argparse.Namespace) -> None:
    """Raises UserError for conflicting or missing options."""
    from gpuconv.inspect.attribution_maps import MAPS

    if options.map:
        with user_errors():
            options.map = canonical("map", options.map, MAPS)
        if options.at or options.backward:
            raise UserError("--map is of the whole image: leave --at and --backward out")
        if options.layer and options.map != "grad-cam":
            raise UserError(f"--layer is for --map grad-cam, received --map {options.map}")
        if not options.picture:
            raise UserError("--map makes a picture: say where with --picture FILE.png")
    elif not (options.layer and options.at):
        raise UserError("say which value with --layer conv2 --at 5,7,12, or which map of the image with --map grad-cam")
    elif options.target and not options.backward:
        raise UserError("--target is for --backward and --map; an activation has no class")


def _target(name: str | None, classes: list[str]) -> int | None:
    if name is None:
        return None
    with user_errors():
        return lookup("class", name, {each: number for number, each in enumerate(classes)})


def _map(
    options: argparse.Namespace, net: Sequential, x: Array, target: int | None
) -> tuple[str, list[tuple[str, np.ndarray]]]:
    """Print where the map is largest. Returns the title of its picture, and the map as a volume to draw."""
    from gpuconv.inspect import grad_cam, occlusion, saliency

    with user_errors():
        if options.map == "grad-cam":
            found = grad_cam(net, x, layer=options.layer, target=target)
        else:
            found = {"saliency": saliency, "occlusion": occlusion}[options.map](net, x, target=target)
    found = np.atleast_3d(found)
    json_output.note(map=options.map, values=found)
    largest = tuple(map(int, np.unravel_index(np.abs(found).sum(axis=2).argmax(), found.shape[:2])))
    print(f"{options.map}: {f'largest at {[*largest]}' if found.any() else '0 everywhere'}")
    return f"{options.map} of {printable(options.image)}", [(options.map, found)]


def _value(
    options: argparse.Namespace, trained: Run, x: Array, target: int | None
) -> tuple[str, list[tuple[str, np.ndarray]]]:
    """Print the explanation of one value. Returns the title of its picture, and the volumes to draw."""
    from gpuconv.inspect import explain

    with user_errors():
        found = explain(
            trained.net,
            x,
            options.layer,
            options.at,
            most=options.most,
            backward=options.backward,
            target=target,
            locate=True,
        )
    names = ("layer", "kind", "at", "direction", "branch", "value", "total", "bias")
    facts = {name: getattr(found, name) for name in names}
    terms = [{"at": t.at, "input": t.input, "weight": t.weight, "product": t.product} for t in _listed(found)]
    json_output.note(
        **facts, margin=found.margin, window=found.window, weight=found.weight, terms=terms, computed=found.computed
    )
    json_output.note(thread=found.thread)
    print("\n".join(text(found)))
    volumes = [("gradients" if options.backward else "window", np.nan_to_num(found.window, neginf=0.0))]
    if found.weight is not None:
        weight = found.weight.reshape(found.window.shape)
        volumes += [("weights" if options.backward else "filter", weight), ("product", found.window * weight)]
    return str(found), volumes


def _listed(found: Explanation) -> list[Term]:
    """The terms to show: in the backward direction those that contribute to the gradient."""
    return [term for term in found.terms if found.direction == "forward" or term.product != 0]


def text(found: Explanation) -> list[str]:
    """An explanation as lines of text."""
    lines = [str(found), "", f"  {'computed by':14}{'value':>16}{'error':>12}{'bound':>12}"]
    lines += [f"  {c.by:14}{c.value:16.9g}{c.error:12.3g}{c.bound:12.3g}" for c in found.computed]
    senders = "branches" if found.kind in ("Residual", "Branches") else "outputs"
    backward = found.direction == "backward"
    terms = _listed(found)
    what = f"{senders} that contribute most" if backward else "inputs that matter most"
    lines += ["", f"  {what}"] if terms else []
    for term in terms:
        product = "" if found.weight is None else f" x {term.weight:.6g} = {term.product:.6g}"
        lines.append(f"  {[*term.at]!s:18}{term.input:.6g}{product}")
    if found.thread:
        lines += ["", f"  algorithm {found.thread.algorithm}"] if found.thread.algorithm else [""]
        if found.thread.part:
            lines += [
                "  the first part of the sum, by",
                *_thread_lines(found.thread.part),
                "  the sum of the parts, by",
            ]
        lines += _thread_lines(found.thread)
    return lines


def _thread_lines(thread: Thread) -> list[str]:
    lines = [
        f"  kernel {each.kernel}, block {each.block}, warp {each.warp}, thread {each.thread}, {each.source}"
        for each in thread.writers
    ]
    for array in thread.touched:
        what = " and ".join(f"{verb} {n} bytes" for verb, n in (("reads", array.read), ("writes", array.written)) if n)
        lines.append(f"    {what} of {array.name}, from {array.first} to {array.last}")
    return lines
