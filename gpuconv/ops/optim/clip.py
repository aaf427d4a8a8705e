"""Limits for the gradients: for their total norm, or for each number."""

from __future__ import annotations

from collections.abc import Sequence

from gpuconv.arguments import positive
from gpuconv.backends import backend_of
from gpuconv.ops.expect import expect_writable, expect_writable_lists
from gpuconv.ops.optim.expect import expect_floats, expect_scaling
from gpuconv.ops.overlap import copy_if_overlapping
from gpuconv.ops.registry import op
from gpuconv.types import Array


@op("clip.cu", changes="clipped")
def clip_norm(clipped: Array, grads: Sequence[Array], scaling: Array | None = None, *, max_norm: float) -> None:
    """Limit the total norm of all gradients in the next optimizer step (PyTorch's clip_grad_norm_; Pascanu et al.
    2013). clipped becomes a copy of scaling, but with clipped[1] = scaling[1] * min(1, max_norm / (norm + 1e-6)). The
    step multiplies the gradients by clipped[1].

    If scaling[1] is not 0, a norm that is not finite makes clipped[1] NaN, and then the optimizer step makes every
    parameter NaN, so the fault is not hidden.

    Args:
        clipped: (4,) float64, changed in place; the scaling argument of the optimizer step.
        grads: All gradients of the step, of any float dtypes. The norm is scaling[1] times the root of the sum of
            the squares of all their numbers, computed in float64.
        scaling: The array that update_loss_scale changed, or None, which stands for [1, 1, 0, 0]. If scaling[1] is 0,
            clipped[1] is 0 too, and the step is skipped.
        max_norm: Above 0.
    """
    backend = backend_of(clipped=clipped, lists=dict(grads=grads), optional=dict(scaling=scaling))
    expect_scaling(clipped, "clipped")
    expect_floats("grads", grads)
    expect_scaling(scaling)
    max_norm = positive("max_norm", max_norm)
    expect_writable(clipped=clipped)
    (scaling,) = copy_if_overlapping([clipped], scaling)
    backend.optim.clip_norm(clipped, grads, scaling, max_norm=max_norm)


@op("clip.cu", changes="grads")
def clip_values(grads: Sequence[Array], scaling: Array | None = None, *, clip_value: float) -> None:
    """Limit each number of the gradients: g = min(max(g, -limit), limit), limit = clip_value / scaling[1] (PyTorch's
    clip_grad_value_). NaN stays NaN.

    Args:
        grads: Arrays of any shapes and float dtypes, changed in place.
        scaling: The array that update_loss_scale changed, or None: then the limit is clip_value. If scaling[1] is 0,
            nothing changes.
        clip_value: Above 0.
    """
    backend = backend_of(lists=dict(grads=grads), optional=dict(scaling=scaling))
    expect_floats("grads", grads)
    expect_scaling(scaling)
    clip_value = positive("clip_value", clip_value)
    expect_writable_lists(grads=grads)
    backend.optim.clip_values(grads, scaling, clip_value=clip_value)
