"""Dynamic loss scaling, without which small gradients vanish in float16 (Micikevicius et al. 2018).

The gradient of the loss is multiplied by a scale, and the update divides by it. If a gradient overflows, the step is
skipped and the scale decreases; after many steps without overflow it increases. All of this happens on the device
without synchronization.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from gpuconv import backends, ops
from gpuconv.arguments import integer, number, positive
from gpuconv.checkpoint import as_json
from gpuconv.types import Array, Record


@dataclass(kw_only=True, eq=False)
class LossScale:
    """The scale of a run; the defaults are those of PyTorch's GradScaler.

    After `build`, `array` is the state of `ops.update_loss_scale` on the device; `factor`, its first number, is the
    scale.

    Args:
        start: The initial scale, above 0.
        growth: Multiplies the scale after `interval` steps in a row without overflow; at least 1.
        backoff: Multiplies the scale after a skipped step; in (0, 1].
        interval: A number of steps, at least 1.
    """

    start: float = 2.0**16
    growth: float = 2.0
    backoff: float = 0.5
    interval: int = 2000

    array: Array = field(default=None, init=False, repr=False)  # type: ignore[assignment]
    factor: Array = field(default=None, init=False, repr=False)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        positive("start", self.start)
        number("growth", self.growth, 1)
        number("backoff", self.backoff, 0, 1, open_low=True)
        integer("interval", self.interval, 1)

    def config(self) -> Record:
        """The settings. JSON-serializable."""
        return as_json({name: getattr(self, name) for name in ("start", "growth", "backoff", "interval")})

    def build(self, device: str) -> None:
        """Create the state on `device`."""
        self.array = backends.asarray(np.array([self.start, 0.0, 0.0, 0.0]), device)
        self.factor = self.array[:1]

    def update(self, grads: Mapping[str, Array]) -> None:
        """Check a step's `grads`, by name, after backward and before the optimizer's update, which reads `array`."""
        ops.update_loss_scale(
            self.array, list(grads.values()), growth=self.growth, backoff=self.backoff, interval=self.interval
        )

    @property
    def scale(self) -> float:
        """The scale of the next step. Synchronizes."""
        return self.read()[0]

    @property
    def skipped(self) -> int:
        """The number of steps skipped so far. Synchronizes."""
        return int(self.read()[3])

    def read(self) -> list[float]:
        """The state that a resumed run needs. Synchronizes."""
        return backends.to_numpy(self.array).tolist()

    def write(self, numbers: Sequence[float]) -> None:
        """Restore the state from the `numbers` of `read`."""
        backends.assign(self.array, np.array(numbers, np.float64))
