"""An exponential moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from gpuconv import backends, ops
from gpuconv.arguments import number
from gpuconv.checkpoint import Checkpoint, CheckpointError
from gpuconv.dtypes import accumulation_dtype
from gpuconv.layers.base import Layer
from gpuconv.types import Array

AVERAGE, TRAINED = "average", "trained"  # prefixes of a checkpoint's arrays


def decay_value(ema: object) -> float:
    """Check a decay and return it. Raises TypeError unless it is a number, and ValueError unless it is above 0 and
    below 1."""
    return number("ema", ema, 0, 1, open_low=True, open_high=True)


class Ema:
    """After each step, average = decay * average + (1 - decay) * parameter, for every parameter, frozen ones included.

    The averages start as the parameters before the first step, as timm's do; an AveragedModel of torch.optim.swa_utils
    starts at its first update. Running statistics are not averaged: the averages are used with the net's own running
    statistics, as AveragedModel does by default. Averages of 16-bit parameters are float32; `applied` rounds them.

    The optimizer's launch updates the averages of the parameters that it trains, except in a step that the loss scale
    skips; `update` updates the other averages.
    """

    def __init__(self, net: Layer, decay: float) -> None:
        self.net, self.decay = net, decay
        self.begin()

    def begin(self) -> None:
        """Start from the net's present parameters."""
        # A scaling, as in `Optimizer.update`, that multiplies gradients by -1.
        self._negated = backends.asarray(np.array([1.0, -1.0, 0.0, 0.0]), self.net.device)
        self._rounded = {name: ops.copy(param) for name, param in self.net.named_parameters()}
        self.averages = {
            name: backends.asarray(backends.to_numpy(array).astype(accumulation_dtype(array.dtype)), self.net.device)
            if array.dtype.itemsize == 2
            else array
            for name, array in self._rounded.items()
        }

    def update(self, updated: Collection[str] = ()) -> None:
        """Update the averages after a step, except those in `updated`, which the optimizer has updated already."""
        # A step of SGD on the averages, with -parameter as the gradient and a weight decay of 1:
        # average -= (1 - decay) * (average - parameter).
        params = {name: param for name, param in self.net.named_parameters() if name not in updated}
        if params:
            ops.sgd_step(
                [self._rounded[name] for name in params],
                [*params.values()],
                masters=[self.averages[name] for name in params] if self._sixteen_bit_names() else None,
                scaling=self._negated,
                lr=1 - self.decay,
                weight_decay=1.0,
            )

    def values(self) -> dict[str, np.ndarray]:
        """The averages on the host."""
        return backends.host_copies(self.averages)

    def take(self, values: Mapping[str, np.ndarray]) -> None:
        """Overwrite the averages that `values` names."""
        for name, value in values.items():
            backends.assign(self.averages[name], value)

    def _round(self) -> dict[str, Array]:
        """The averages in the dtypes of the parameters."""
        for name in self._sixteen_bit_names():
            rounded = self._rounded[name]
            backends.assign(rounded, backends.asarray(self.averages[name], dtype=rounded.dtype))
        return self._rounded

    def _sixteen_bit_names(self) -> list[str]:
        """The names of the parameters of 16 bits."""
        return [name for name, average in self.averages.items() if average is not self._rounded[name]]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """A context in which the net's parameters are the averages."""
        params = dict(self.net.named_parameters())
        before = {name: ops.copy(param) for name, param in params.items()}
        _copy(self._round(), params)
        try:
            yield
        finally:
            _copy(before, params)

    def arrays(self) -> list[Array]:
        """The arrays that a captured step expects at fixed addresses."""
        return [self._negated, *self._rounded.values(), *self.averages.values()]

    def parts(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds: the averages as the net's parameters, the trained parameters, and the averages of
        16-bit parameters before rounding."""
        arrays = {f"net.{name}": array for name, array in self._round().items()}
        arrays |= {f"{TRAINED}.{name}": array for name, array in self.net.named_parameters()}
        arrays |= {f"{AVERAGE}.{name}": self.averages[name] for name in self._sixteen_bit_names()}
        return backends.host_copies(arrays)

    def check(self, checkpoint: Checkpoint, path: object) -> None:
        """Raise CheckpointError that names the first array that is missing, unknown or not finite, or has another
        shape or dtype."""
        parts = (f"{TRAINED}.", f"{AVERAGE}.")
        own, given = (
            {name: array for name, array in arrays.items() if name.startswith(parts)}
            for arrays in (self.parts(), checkpoint.tensors)
        )
        for name in [*own, *given]:
            if name not in own or name not in given:
                raise CheckpointError(f"{path}: {name} is {'not part of this net' if name in given else 'missing'}")
            expected, received = own[name], given[name]
            if (expected.shape, expected.dtype) != (received.shape, received.dtype):
                raise CheckpointError(
                    f"{path}: {name} must be {expected.dtype.name} {expected.shape}, "
                    f"received {received.dtype.name} {received.shape}"
                )
            if not np.isfinite(received.astype(np.float64)).all():
                raise CheckpointError(f"{path}: {name} is not finite")

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the arrays that `parts` returned. The caller calls `check` first."""
        net, averages, trained = (checkpoint.part(part) for part in ("net", AVERAGE, TRAINED))
        for name, param in self.net.named_parameters():
            backends.assign(self._rounded[name], net[name])
            if name in averages:
                backends.assign(self.averages[name], averages[name])
            backends.assign(param, trained[name])


def _copy(source: dict[str, Array], to: dict[str, Array]) -> None:
    for name, array in source.items():
        ops.copy(array, out=to[name])
