"""The dynamic loss scale of half-precision training."""

from __future__ import annotations

from collections.abc import Sequence

from gpuconv.arguments import integer, number
from gpuconv.backends import backend_of
from gpuconv.ops.expect import expect_writable
from gpuconv.ops.optim.expect import expect_floats, expect_scaling
from gpuconv.ops.registry import op
from gpuconv.types import Array


@op("loss_scale.cu", changes="scaling")
def update_loss_scale(
    scaling: Array, grads: Sequence[Array], *, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000
) -> None:
    """Update a dynamic loss scale, between backward and the optimizer's step (Micikevicius et al. 2018).

    If not all gradients of a step are finite, the optimizer skips the step, and the scale is multiplied by backoff.
    After `interval` good steps, the scale is multiplied by growth.

    Args:
        scaling: (4,) float64, changed in place: [0] the scale by which to multiply the next loss gradient; [1] the
            factor by which the optimizer multiplies grads: 1 / the scale they were computed with, or 0 if any number
            in them is not finite; [2] the good steps since the scale changed; [3] all steps skipped so far.
        grads: All gradients of the step, of any float dtypes.
        growth: At least 1.
        backoff: In (0, 1].
        interval: A number of steps, at least 1.
    """
    backend = backend_of(scaling=scaling, lists=dict(grads=grads))
    expect_scaling(scaling)
    expect_floats("grads", grads)
    growth, backoff = number("growth", growth, 1.0), number("backoff", backoff, 0.0, 1.0, open_low=True)
    interval = integer("interval", interval, 1)
    expect_writable(scaling=scaling)
    backend.optim.update_loss_scale(scaling, grads, growth=growth, backoff=backoff, interval=interval)
