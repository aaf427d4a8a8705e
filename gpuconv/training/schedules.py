"""Learning-rate schedules: pure functions of the step.

A schedule is called with the number of steps done, the total steps of the run and the steps of an epoch, and returns a
factor for the optimizer's learning rate. It keeps no state, so a resumed run needs only its step number. Lengths are in
epochs; with the default ``epoch=1`` they are in steps.

`get` reads the command line's short form, and ``str(schedule)`` writes it:
"constant", "linear", "step:30", "step:30,60,gamma=0.2", "multi-step:30,60", "exponential:0.95",
"polynomial:power=2", "cosine", "one-cycle", "cosine,warmup:5".
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import spec
from gpuconv.arguments import number
from gpuconv.names import canonical_keys, lookup

if TYPE_CHECKING:
    from gpuconv.training.protocols import Number


class Schedule:
    """The learning rate's factor as a function of the step, counted from 0."""

    def __call__(self, step: int, total: int, epoch: int = 1) -> float:
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """Always 1."""

    def __call__(self, step: int, total: int, epoch: int = 1) -> float:
        return 1.0

    def __str__(self) -> str:
        return "constant"


@dataclass(frozen=True)
class Step(Schedule):
    """gamma ** floor(epochs done / every)."""

    every: float
    gamma: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "every", number("every", self.every, 0))
        object.__setattr__(self, "gamma", number("gamma", self.gamma, 0))
        if not self.every:
            raise ValueError("a step schedule drops after a number of epochs above 0, received 0")

    def __call__(self, step: int, total: int, epoch: int = 1) -> float:
        passed = step / (self.every * epoch)
        return _power(self.gamma, math.floor(passed) if math.isfinite(passed) else passed)

    def __str__(self) -> str:
        return spec.write("step", (self.every,), {"gamma": self.gamma})


@dataclass(frozen=True)
class MultiStep(Schedule):
    """gamma ** (the number of `milestones`, in epochs, that have passed)."""

    milestones: tuple[float, ...]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.milestones, Iterable):
            raise TypeError(f"milestones are one or more rising numbers of epochs, received {self.milestones!r}")
        object.__setattr__(self, "milestones", tuple(number("a milestone", at, 0) for at in self.milestones))
        object.__setattr__(self, "gamma", number("gamma", self.gamma, 0))
        if list(self.milestones) != sorted(self.milestones) or not self.milestones:
            raise ValueError(f"milestones are one or more rising numbers of epochs, received {self.milestones}")

    def __call__(self, step: int, total: int, epoch: int = 1) -> float:
        return _power(self.gamma, sum(step >= at * epoch for at in self.milestones))

    def __str__(self) -> str:
        return spec.write("multi-step", self.milestones, {"gamma": self.gamma})


@dataclass(frozen=True)
class Exponential(Schedule):
    """gamma ** (epochs done), PyTorch's ExponentialLR."""

    gamma: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "gamma", number("gamma", self.gamma, 0))

    def __call__(self, step: int, total: int, epoch: int = 1) -> float:
        return _power(self.gamma, step // epoch)

    def __str__(self) -> str:
        return spec.write("exponential", (self.gamma,))


@dataclass(frozen=True)
class Polynomial(Schedule):
    """final + (1 - final) * (1 - step / total) ** power, PyTorch's PolynomialLR over the run if `final` is 0."""

    power: float = 1.0
    final: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "power", number("power", self.power, 0))
        object.__setattr__(self, "final", number("final", self.final, 0, 1))

    def __call__(self, step: int, total: int, epoch: int = 1) -> float:
        left = 1 - min(1.0, step / max(total, 1))
        return self.final + (1 - self.final) * left**self.power

    def __str__(self) -> str:
        return spec.write("polynomial", (), {"power": self.power, "final": self.final})


@dataclass(frozen=True)
class Linear(Schedule):
    """A straight line from 1 at step 0 to 0 after `length` epochs, by default at the end of the run; 0 afterwards."""

    length: float | None = None

    def __post_init__(self) -> None:
        if self.length is not None:
            object.__setattr__(self, "length", number("the length of a linear schedule", self.length, 0))
            if not self.length:
                raise ValueError("a linear schedule ends after a number of epochs above 0, received 0")

    def __call__(self, step: int, total: int, epoch: int = 1) -> float:
        return max(0.0, 1 - step / (max(total, 1) if self.length is None else self.length * epoch))

    def __str__(self) -> str:
        return spec.write("linear", () if self.length is None else (self.length,))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine wave from 1 at step 0 to `final` at step `total` (Loshchilov and Hutter 2016, without restarts)."""

    final: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "final", number("final", self.final, 0, 1))

    def __call__(self, step: int, total: int, epoch: int = 1) -> float:
        return _anneal(1.0, self.final, step / max(total, 1))

    def __str__(self) -> str:
        return spec.write("cosine", (), {"final": self.final})


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Rises along a cosine from `start` to 1 in the first part of the run, then falls to `final` at the last step
    (Smith and Topin 2017).

    peak: the share of the run in which it rises. The defaults, and the steps at which the phases begin and end, are
    those of PyTorch's OneCycleLR. If the rise takes at most one step, the first step is at 1: a run of one step trains
    at the full rate, not at `final`.
    """

    peak: float = 0.3
    start: float = 1 / 25
    final: float = 1 / 25e4

    def __post_init__(self) -> None:
        for name in ("peak", "start", "final"):
            object.__setattr__(self, name, number(name, getattr(self, name), 0, 1))

    def __call__(self, step: int, total: int, epoch: int = 1) -> float:
        top, last = max(0.0, self.peak * total - 1), total - 1
        if step <= top:
            return _anneal(self.start, 1.0, step / top if top else 1.0)
        return _anneal(1.0, self.final, (step - top) / (last - top) if last > top else 1.0)

    def __str__(self) -> str:
        return spec.write("one-cycle", (), {"peak": self.peak, "start": self.start, "final": self.final})


@dataclass(frozen=True)
class Warmup(Schedule):
    """The product of another schedule and a straight line that reaches 1 at the last step of the first `length` epochs.

    The other schedule is not delayed, so its milestones do not move (Goyal et al. 2017). then: the other
    schedule, in any form that `get` takes.
    """

    length: float
    then: Schedule = Constant()

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", number("the length of a warm-up", self.length, 0))
        object.__setattr__(self, "then", get(self.then))

    def __call__(self, step: int, total: int, epoch: int = 1) -> float:
        steps = self.length * epoch
        rise = min(1.0, (step + 1) / steps) if steps else 1.0
        return rise * self.then(step, total, epoch)

    def __str__(self) -> str:
        return f"{self.then},{spec.write('warmup', (self.length,))}"


@dataclass(frozen=True)
class Called(Schedule):
    """A user's function of (step), (step, total) or (step, total, epoch)."""

    function: Callable[..., Number]

    def __call__(self, step: int, total: int, epoch: int = 1) -> float:
        return number(f"the factor of schedule {self}", self.function(*(step, total, epoch)[: self._argument_count]), 0)

    @cached_property
    def _argument_count(self) -> int:
        """How many of (step, total, epoch) the function gets: as many as it has arguments without defaults, but at
        least one; all three if it takes *args. Raises TypeError for other signatures."""
        with contextlib.suppress(TypeError, ValueError):  # ValueError: a C function without a signature
            signature = inspect.signature(self.function)
            required = [each for each in signature.parameters.values() if each.default is each.empty]
            required = [each for each in required if each.kind != each.VAR_KEYWORD]
            count = 3 if any(each.kind == each.VAR_POSITIONAL for each in required) else max(1, len(required))
            signature.bind(*range(min(count, 3)))
            return min(count, 3)
        raise TypeError(f"a schedule's function takes (step), (step, total) or (step, total, epoch); received {self}")

    def __str__(self) -> str:
        """The function's name. A run can be continued only with a function of the same name."""
        name = getattr(self.function, "__name__", type(self.function).__name__)
        return f"function {name}" if name in SCHEDULES else name  # to tell it from gpuconv's schedule of that name


def checked_factor(schedule: Schedule, factor: Number) -> float:
    """The factor that a schedule returned, as a float. Raises TypeError or ValueError, naming the schedule, if it is
    not a number of at least 0; a user's class may return anything. Infinity passes, as `Step` may return it."""
    if isinstance(factor, (np.generic, np.ndarray)) and np.ndim(factor) == 0:
        factor = factor.item()
    if type(factor) is float and factor >= 0:
        return factor
    return number(f"the factor of schedule {schedule}", factor, 0)


def _power(base: float, exponent: float) -> float:
    """base ** exponent, and infinity where a float cannot hold it."""
    try:
        return base**exponent
    except OverflowError:
        return math.inf


def _anneal(start: float, end: float, part: float) -> float:
    """Half a cosine wave from `start` to `end` as `part` goes from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, part))) / 2


def _step(*at: float, gamma: float = 0.1) -> Schedule:
    return Step(*at, gamma=gamma) if len(at) == 1 else MultiStep(at, gamma)


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "constant": Constant,
    "step": _step,
    "multi-step": lambda *at, gamma=0.1: MultiStep(at, gamma),
    "exponential": Exponential,
    "polynomial": Polynomial,
    "linear": Linear,
    "cosine": Cosine,
    "one-cycle": OneCycle,
    "warmup": Warmup,
}


def get(schedule: str | Schedule | Callable[..., Number] | None) -> Schedule:
    """A schedule from its short form, None (constant), or a function (`Called`); a schedule is returned as it is.

    Raises ValueError for an unknown name (the nearest known one is named) or for settings that it does not take, and
    TypeError for an object of another type, or a function of other arguments.
    """
    if schedule is None or isinstance(schedule, Schedule):
        return schedule or Constant()
    if isinstance(schedule, type):
        raise TypeError(f"a schedule is an object, received the class {schedule.__name__}; call it with its settings")
    if callable(schedule):
        called = Called(schedule)
        _ = called._argument_count  # raises for other signatures
        return called
    if not isinstance(schedule, str):
        raise TypeError(
            "a schedule is text, such as 'cosine,warmup:5', one of gpuconv.training.schedules, or a function of the "
            f"step; received {schedule!r}"
        )
    built: Schedule = Constant()
    for position, part in enumerate(spec.parse(schedule)):
        make = lookup("schedule", part.name, SCHEDULES)
        if make is not Warmup and isinstance(built, Warmup) and built.then == Constant():
            raise ValueError(f"{schedule!r}: write the warm-up last, as in 'cosine,warmup:5'")
        if make is not Warmup and position:
            raise ValueError(f"{schedule!r} names two schedules; only a warm-up can be combined with another one")
        options: dict[str, Any] = canonical_keys(
            f"setting of {part.name}", part.options, inspect.signature(make).parameters
        )
        try:
            built = make(*part.numbers, **options, **({"then": built} if make is Warmup else {}))
        except TypeError as error:
            raise ValueError(f"{schedule!r}: {part.name} cannot be built: {error}") from None
    return built
