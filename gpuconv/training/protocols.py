"""Types of the arguments of `Trainer` and `evaluate`: names, gpuconv's objects, and protocols for users' objects.

Users' classes need not derive from the protocols; the right methods and signatures are enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypedDict

import numpy as np

from gpuconv.data import Dataset, Samples
from gpuconv.data.sources import Epochs, Indexed
from gpuconv.types import MetricLike as MetricLike
from gpuconv.types import Record, UserArray

# `Any`, so that users may annotate these arguments as they like.
TrainerLike = Any  # a `Trainer`, whose module imports this one
UserArrays = Any  # a dictionary of arrays by name

# --- callbacks: an object with any of these ----------------------------------------------------


class OnStart(Protocol):
    def on_start(self, trainer: TrainerLike, /) -> object: ...


class OnStep(Protocol):
    def on_step(self, trainer: TrainerLike, record: Record | None, /) -> object: ...


class OnEpoch(Protocol):
    def on_epoch(self, trainer: TrainerLike, record: Record, /) -> object: ...


class OnTest(Protocol):
    def on_test(self, trainer: TrainerLike, record: Record, /) -> object: ...


class OnStop(Protocol):
    def on_stop(self, trainer: TrainerLike, reason: str, /) -> object: ...


CallbackLike = OnStart | OnStep | OnEpoch | OnTest | OnStop

# --- losses, schedules; `MetricLike` is in `gpuconv.types` -------------------------------------

LossLike = str | Callable[[UserArray, UserArray], tuple[Any, UserArray]]  # (scores, labels) -> (loss, dscores)

Number = float | np.floating[Any] | np.integer[Any]
ScheduleLike = (
    str
    | Callable[[int], Number]  # of the step
    | Callable[[int, int], Number]  # of the step and the run's number of steps
    | Callable[[int, int, int], Number]  # of these and an epoch's number of steps
)


# --- optimizers --------------------------------------------------------------------------------


class Steps(Protocol):
    def step(self, params: UserArrays, grads: UserArrays, /) -> object: ...


class StepsAtRate(Protocol):
    def step(self, params: UserArrays, grads: UserArrays, /, *, lr: float) -> object: ...


OptimizerLike = str | Steps | StepsAtRate


class OptimizerSettings(TypedDict, total=False):
    """The settings of all optimizers that can be chosen by name."""

    lr: float
    weight_decay: float
    decay: str
    momentum: float
    nesterov: bool
    alpha: float
    beta1: float
    beta2: float
    eps: float
    newton_schulz: int
    matmul_precision: str
    tf32: bool | str
    groups: str


# --- data --------------------------------------------------------------------------------------


DataLike = Dataset | Samples | tuple[Any, Any] | Indexed | Epochs | Iterable[Any] | Callable[[], Iterable[Any]]
