"""The messages that show a run to browsers, made between two steps in the training thread."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from gpuconv import backends, losses, ops, summary
from gpuconv.data import Dataset, Samples
from gpuconv.data.samples import read_checked
from gpuconv.integers import ceil_div
from gpuconv.live import pictures
from gpuconv.live.request_parsing import write_net
from gpuconv.live.segment import DataSplits, Segment
from gpuconv.live.setting_changes import CHANGE
from gpuconv.types import Array, Record

T = TypeVar("T")

POINTS = 400  # at most this many points of a curve are sent
EXAMPLES = 64  # test images that are evaluated
SHOWN = 12  # at most this many images that the net classifies correctly are shown, and at most as many others


def encode(value: object) -> bytes:
    return json.dumps(value, default=_to_json, separators=(",", ":"), allow_nan=False).encode()


def net(segment: Segment) -> Record:
    """The net as a list of layers, and as editable text."""
    rows = [
        {
            "layer": name,
            "kind": type(layer).__name__,
            "text": repr(layer),
            "shape": list(layer.output_shape or ()),
            "parameters": layer.parameter_count,
        }
        for name, layer in pictures.layers_of(segment.net).items()
    ]
    table = summary.rows(segment.net)
    total = sum(row.parameters for row in table)
    return {"rows": rows, "parameters": total, "mult_adds": sum(row.mult_adds for row in table)} | {
        "text": write_net(segment.net.config()),
        "input": list(segment.net.input_shape),
    }


def curves(records: Sequence[Record]) -> Record:
    """The points of the curves: [step, loss, accuracy] for the readings, and for the epochs of each part ("train",
    "validation" and "test"), all of them thinned. "changes": [step, text] for each change of settings."""
    readings = [[r["step"], r["loss"], r["accuracy"]] for r in records if r["event"] == "step"]
    epochs = [r for r in records if r["event"] == "epoch"]
    parts = {
        part: _thinned([[r["step"], r[f"{part}_loss"], r[f"{part}_accuracy"]] for r in epochs if f"{part}_loss" in r])
        for part in ("train", "validation", "test")
    }
    changes = [[r["step"], _as_text(r["settings"])] for r in records if r["event"] == CHANGE]
    return {"readings": _thinned(readings), **parts, "changes": changes}


def confusion(records: Sequence[Record], classes: Sequence[str]) -> Record | None:
    """The newest confusion matrix: of the validation images if there are any, else of the test images."""
    for record in reversed(records):
        for part in ("validation", "test"):
            if f"{part}_confusion" in record:
                return {"part": part, "matrix": record[f"{part}_confusion"], "classes": list(classes)}
    return None


def picture(segment: Segment, kind: str, image: np.ndarray, truth: int | None, head: Record) -> bytes:
    """The activations or gradients of one image, or the net's filters, by `kind`. image: uint8 (H, W, C) of the net's
    size. truth: its class, if known; a label that the loss ignores is none."""
    truth = None if truth == losses.ignored_label(segment.trainer.loss) else truth
    x = normalize_images(segment, image[None])
    volumes, scores = pictures.activations(segment.net, x)
    probabilities = ops.softmax(scores.astype(np.float64))[0]
    if kind == "gradients":
        label = int(probabilities.argmax()) if truth is None else truth
        volumes = pictures.gradients(segment.net, x, label, segment.trainer.loss)
    elif kind == "filters":
        volumes = pictures.filters(segment.net)
    own = {"kind": kind, "truth": truth, "best": pictures.best_classes(probabilities)}
    return pictures.pack(head | own, volumes, [pictures.shrink_image(image)])


def first_labeled(data: Dataset | Samples, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `count` images, and their labels, which `Samples` may know only after reading."""
    if isinstance(data, Samples):
        return read_checked(data, np.arange(min(count, len(data))))
    return data.first(count), data.labels[:count]


def examples(segment: Segment, sets: DataSplits) -> bytes:
    """Some of the first test images with their five best scores, and how many of the first test images the net
    classifies correctly. Correctly classified images come before the others. Images whose label the loss ignores do
    not count."""
    images, labels = first_labeled(sets.test, EXAMPLES)
    scores = segment.net.infer(normalize_images(segment, images))
    probabilities = ops.softmax(backends.to_numpy(scores).astype(np.float64))
    counted = labels != losses.ignored_label(segment.trainer.loss)
    right = (probabilities.argmax(axis=1) == labels) & np.isfinite(probabilities).all(axis=1) & counted
    shown = [*np.flatnonzero(right)[:SHOWN], *np.flatnonzero(~right & counted)[:SHOWN]]
    answers = [
        {
            "index": int(at),
            "truth": int(labels[at]),
            "right": bool(right[at]),
            "best": pictures.best_classes(probabilities[at]),
        }
        for at in shown
    ]
    head = {"shown": answers, "right": int(right.sum()), "of": int(counted.sum())}
    return pictures.pack(head, [], [pictures.shrink_image(images[at]) for at in shown])


def weights(segment: Segment) -> dict[str, np.ndarray]:
    """Copies of the trained parameters; `scales` compares those before and after a step."""
    return backends.host_copies(segment.net.params(), np.float32)


def scales(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> list[Record]:
    """The root mean square of each parameter and of its update."""
    rows = []
    for name, value in after.items():
        if name in before and before[name].shape == value.shape:
            with np.errstate(invalid="ignore"):  # inf - inf
                update = np.subtract(value, before[name], dtype=np.float64)
            rows.append({"name": name, "weight": _rms(value), "update": _rms(update)})
    return rows


def normalize_images(segment: Segment, images: np.ndarray) -> Array:
    """uint8 images normalized for the net, in its dtype."""
    return backends.asarray(segment.net.normalization(images), segment.net.device, segment.net.dtype)


def _rms(values: np.ndarray) -> float | str:
    """The root mean square, as `pictures.number`. It is computed in float64, which no square of a float32 exceeds."""
    wide = values.astype(np.float64, copy=False)
    return pictures.number(math.sqrt(np.vdot(wide, wide) / max(wide.size, 1)))


def _thinned(points: list[T]) -> list[T]:
    step = ceil_div(len(points), POINTS) or 1
    return points[::-step][::-1]  # the newest one is kept


def _as_text(settings: Record) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _to_json(value: object) -> object:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else str(value)
