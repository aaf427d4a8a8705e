"""Muon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpuconv import ops
from gpuconv.arguments import integer, number
from gpuconv.newton_schulz import MOST_NEWTON_SCHULZ
from gpuconv.training.optimizers.base import Arrays, Optimizer, expect_nesterov
from gpuconv.types import Array


@dataclass(kw_only=True, eq=False)
class Muon(Optimizer):
    """Momentum, orthogonalized by Newton-Schulz steps, for filters and matrices only. Weights are scaled to a norm of 1
    for each filter, so there is no weight decay (see `gpuconv.ops.muon_step`; Jordan et al. 2024).

    Args:
        momentum: In [0, 1].
        nesterov: Whether to use Nesterov momentum.
        newton_schulz: The number of Newton-Schulz steps, 0 to 100.
        tf32: Whether to multiply in TF32, by tensor cores on a GPU: True (refused for float64 nets), False, or "auto",
            which is True for 16-bit nets.
    """

    name: ClassVar[str] = "muon"
    lr: float = 0.02
    momentum: float = 0.95
    nesterov: bool = True
    newton_schulz: int = 5
    tf32: bool | str = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        number("momentum", self.momentum, 0, 1)
        self.newton_schulz = integer("newton_schulz", self.newton_schulz, 0, MOST_NEWTON_SCHULZ)
        expect_nesterov(self.nesterov, self.momentum)
        if self.tf32 not in (True, False, "auto"):
            raise ValueError(f"tf32 must be true, false or auto, received {self.tf32!r}")
        self.tf32 = self.tf32 if self.tf32 == "auto" else bool(self.tf32)
        if self.weight_decay:
            raise ValueError("muon keeps the norm of each weight, so it takes no weight_decay")

    def build(self, params: Arrays, masters: Mapping[str, np.ndarray] | None = None) -> None:
        vectors = [name for name, param in params.items() if len(param.shape) < 2]
        if vectors:
            raise ValueError(
                f"muon takes filters and matrices, not {', '.join(vectors)}: give those to another optimizer in "
                "groups, as 'filters -> muon:lr=0.02; * -> sgd:lr=0.05'"
            )
        if self.tf32 is True and any(param.dtype == np.float64 for param in params.values()):
            raise ValueError("muon's tf32=True multiplies float32 numbers, received parameters in float64")
        super().build(params, masters)

    def slots(self) -> tuple[str, ...]:
        return ("velocity",)

    def _launch(self, params: Sequence[Array], grads: Sequence[Array], *state: Any, **more: Any) -> None:
        ops.muon_step(
            params,
            grads,
            *state,
            lr=self._lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            steps=self.newton_schulz,
            tf32=params[0].dtype.itemsize == 2 if self.tf32 == "auto" else bool(self.tf32),
            **more,
        )
