"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

from gpuconv import ops
from gpuconv.arguments import number
from gpuconv.training.optimizers.base import Common, Optimizer
from gpuconv.types import Array


@dataclass(kw_only=True, eq=False)
class Adam(Optimizer):
    """param -= lr * m / (sqrt(v) + eps), with m and v the bias-corrected running means of the gradient and of its
    square (Kingma and Ba 2014).

    Args:
        beta1: The decay of the mean m, in [0, 1).
        beta2: The decay of the mean v, in [0, 1).
        eps: Added to the root of v; at least 0.
    """

    name: ClassVar[str] = "adam"
    decoupled: ClassVar[bool] = False
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        number("beta1", self.beta1, 0, 1, open_high=True)
        number("beta2", self.beta2, 0, 1, open_high=True)
        number("eps", self.eps, 0)

    def slots(self) -> tuple[str, ...]:
        return ("exp_avg", "exp_avg_sq")

    def _launch(self, params: Sequence[Array], grads: Sequence[Array], *state: Any, **more: Unpack[Common]) -> None:
        ops.adam_step(
            params,
            grads,
            *state,
            lr=self._lr,
            step=self._step,
            beta1=self.beta1,
            beta2=self.beta2,
            eps=self.eps,
            weight_decay=self._weight_decay,
            decoupled=self.decoupled,
            **more,
        )


@dataclass(kw_only=True, eq=False)
class AdamW(Adam):
    """Adam with decoupled decay: scales each parameter by 1 - lr * weight_decay (Loshchilov and Hutter 2017)."""

    name: ClassVar[str] = "adamw"
    decoupled: ClassVar[bool] = True
    weight_decay: float = 0.01
