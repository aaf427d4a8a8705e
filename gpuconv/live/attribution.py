"""The map of the image that is shown: which of its parts the best class depends on, a part at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gpuconv import backends
from gpuconv.inspect.maps import MAPS, slices
from gpuconv.live import pictures, snapshots
from gpuconv.live.legs import Leg

NONE = "none"
KINDS = (NONE, *MAPS)
BATCH = 15  # occluded images between two steps


class Attribution:
    """kind: one of KINDS. A map is made anew after each step; an occlusion takes several calls of `advance`."""

    def __init__(self) -> None:
        self.kind = NONE
        self.restart()

    def restart(self) -> None:
        """Forget the map: another image, kind or net is shown."""
        self._work: Iterator[np.ndarray] | None = None
        self._made: int | None = None  # the step whose map was begun last
        self._target = 0

    @property
    def unfinished(self) -> bool:
        return self._work is not None

    def advance(self, leg: Leg, image: np.ndarray) -> bytes | None:
        """The map so far, after one more part of the work; None where there is nothing to do."""
        steps = leg.trainer.steps
        if self._work is None:
            if self.kind == NONE or self._made == steps:
                return None
            x = snapshots.given(leg, image[None])
            self._made, self._target = steps, int(backends.to_numpy(leg.net.infer(x)).argmax())
            self._work = slices(self.kind, leg.net, x, target=self._target, batch=BATCH)
        head = {"map": self.kind, "target": self._target, "step": self._made, "error": ""}
        try:
            found = next(self._work, None)
        except ValueError as error:  # the net has no maps for Grad-CAM, say
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
