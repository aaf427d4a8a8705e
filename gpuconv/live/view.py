"""Makes the messages for browsers, each kind as often as its share of the run's time allows, and puts them into the
hub."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

import numpy as np

from gpuconv.inspect import explain
from gpuconv.live import attribution, pictures, snapshots
from gpuconv.live.attribution import Attribution
from gpuconv.live.budget import Budget
from gpuconv.live.hub import Hub
from gpuconv.live.segment import DataSplits, Segment
from gpuconv.types import Record

log = logging.getLogger(__name__)

GRID = 16  # at most this many rows and columns of an explained window are shown


class View:
    """The messages, and the image that the user chose.

    state: makes the "state" message, about what the run is doing.
    """

    def __init__(self, sets: DataSplits, hub: Hub, state: Callable[[], Record]) -> None:
        self.sets, self.hub, self.state = sets, hub, state
        self.budget = Budget()
        self.log: deque[str] = deque(maxlen=200)
        self.kind = pictures.DISPLAYS[0]
        self.image, self.truth, self.title = self._test_image(0)
        self.attribution = Attribution()
        self._before: tuple[int, dict[str, np.ndarray]] | None = None  # a step, and the weights after it

    @property
    def waits_for_step(self) -> bool:
        """Whether the update of the next step will be shown."""
        return self._before is not None and self.hub.clients > 0

    @property
    def is_due(self) -> bool:
        return self.hub.clients > 0 and self.budget.any_due

    def forget_weights(self) -> None:
        """Forget the weights with which those after the next step would be compared."""
        self._before = None

    def say(self, text: str) -> None:
        log.info("%s", text)
        self.log.append(text)
        self.hub.put("log", snapshots.encode([*self.log]))

    def confusion(self, records: list[Record]) -> None:
        if (found := snapshots.confusion(records, self.sets.classes)) is not None:
            self.hub.put("confusion", snapshots.encode(found))

    def show_all(self, segment: Segment, *, ended: bool) -> None:
        """Send everything again, for new and current browsers."""
        self.hub.put("net", snapshots.encode(snapshots.net(segment)))
        self.hub.put("log", snapshots.encode([*self.log]))
        self.confusion(segment.trainer.records)
        self.attribution.restart()
        self.budget.make_due()
        self.show(segment, ended=ended)

    def show(self, segment: Segment, *, ended: bool) -> None:
        """Send what is due. ended: whether the run has ended, so that no later step's update can be measured."""
        steps = segment.trainer.steps
        if self._before is not None and steps > self._before[0]:
            (at, before), self._before = self._before, None
            if steps == at + 1:
                self._make_and_send(
                    "scales", lambda: snapshots.encode(snapshots.scales(before, snapshots.weights(segment)))
                )
        makers: dict[str, Callable[[], bytes | None]] = {
            "state": lambda: snapshots.encode(self.state()),
            "curves": lambda: snapshots.encode(snapshots.curves(segment.trainer.records)),
            "picture": lambda: snapshots.picture(
                segment, self.kind, self.image, self.truth, {"shown": self.title, "step": steps}
            ),
            "examples": lambda: snapshots.examples(segment, self.sets),
            "map": lambda: self.attribution.advance(segment, self.image),
        }
        for name, make in makers.items():
            if self.budget.due(name):
                self._make_and_send(name, make)
        if not ended and self._before is None and self.budget.due("scales"):
            with self.budget.spend("scales"):
                self._before = steps, snapshots.weights(segment)  # the next step's update is measured

    def _make_and_send(self, name: str, make: Callable[[], bytes | None]) -> None:
        """Make a message and send it. A failure is reported and does not stop the run."""
        with self.budget.spend(name):
            try:
                if (message := make()) is not None:
                    self.hub.put(name, message)
            except Exception as error:
                report = f"cannot show {name}: {error}"
                if report not in self.log:
                    self.say(report)

    def choose(
        self, kind: str | None, test: int | None, image: np.ndarray | None, title: str, mapped: str | None = None
    ) -> None:
        """Choose a test image or the user's image, and what to show of it. mapped: the kind of attribution
        map."""
        if kind is not None and kind not in pictures.DISPLAYS:
            raise ValueError(f"kind must be one of {', '.join(pictures.DISPLAYS)}, received {kind!r}")
        if mapped is not None and mapped not in attribution.MAP_KINDS:
            raise ValueError(f"map must be one of {', '.join(attribution.MAP_KINDS)}, received {mapped!r}")
        if test is not None:
            count = len(self.sets.test)
            if type(test) is not int or not 0 <= test < count:
                raise ValueError(f"test images are numbered from 0 to {count - 1}, received {test!r}")
            self.image, self.truth, self.title = self._test_image(test)
        elif image is not None:
            self.image, self.truth, self.title = image, None, title
        self.kind = kind or self.kind
        self.attribution.kind = mapped or self.attribution.kind
        self.attribution.restart()
        self.budget.make_due("picture", "state", "map")

    def explain(self, segment: Segment, layer: str, at: list[int]) -> Record:
        """The explanation of how one activation of the image is computed, as JSON values (see `pictures.number`)."""
        found = explain(segment.net, snapshots.normalize_images(segment, self.image[None]), layer, at)
        terms = [
            {
                "at": t.at,
                "input": pictures.number(t.input),
                "weight": pictures.number(t.weight),
                "product": pictures.number(t.product),
            }
            for t in found.terms
        ]
        weight = None if found.weight is None else found.weight.reshape(found.window.shape)
        return {
            "text": str(found),
            "kind": found.kind,
            "terms": terms,
            "value": pictures.number(found.value),
            "total": pictures.number(found.total),
            "bias": pictures.number(found.bias),
            "error": pictures.number(found.error),
            "window": _grid(found.window),
            "weight": None if weight is None else _grid(weight),
            "channels": found.window.shape[2] if found.window.ndim == 3 else 1,
            "size": found.window.size,
        }

    def _test_image(self, number: int) -> tuple[np.ndarray, int | None, str]:
        images, labels = snapshots.first_labeled(self.sets.test.subset([number]), 1)
        return images[0], int(labels[0]), f"test image {number}"


def _grid(values: np.ndarray) -> list[list[float | str]]:
    """The first channel of a window, or a vector as one row; at most GRID rows and columns."""
    rows = values[:, :, 0] if values.ndim == 3 else values.reshape(1, -1)
    return [[pictures.number(value) for value in row] for row in rows[:GRID, :GRID].tolist()]
