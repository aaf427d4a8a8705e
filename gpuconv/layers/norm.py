"""Batch normalization."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import Any

from gpuconv import arguments, ops
from gpuconv.initializers import ones, zeros
from gpuconv.layers import sync_batch_norm
from gpuconv.layers.addend import Addend
from gpuconv.layers.base import Layer
from gpuconv.layers.batch_parts import PerPart, sum_function
from gpuconv.layers.shapes import per_channel
from gpuconv.layers.variables import Variable
from gpuconv.types import Array, Options, Shape


@dataclass(eq=False, repr=False)
class BatchNorm(Layer):
    """Normalize each channel of (..., C) to mean 0 and variance 1, then multiply by `weight` and add `bias` (Ioffe and
    Szegedy 2015).

    Training uses the statistics of the batch. If a Trainer computes a batch in parts, training uses those of each part,
    or, with `Trainer(sync_batch_norm=True)`, those of the whole batch on all ranks. Training also updates
    `running_mean` and `running_var`, which inference uses. All four arrays are (C,), in the net's accumulation dtype.

    Args:
        momentum: The batch's share of the running statistics, in [0, 1].
        eps: Added to the variance, at least 0.
    """

    stem = "norm"
    takes_parts = True
    elementwise = True
    writes_slices = reads_slices = takes_slices = takes_addend = True

    _: KW_ONLY
    momentum: float = 0.1
    eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        arguments.number("momentum", self.momentum, 0.0, 1.0)
        arguments.number("eps", self.eps, 0.0)

    def plan(self, input_shape: Shape) -> Shape:
        channels = per_channel(input_shape)
        self.variables = {
            "weight": Variable(channels, ones, dtype="accumulation"),
            "bias": Variable(channels, zeros, dtype="accumulation"),
            "running_mean": Variable(channels, zeros, buffer=True, dtype="accumulation"),
            "running_var": Variable(channels, ones, buffer=True, dtype="accumulation"),
        }
        return input_shape

    def forward(
        self, x: Array, training: bool = False, *, out: Array | None = None, addend: Addend | None = None
    ) -> Array:
        if addend is None and training and (total := sum_function()):
            parts = x if isinstance(x, PerPart) else [x]
            found, statistics = sync_batch_norm.forward(parts, self.vectors, self.momentum, self.eps, total)
            self.stash(parts, statistics, total)
            if isinstance(x, PerPart):
                return x.of(found)
            return found[0] if out is None else ops.copy(found[0], out=out)
        options = self.options | (addend.forward_arguments if addend else {})
        y, mean, inv_std = ops.batch_norm(x, *self.vectors, training=training, **options, out=out)
        if addend:
            addend.was_added(y)
        self.stash(x, mean, inv_std, training, addend)
        return y

    def backward(self, dy: Array, *, input_grad: bool = True) -> Array | None:
        saved = self.unstash()
        if not isinstance(saved[1], sync_batch_norm.Statistics):
            *values, addend = saved
            return self.gradients_of(dy, tuple(values), input_grad, addend)
        parts, statistics, total = saved
        given = dy if isinstance(dy, PerPart) else [dy]
        found = sync_batch_norm.backward(given, parts, self["weight"], statistics, self.eps, total)
        if isinstance(dy, PerPart):
            return dy.of(found).run_each(self, partial(self._one_part, input_grad=input_grad))
        return self._one_part(found[0], input_grad)

    def _one_part(self, found: tuple[Array, Array, Array], input_grad: bool) -> Array | None:
        """dx of one part; its gradients of weight and bias are added to the layer's."""
        dx, *gradients = found
        into, accumulate = self.gradients_into("weight", "bias")
        for gradient, own in zip(into, gradients):
            if gradient is not None:
                ops.add(gradient, own, out=gradient) if accumulate else ops.copy(own, out=gradient)
        return dx if input_grad else None

    @property
    def vectors(self) -> list[Array]:
        """The arrays that `gpuconv.ops.batch_norm` takes after x."""
        return [self[name] for name in ("weight", "bias", "running_mean", "running_var")]

    @property
    def options(self) -> Options:
        return dict(momentum=self.momentum, eps=self.eps)

    def gradients_of(
        self,
        dy: Array,
        saved: tuple[Array, Array, Array, bool],
        input_grad: bool,
        addend: Addend | None = None,
        **fused: Any,
    ) -> Array | None:
        """`backward` from what forward saved.

        Args:
            dy: The output's gradient.
            saved: x, mean, inv_std, training.
            input_grad: As in `Layer.backward`.
            addend: The addend of forward; its `gradient` is set.
            fused: Further arguments of `gpuconv.ops.batch_norm_backward`, if an activation or a convolution follows or
                a pool precedes.
        """
        x, mean, inv_std, training = saved
        (dgamma, dbeta), accumulate = self.gradients_into("weight", "bias")
        fused |= addend.backward_arguments if addend else {}
        dx, _, _, *daddend = (
            ops.batch_norm_backward(  # one pass computes both sums; that of a frozen variable is dropped
                dy,
                x,
                self["weight"],
                mean,
                inv_std,
                training=training,
                dgamma=dgamma,
                dbeta=dbeta,
                accumulate=accumulate,
                **fused,
            )
        )
        if addend:
            addend.gradient = daddend[0] if daddend else dy
        return dx if input_grad else None

    def as_sliding(self, flattened: Shape | None) -> tuple[Layer | None, Shape | None]:
        if flattened:
            raise ValueError(f"{self.path} normalizes each position of the flattened volume, which cannot slide")
        return super().as_sliding(flattened)
