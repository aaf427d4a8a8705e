"""Adagrad."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from gpuconv import ops
from gpuconv.arguments import number
from gpuconv.training.optimizers.base import Common, Optimizer
from gpuconv.types import Array


@dataclass(kw_only=True, eq=False)
class Adagrad(Optimizer):
    """s += g**2; param -= lr * g / (sqrt(s) + eps) (Duchi et al. 2011).

    Args:
        eps: Added to the root of s; at least 0.
    """

    name: ClassVar[str] = "adagrad"
    lr: float = 0.01
    eps: float = 1e-10

    def __post_init__(self) -> None:
        super().__post_init__()
        number("eps", self.eps, 0)

    def slots(self) -> tuple[str, ...]:
        return ("square_sum",)

    def _launch(self, params: Sequence[Array], grads: Sequence[Array], *state: Any, **more: Unpack[Common]) -> None:
        ops.adagrad_step(params, grads, *state, lr=self._lr, eps=self.eps, weight_decay=self._weight_decay, **more)
