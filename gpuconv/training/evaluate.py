"""How well a net does on images: loss, accuracy, and which classes it confuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuconv import backends, losses
from gpuconv.shapes import integer
from gpuconv.training.metrics import Totals

Array = Any


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. accuracy is between 0 and 1.

    confusion: int64 (classes, classes) or None; [i, j] counts the images of class i that were taken for class j.
    """

    loss: float
    accuracy: float
    samples: int
    confusion: np.ndarray | None = None


def evaluate(
    net: Any, loader: Any, *, loss: Any = "softmax", confusion: bool = False, flip: bool = False, shift: int = 0
) -> Evaluation:
    """Run a net over every batch of a loader, without training it.

    loader: what gives batches by ``epoch(0)``, on the net's device; it should neither augment nor drop. flip, shift:
    average the scores over augmented copies of each image: mirrored, and moved by `shift` pixels up, down, left and
    right (the border is filled with zeros). Raises ValueError when there is no image.
    """
    criterion, shift = losses.get(loss), integer("shift", shift, 0)
    totals, matrix = None, None
    for x, labels in loader.epoch(0):
        scores = averaged_scores(net, x, flip=flip, shift=shift)
        totals = totals or Totals(backends.device_of(scores))
        totals.add(criterion(scores, labels)[0], scores, labels)
        if confusion:
            matrix = np.zeros(2 * scores.shape[1:], np.int64) if matrix is None else matrix
            chosen = backends.to_numpy(scores).argmax(axis=1)
            np.add.at(matrix, (backends.to_numpy(labels), chosen), 1)
    if totals is None:
        raise ValueError("there is nothing to evaluate on: the loader gave no batch")
    sums = totals.read()
    return Evaluation(sums.loss, sums.accuracy, int(sums.samples), matrix)


def averaged_scores(net: Any, x: Array, *, flip: bool = False, shift: int = 0) -> Array:
    """The mean of a net's scores over `views` of a batch. x: (N, H, W, C). Returns (N, classes)."""
    scores = [net.infer(view) for view in views(x, flip=flip, shift=shift)]
    return sum(scores[1:], scores[0]) / scores[0].dtype.type(len(scores))


def views(x: Array, *, flip: bool = False, shift: int = 0) -> Iterator[Array]:
    """The batch itself, then copies moved by `shift` pixels along each axis, then all of them mirrored."""
    moves = [(0, 0), *((dy, dx) for dy, dx in ((-shift, 0), (shift, 0), (0, -shift), (0, shift)) if shift)]
    for mirrored in (False, True)[: 1 + flip]:
        for dy, dx in moves:
            yield x if not (mirrored or dy or dx) else _moved(x, dy, dx, mirrored)


def _moved(x: Array, dy: int, dx: int, mirrored: bool) -> Array:
    """x mirrored left to right, if asked, then moved down by dy and right by dx over zeros."""
    height, width = x.shape[1:3]
    if max(abs(dy), abs(dx)) >= min(height, width):
        raise ValueError(f"shift must be smaller than the image ({height} x {width}), received {max(abs(dy), abs(dx))}")
    source = x[:, :, ::-1] if mirrored else x
    moved = backends.zeros(x.shape, x.dtype, backends.device_of(x))
    moved[:, max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = source[
        :, max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
    ]
    return moved
