"""Lion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from gpuconv import ops
from gpuconv.arguments import number
from gpuconv.training.optimizers.base import Common, Optimizer
from gpuconv.types import Array


@dataclass(kw_only=True, eq=False)
class Lion(Optimizer):
    """param -= lr * sign(beta1 * m + (1 - beta1) * g), with m the running mean of the gradient g, and with decoupled
    decay as in AdamW (Chen et al. 2023). The paper advises a rate 3 to 10 times smaller than AdamW's, and a decay as
    many times larger.

    Args:
        beta1: The share of m in the direction, in [0, 1).
        beta2: The decay of m, in [0, 1).
    """

    name: ClassVar[str] = "lion"
    lr: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        number("beta1", self.beta1, 0, 1, open_high=True)
        number("beta2", self.beta2, 0, 1, open_high=True)

    def slots(self) -> tuple[str, ...]:
        return ("exp_avg",)

    def _launch(self, params: Sequence[Array], grads: Sequence[Array], *state: Any, **more: Unpack[Common]) -> None:
        ops.lion_step(
            params,
            grads,
            *state,
            lr=self._lr,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=self._weight_decay,
            **more,
        )
