"""Dynamic loss scaling, without which small gradients vanish in float16 (Micikevicius et al. 2018).

The loss gradient is multiplied by a scale, the update divides by it. Where a gradient overflows, the step is skipped
and the scale falls; after many good steps it rises. All of it happens on the device: the host never waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuconv import backends, ops
from gpuconv.arguments import integer, number
from gpuconv.types import Array


@dataclass(kw_only=True, eq=False)
class LossScale:
    """The scale of a run; the defaults are those of PyTorch's GradScaler.

    start: the first scale. growth, backoff: what it is multiplied by after `interval` good steps in a row, and after a
    skipped one. array: what `ops.update_loss_scale` keeps on the device; factor: its first number, the scale.
    """

    start: float = 2.0**16
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000

    array: Any = field(default=None, init=False, repr=False)
    factor: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not number("start", self.start, 0):
            raise ValueError("start must be above 0, received 0")
        number("growth", self.growth, 1)
        number("backoff", self.backoff, 0, 1)
        integer("interval", self.interval, 1)

    def config(self) -> dict[str, Any]:
        """The settings, JSON-able."""
        return {name: getattr(self, name) for name in ("start", "growth", "backoff", "interval")}

    def build(self, device: str) -> None:
        self.array = backends.asarray(np.array([self.start, 0.0, 0.0, 0.0]), device)
        self.factor = self.array[:1]

    def update(self, grads: Mapping[str, Array]) -> None:
        """Look at a step's gradients, after backward and before the optimizer's update, which reads `array`."""
        ops.update_loss_scale(
            self.array, list(grads.values()), growth=self.growth, backoff=self.backoff, interval=self.interval
        )

    @property
    def scale(self) -> float:
        """The scale of the next step. Waits for the device."""
        return self.read()[0]

    @property
    def skipped(self) -> int:
        """How many steps were skipped so far. Waits for the device."""
        return int(self.read()[3])

    def read(self) -> list[float]:
        """Wait for the device and return what a run must know to go on."""
        return backends.to_numpy(self.array).tolist()

    def write(self, numbers: Sequence[float]) -> None:
        """Go on from what was read before."""
        backends.assign(self.array, np.array(numbers, np.float64))
