"""Muon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar, Unpack

import numpy as np

from gpuconv import ops
from gpuconv.arguments import integer
from gpuconv.names import canonical
from gpuconv.newton_schulz import MATMUL_PRECISIONS, MOST_NEWTON_SCHULZ
from gpuconv.ops.optim.expect import expect_momentum
from gpuconv.training.optimizers.base import Arrays, Common, Optimizer
from gpuconv.types import Array


@dataclass(kw_only=True, eq=False)
class Muon(Optimizer):
    """Momentum, orthogonalized by Newton-Schulz steps, for filters and matrices only. In each step a weight of K
    filters is first scaled to a norm of sqrt(K), so there is no weight decay (`gpuconv.ops.muon_step`; Jordan et al.
    2024).

    Args:
        momentum: In [0, 1].
        nesterov: Whether to use Nesterov momentum, which needs a momentum above 0.
        newton_schulz: The number of Newton-Schulz steps, 0 to 100.
        matmul_precision: How the matrix products are computed. "full": in the accumulation dtype. "tf32" or "bfloat16":
            with factors of that precision, on a GPU by tensor cores; nets in float64 cannot use them. "auto":
            "bfloat16" for 16-bit nets and "full" for others.
        tf32: The earlier name of matmul_precision: True means "tf32", False means "full", and "auto" means "auto".

    Raises:
        ValueError: A setting is out of its range, there is a weight_decay, or tf32 is True or False and
            matmul_precision is not "auto".
    """

    name: ClassVar[str] = "muon"
    lr: float = 0.02
    momentum: float = 0.95
    nesterov: bool = True
    newton_schulz: int = 5
    matmul_precision: str = "auto"
    tf32: InitVar[bool | str | None] = None

    def __post_init__(self, tf32: bool | str | None) -> None:
        super().__post_init__()
        self.newton_schulz = integer("newton_schulz", self.newton_schulz, 0, MOST_NEWTON_SCHULZ)
        expect_momentum(self.momentum, self.nesterov)
        self.matmul_precision = canonical("matmul_precision", self.matmul_precision, ("auto", *MATMUL_PRECISIONS))
        if tf32 not in (True, False, "auto", None):
            raise ValueError(f"tf32 must be true, false or auto, received {tf32!r}")
        if tf32 in (True, False):
            if self.matmul_precision != "auto":
                raise ValueError(
                    "tf32 is the earlier name of matmul_precision, "
                    f"received matmul_precision={self.matmul_precision!r} too"
                )
            self.matmul_precision = "tf32" if tf32 else "full"
        if self.weight_decay:
            raise ValueError("muon keeps the norm of each weight, so it takes no weight_decay")

    def build(self, params: Arrays, masters: Mapping[str, np.ndarray] | None = None) -> None:
        vectors = [name for name, param in params.items() if len(param.shape) < 2]
        if vectors:
            raise ValueError(
                f"muon takes filters and matrices, not {', '.join(vectors)}: give those to another optimizer in "
                "groups, such as 'filters -> muon:lr=0.02; * -> sgd:lr=0.05'"
            )
        if self.matmul_precision in ("tf32", "bfloat16") and any(
            param.dtype == np.float64 for param in params.values()
        ):
            raise ValueError(
                f"muon's matmul_precision={self.matmul_precision} multiplies float32 numbers, "
                "received parameters in float64"
            )
        super().build(params, masters)

    def slots(self) -> tuple[str, ...]:
        return ("velocity",)

    def _launch(self, params: Sequence[Array], grads: Sequence[Array], *state: Any, **more: Unpack[Common]) -> None:
        ops.muon_step(
            params,
            grads,
            *state,
            lr=self._lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            steps=self.newton_schulz,
            precision=self._precision_for(params[0].dtype),
            **more,
        )

    def _precision_for(self, dtype: np.dtype) -> str:
        if self.matmul_precision != "auto":
            return self.matmul_precision
        return "bfloat16" if dtype.itemsize == 2 else "full"
