"""Gradient clipping. Short forms, as in `gpuconv train --clip`: "1.0" or "norm:1.0", "value:0.5"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gpuconv import ops, spec
from gpuconv.arguments import positive
from gpuconv.names import canonical
from gpuconv.types import Array

KINDS = ("norm", "value")
LIKE = "norm:1.0"


@dataclass(frozen=True)
class Clip:
    """Limits a step's gradients before the optimizer uses them, like PyTorch's clip_grad_norm_ and clip_grad_value_.

    Args:
        kind: "norm": all gradients are multiplied by one factor if their total norm is above the limit;
            "value": each number is clipped to [-limit, limit].
        limit: Above 0. It applies to the unscaled gradients (float16 trains with a loss scale).
    """

    kind: str
    limit: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", canonical("kind of clipping", self.kind, KINDS))
        object.__setattr__(self, "limit", positive(f"the limit of the {self.kind}", self.limit))

    @classmethod
    def of(cls, given: str | float | Clip | None) -> Clip | None:
        """A `Clip` from its short form or from the limit of the norm.

        Args:
            given: "value:0.5", a number, a `Clip`, or None or "none" for no clipping.

        Raises ValueError or TypeError if it cannot be built.
        """
        if given is None or isinstance(given, Clip):
            return given
        if not isinstance(given, str):
            return cls("norm", given)
        if given == "none":
            return None
        read = spec.number_in(given)
        if read is not None:
            return cls("norm", read)
        part, *more = spec.parse(given, like=LIKE)
        if more or part.options or len(part.numbers) != 1:
            raise ValueError(f"clipping is written like {LIKE!r} or 'value:0.5', received {given!r}")
        return cls(part.name, part.numbers[0])

    def __str__(self) -> str:
        return f"{self.kind}:{self.limit!r}"

    def apply(self, grads: Mapping[str, Array], scaling: Array | None, clipped: Array) -> Array | None:
        """Clip a step's gradients; returns the scaling for the optimizer's update. Only device work.

        Args:
            grads: The gradients by name.
            scaling: The array of `ops.update_loss_scale`, or None.
            clipped: (4,) float64. If `kind` is "norm", this array receives the new scaling and is returned.
        """
        if self.kind == "value":
            ops.clip_values(list(grads.values()), scaling, clip_value=self.limit)
            return scaling
        ops.clip_norm(clipped, list(grads.values()), scaling, max_norm=self.limit)
        return clipped
