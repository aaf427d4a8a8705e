"""Different optimizers for different parameters of one net, under one schedule.

Groups are written "SELECTOR -> OPTIMIZER" or "SELECTOR -> OPTIMIZER @ SCHEDULE" and separated by semicolons. A
parameter belongs to the first group whose selector matches:

    filters -> muon:lr=0.24,momentum=0.6,nesterov=true; conv1.bias -> sgd:lr=0.05 @ linear:3; * -> sgd:lr=0.05
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from gpuconv.arguments import number
from gpuconv.training import schedules
from gpuconv.training.optimizers.base import Arrays, Optimizer, expect_params
from gpuconv.training.optimizers.from_spec import named
from gpuconv.types import Array

_FILTER_RANK = 4


@dataclass
class Group:
    """A selection of parameters and their optimizer. schedule: None means the run's."""

    selector: str
    optimizer: Optimizer
    schedule: schedules.Schedule | None = None
    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Group:
        selector, arrow, rest = (side.strip() for side in text.partition("->"))
        if not (selector and arrow and rest):
            raise ValueError(f"a group is written like 'filters -> muon:lr=0.02', received {text.strip()!r}")
        optimizer, at, schedule = (side.strip() for side in rest.partition("@"))
        return cls(selector, named(optimizer), schedules.get(schedule) if at else None)

    def fits(self, name: str, rank: int) -> bool:
        """Whether the selector matches a parameter. "filters" matches parameters of rank 4; any other selector is a
        pattern of names."""
        return rank == _FILTER_RANK if self.selector == "filters" else fnmatch.fnmatch(name, self.selector)


@dataclass(kw_only=True, eq=False)
class Groups(Optimizer):
    """Updates each group of parameters with its own optimizer.

    Args:
        lr: A factor on every group's rate. The run's schedule is another factor, except for a group with a schedule of
            its own ("@ linear:3"). At a rate of 0, parameters do not change, except that Muon still scales its weights.
        groups: Selectors and optimizers, as the module's docstring describes them.

    Raises:
        TypeError: groups is not text.
        ValueError: A group cannot be read, or weight_decay or decay is given here instead of in a group's optimizer.
    """

    name: ClassVar[str] = "groups"
    lr: float = 1.0
    groups: str = ""
    parts: list[Group] = field(default_factory=list, init=False, repr=False)
    _total: int = field(default=0, init=False, repr=False)
    _epoch: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight_decay or self.decay != "all":
            raise ValueError("weight_decay and decay are settings of each group's optimizer; write them there")
        if not isinstance(self.groups, str):
            received = type(self.groups).__name__
            raise TypeError(f"groups are text like 'filters -> muon:lr=0.02; * -> sgd:lr=0.05', received {received}")
        self.parts = [Group.parse(text) for text in self.groups.split(";")]

    def build(self, params: Arrays, masters: Mapping[str, np.ndarray] | None = None) -> None:
        """Assign each parameter to its group; arguments as in `Optimizer.build`. Raises ValueError for a parameter
        without a group, and for a group that matches no parameter; all parameters of a group may be frozen.
        """
        expect_params(params)
        names: list[list[str]] = [[] for _ in self.parts]
        self.axes = self.axes | {name: len(param.shape) for name, param in params.items()}
        for name, axes in self.axes.items():
            fitting = [index for index, part in enumerate(self.parts) if part.fits(name, axes)]
            if not fitting and name in params:
                selectors = ", ".join(part.selector for part in self.parts)
                raise ValueError(f"parameter {name!r} is in no group (the groups: {selectors}); end with '* -> ...'")
            if fitting:
                names[fitting[0]].append(name)
        for part, chosen in zip(self.parts, names):
            if not chosen:
                raise ValueError(f"group {part.selector!r} has no parameter (there are: {', '.join(self.axes)})")
            trained = [params[name] for name in chosen if name in params]
            number(f"lr of {part.selector!r}", self.lr * part.optimizer.lr, 0, used_with=trained)
        for part, chosen in zip(self.parts, names):
            part.names = tuple(name for name in chosen if name in params)
            part.optimizer.keeps = self.keeps
            if part.names:
                part.optimizer.build({name: params[name] for name in part.names}, masters)
            else:
                part.optimizer.state, part.optimizer.masters = {}, {}
        self._parameters, self.steps, self.advanced = (*params,), 0, False

    @property
    def rate_dtype(self) -> np.dtype:
        return next(part.optimizer.rate_dtype for part in self.parts if part.names)

    def begin(self, total: int, epoch: int) -> None:
        self._total, self._epoch = total, epoch

    def rates(self, lr: float, ahead: int = 0) -> list[float]:
        return [self._factor(part, lr, ahead) * part.optimizer.lr for part in self.parts]

    def _factor(self, part: Group, lr: float, ahead: int) -> float:
        if part.schedule is None:
            return lr
        if not self._epoch:
            raise ValueError(f"group {part.selector!r} has a schedule, so begin(total, epoch) must be called")
        return self.lr * part.schedule(self.steps + ahead, self._total, self._epoch)

    def follow(self, lr: Array, step: Array) -> None:
        for index, part in enumerate(self.parts):
            part.optimizer.follow(lr[index : index + 1], step)

    def arrays(self) -> list[Array]:
        return []

    def count(self) -> None:
        for part in self.parts:
            part.optimizer.count()
        self.steps += 1

    def walk(self) -> Iterator[Optimizer]:
        yield self
        for part in self.parts:
            yield from part.optimizer.walk()

    def advance(self, lr: float | None = None) -> None:
        rates = self.rates(self.lr if lr is None else lr)
        for part, rate in zip(self.parts, rates):
            if part.names:
                part.optimizer.advance(rate)
        self.steps, self.advanced = self.steps + 1, True

    def update(
        self,
        params: Arrays,
        grads: Arrays,
        scaling: Array | None = None,
        averages: Arrays | None = None,
        ema: float = 1.0,
    ) -> None:
        for part in self.parts:
            own = {name: params[name] for name in part.names}
            part.optimizer.update(own, grads, scaling, averages, ema)

    def state_dict(self) -> dict[str, np.ndarray]:
        states = [part.optimizer.state_dict() for part in self.parts]
        return {name: array for state in states for name, array in state.items()} | {
            "steps": np.array(self.steps, np.int64)
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        self.check_state_dict(state)
        for part in self.parts:
            if part.names:
                part.optimizer.load_state_dict({name: state[name] for name in part.optimizer.state_dict()})
        self.steps = int(state["steps"][()])
