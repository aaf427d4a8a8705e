"""User-defined optimizers: any object with ``step(params, grads)``, without a base class."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gpuconv import backends
from gpuconv.arguments import accepts, expect_accepts
from gpuconv.dtypes import as_precision
from gpuconv.notices import notice
from gpuconv.training import optimizers
from gpuconv.training.clip import Clip
from gpuconv.training.optimizers import Optimizer
from gpuconv.training.optimizers.base import Arrays, expect_no_settings
from gpuconv.types import Array, Record

_OWN = "own"  # the prefix of a wrapped optimizer's state names


@dataclass(kw_only=True, eq=False)
class Adapted(Optimizer):
    """Wraps an object with ``step(params, grads)``, which takes dictionaries of arrays by name, as an optimizer.

    `step` changes the parameters in place, or puts new arrays into the dictionary. The scheduled learning rate is
    passed as `lr` if `step` takes it, else written to the object's attribute `lr`, if it has one; after `fit` this
    attribute has the base rate again. If the object has state_dict() and load_state_dict(), for named arrays, a resumed
    run continues with the same state. `step` runs on the host, so it is not captured.
    """

    name: ClassVar[str] = "own"
    capturable: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    lr: float = 1.0
    inner: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            self._takes_lr = "lr" in inspect.signature(self.inner.step).parameters
        except ValueError:  # a C function without a signature
            self._takes_lr = False
        self._wrote_lr = False  # whether a step has written the object's attribute `lr`
        self._plain: Record = {}
        self._stepped = False

    @property
    def has_rate(self) -> bool:
        return self._takes_lr or hasattr(self.inner, "lr")

    def config(self) -> Record:
        """The object's class, and those of its public attributes that were plain values before the first step. Later
        values may be state, such as a counter, which is no setting."""
        kind = type(self.inner)
        if not self._stepped:
            self._plain = {
                name: value
                for name, value in getattr(self.inner, "__dict__", {}).items()
                if isinstance(value, (bool, int, float, str)) and not name.startswith("_")
            }
        return {"optimizer": f"{kind.__module__}.{kind.__qualname__}"} | self._plain | {"lr": self.lr}

    def write_base_rate(self) -> None:
        """Write the rate without a schedule's factor to the object's attribute `lr`, if steps have written others."""
        if self._wrote_lr:
            self.inner.lr, self._wrote_lr = self.lr, False

    def build(self, params: Arrays, masters: Mapping[str, np.ndarray] | None = None) -> None:
        super().build(params, masters)
        self.masters = {}  # the wrapped optimizer updates the parameters themselves

    def match(self, params: Arrays) -> bool:
        return False  # `step` receives the parameters each time

    def update(
        self,
        params: Arrays,
        grads: Arrays,
        scaling: Array | None = None,
        averages: Arrays | None = None,
        ema: float = 1.0,
    ) -> None:
        if scaling is not None:
            raise TypeError(_no_float16(self.inner))
        if not self._stepped:
            self.config()  # keeps the settings as they are now
            self._stepped = True
        own = dict(params)
        if self.has_rate:
            rate = float(backends.to_numpy(self._lr)[0])
            if self._takes_lr:
                self.inner.step(own, grads, lr=rate)
            else:
                self.inner.lr, self._wrote_lr = rate, True
                self.inner.step(own, grads)
        else:
            self.inner.step(own, grads)
        for name, array in params.items():
            found = own.get(name)
            if found is array:
                continue
            shape = None if found is None else tuple(np.shape(found))
            if shape != tuple(array.shape):
                raise ValueError(f"{self._kind}.step must leave {name} at shape {tuple(array.shape)}, left {shape}")
            backends.assign(array, found)

    @property
    def _kind(self) -> str:
        return type(self.inner).__name__

    def state_dict(self) -> dict[str, np.ndarray]:
        found = self.inner.state_dict() if hasattr(self.inner, "state_dict") else {}
        return super().state_dict() | backends.host_copies({f"{_OWN}.{name}": value for name, value in found.items()})

    def check_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """As `Optimizer.check_state_dict`, except that the state of the wrapped optimizer is not checked."""
        present = {name: value for name, value in self.state_dict().items() if name.startswith(f"{_OWN}.")}
        others = {name: value for name, value in state.items() if not name.startswith(f"{_OWN}.")}
        super().check_state_dict(others | present)

    def _named(self) -> Record:
        return {}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        own = {name.removeprefix(f"{_OWN}."): value for name, value in state.items() if name.startswith(f"{_OWN}.")}
        self.check_state_dict(state)
        if hasattr(self.inner, "load_state_dict"):
            self.inner.load_state_dict(own)
        super().load_state_dict({"steps": state["steps"]})
        if self.steps and not hasattr(self.inner, "load_state_dict"):
            notice(f"{self._kind} has no state_dict and load_state_dict, so its state starts from scratch")


def adapt(given: object, **settings: object) -> Optimizer:
    """Like `optimizers.get`, but also wraps any other object with ``step(params, grads)``."""
    if isinstance(given, (str, Optimizer)):
        return optimizers.get(given, **settings)
    if isinstance(given, type):
        raise TypeError(f"the optimizer is an object, received the class {given.__name__}; call it: {given.__name__}()")
    step = getattr(given, "step", None)
    if not callable(step) or not (accepts(step, {}, {}) or accepts(step, {}, {}, lr=1.0)):
        raise TypeError(
            "the optimizer is a name, an optimizer of gpuconv.training, or an object with step(params, grads), which "
            f"takes dictionaries of arrays by name; received {type(given).__name__}"
        )
    expect_no_settings(settings)
    rate: Any = getattr(given, "lr", 1.0)
    try:
        lr = float(rate)
    except (TypeError, ValueError):
        raise TypeError(f"the lr of {type(given).__name__} must be a number, received {rate!r}") from None
    return Adapted(inner=given, lr=lr)


def expect_rate(optimizer: Optimizer, schedule: object, plateau: object = None) -> None:
    """Raise ValueError if a schedule or a plateau changes the learning rate and the optimizer cannot receive it."""
    if isinstance(optimizer, Adapted) and not optimizer.has_rate and (plateau or str(schedule) != "constant"):
        what = f"plateau {plateau}" if plateau else f"schedule {schedule}"
        raise ValueError(
            f"{type(optimizer.inner).__name__} has no attribute lr, and its step takes none, so the {what} would have "
            "no effect"
        )


def expect_clip(optimizer: Optimizer, clip: Clip | None) -> None:
    """Raise ValueError for clipping by norm if the optimizer does not multiply the gradients by the clipping factor."""
    if isinstance(optimizer, Adapted) and clip and clip.kind == "norm":
        raise ValueError(
            f"{type(optimizer.inner).__name__} takes the gradients as they are, and clipping by norm needs one of "
            f"gpuconv's optimizers; give clip='value:{clip.limit:g}', or clip in its step"
        )


def expect_precision(optimizer: Optimizer, precision: str) -> None:
    """Raise TypeError for float16 if the optimizer does not undo the loss scale, and ValueError for an unknown
    precision."""
    if isinstance(optimizer, Adapted) and as_precision(precision=precision)[0] == np.float16:
        raise TypeError(_no_float16(optimizer.inner))


def _no_float16(inner: object) -> str:
    return f"float16 needs gpuconv's optimizers, which undo the loss scale; received {type(inner).__name__}"


def write_base_rate(optimizer: Optimizer) -> None:
    """Write the base rate to a user's optimizer, whose attribute `lr` has the last step's rate."""
    if isinstance(optimizer, Adapted):
        optimizer.write_base_rate()


def expect_update(optimizer: Optimizer, ema: object) -> None:
    """Raise TypeError if the `update` of an optimizer, or of one inside, does not take what a step gives it."""
    for each in optimizer.walk():
        averages = ("averages", "ema") if ema is not None and each.averages else ()
        try:
            expect_accepts(f"{type(each).__name__}.update", each.update, "params", "grads", "scaling", *averages)
        except TypeError as error:
            hint = "; with averages = False in the class, the trainer updates the averages" if averages else ""
            raise TypeError(f"{error}{hint}") from None
