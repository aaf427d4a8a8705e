"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from gpuconv import ops
from gpuconv.ops.optim.expect import expect_momentum
from gpuconv.training.optimizers.base import Common, Optimizer
from gpuconv.types import Array


@dataclass(kw_only=True, eq=False)
class SGD(Optimizer):
    """v = momentum * v + g; param -= lr * v, or lr * (g + momentum * v) with nesterov (PyTorch's form).

    Args:
        momentum: In [0, 1].
        nesterov: Whether lr * (g + momentum * v) is subtracted, not lr * v; needs a momentum above 0.
    """

    name: ClassVar[str] = "sgd"
    lr: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_momentum(self.momentum, self.nesterov)

    def slots(self) -> tuple[str, ...]:
        return ("velocity",) if self.momentum else ()

    def _launch(self, params: Sequence[Array], grads: Sequence[Array], *state: Any, **more: Unpack[Common]) -> None:
        ops.sgd_step(
            params,
            grads,
            *state,
            lr=self._lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self._weight_decay,
            **more,
        )
