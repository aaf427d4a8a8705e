"""The attribution map of the displayed image: it shows on which parts of the image the best class depends. The map is
computed piece by piece."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpuconv import backends
from gpuconv.inspect.attribution_maps import MAPS, map_stages
from gpuconv.live import pictures, snapshots
from gpuconv.live.segment import Segment

NONE = "none"
MAP_KINDS = (NONE, *MAPS)
BATCH = 15  # occluded images that are evaluated between two steps


class Attribution:
    """The map of the displayed image. kind: one of MAP_KINDS.

    `advance` begins a new map only once per training step, or after `restart`. An occlusion map takes several
    calls."""

    def __init__(self) -> None:
        self.kind = NONE
        self.restart()

    def restart(self) -> None:
        """Forget the map, because another image, kind or net is shown."""
        self._work: Iterator[np.ndarray] | None = None
        self._begun_after: int | None = None  # the step after which the current map was begun
        self._target = 0

    @property
    def unfinished(self) -> bool:
        return self._work is not None

    def advance(self, segment: Segment, image: np.ndarray) -> bytes | None:
        """The map after one more piece of work; None if there is nothing to do."""
        steps = segment.trainer.steps
        if self._work is None:
            if self.kind == NONE or self._begun_after == steps:
                return None
            x = snapshots.normalize_images(segment, image[None])
            self._begun_after = steps
            self._target = int(backends.to_numpy(segment.net.infer(x)).argmax())
            self._work = map_stages(self.kind, segment.net, x, target=self._target, batch=BATCH)
        head = {"map": self.kind, "target": self._target, "step": self._begun_after, "error": ""}
        try:
            found = next(self._work, None)
        except ValueError as error:  # for example, no layer of the net has maps for Grad-CAM
            self._work = None
            return pictures.pack(head | {"error": str(error)}, [])
        except Exception:
            self._work = None
            raise
        if found is None:
            self._work = None
            return None
        flat = np.abs(found).max(axis=2) if found.ndim == 3 else found
        return pictures.pack(head, [pictures.plane(self.kind, flat)])
