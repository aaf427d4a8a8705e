"""RMSprop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from gpuconv import ops
from gpuconv.arguments import number
from gpuconv.training.optimizers.base import Common, Optimizer
from gpuconv.types import Array


@dataclass(kw_only=True, eq=False)
class RMSprop(Optimizer):
    """s = alpha * s + (1 - alpha) * g**2; param -= lr * g / (sqrt(s) + eps) (Tieleman and Hinton 2012).

    Args:
        alpha: The decay of the running mean s, in [0, 1].
        eps: Added to the root of s; at least 0.
    """

    name: ClassVar[str] = "rmsprop"
    lr: float = 0.01
    alpha: float = 0.99
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        number("alpha", self.alpha, 0, 1)
        number("eps", self.eps, 0)

    def slots(self) -> tuple[str, ...]:
        return ("square_average",)

    def _launch(self, params: Sequence[Array], grads: Sequence[Array], *state: Any, **more: Unpack[Common]) -> None:
        ops.rmsprop_step(
            params, grads, *state, lr=self._lr, alpha=self.alpha, eps=self.eps, weight_decay=self._weight_decay, **more
        )
