"""The base of all optimizers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, TypedDict, TypeVar, Unpack

import numpy as np

from gpuconv import backends
from gpuconv.arguments import integer, number
from gpuconv.checkpoint import as_json
from gpuconv.dtypes import accumulation_dtype
from gpuconv.names import canonical, lookup
from gpuconv.types import Array, Options, Record

Arrays = Mapping[str, Array]
T = TypeVar("T")

DECAYS = {"all": 0, "weights": 2}  # choice of what decays -> the smallest rank of a parameter that decays


class Common(TypedDict):
    """The arguments that the ops of all optimizers have in common."""

    masters: Sequence[Array] | None
    scaling: Array | None
    averages: Sequence[Array] | None
    ema: float


@dataclass(kw_only=True, eq=False)
class Optimizer:
    """The base of all optimizers.

    Args:
        lr: The learning rate, before a schedule's factor; at least 0.
        weight_decay: At least 0. weight_decay * param is added to the gradient; AdamW and Lion shrink the parameter
            itself.
        decay: What decays: "all" parameters, as in PyTorch, or "weights", only those of rank 2 and above, which
            excludes biases and the weights and biases of norms.
    """

    name: ClassVar[str]
    capturable: ClassVar[bool] = True  # whether `update` is only device work
    averages: ClassVar[bool] = True  # whether `update` also updates the moving averages

    lr: float
    weight_decay: float = 0.0
    decay: str = "all"

    steps: int = field(default=0, init=False)
    advanced: bool = field(default=False, init=False, repr=False)  # whether `advance` was called since the last update
    state: dict[str, dict[str, Array]] = field(default_factory=dict, init=False, repr=False)
    masters: dict[str, Array] = field(default_factory=dict, init=False, repr=False)
    _lr: Array = field(default=None, init=False, repr=False)  # type: ignore[assignment]
    _step: Array = field(default=None, init=False, repr=False)  # type: ignore[assignment]
    _weight_decay: list[float] = field(default_factory=list, init=False, repr=False)
    _parameters: tuple[str, ...] = field(default=(), init=False, repr=False)
    # The number of axes of every parameter by name, frozen ones included. The trainer sets it.
    axes: dict[str, int] = field(default_factory=dict, init=False, repr=False)
    # Whether this optimizer keeps the state of the parameter with a given name; if None, it keeps the state of all.
    keeps: Callable[[str], bool] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        for entry in fields(self):  # NumPy's numbers become Python's, which run.json can hold
            if isinstance(value := getattr(self, entry.name), np.generic):
                setattr(self, entry.name, value.item())
        number("lr", self.lr, 0)
        number("weight_decay", self.weight_decay, 0)
        self.decay = canonical("choice of what decays", self.decay, DECAYS)

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters given to `build`, in that order. With `keeps` the optimizer updates only some
        of them."""
        return self._parameters

    def config(self) -> Record:
        """The name and the settings, JSON-serializable; ``get(**config)`` rebuilds the optimizer."""
        settings = {setting.name: getattr(self, setting.name) for setting in fields(self) if setting.init}
        return {"optimizer": self.name} | as_json(settings)

    def slots(self) -> tuple[str, ...]:
        """The names of each parameter's state arrays."""
        return ()

    def build(self, params: Arrays, masters: Mapping[str, np.ndarray] | None = None) -> None:
        """Create the state, which is zeros for each parameter, and the masters, and count steps from 0. The first
        `step` does this if it was not done before.

        Args:
            params: The parameters by name.
            masters: Host arrays from which the masters of 16-bit parameters start, by default the parameters
                themselves.

        Raises:
            ValueError: There are no parameters, or a setting overflows the dtype in which they are updated.
        """
        expect_params(params)
        for entry in fields(self):
            if type(value := getattr(self, entry.name)) in (int, float):
                number(entry.name, value, 0, used_with=[*params.values()])
        device = backends.device_of(next(iter(params.values())))
        names, wide = (*params,), any(p.dtype == np.float64 for p in params.values())
        params = self.kept(params)
        narrow = {name: p for name, p in params.items() if p.dtype.itemsize == 2}
        self.masters = {
            name: backends.asarray(_as_float32(p if masters is None else masters[name]), device)
            for name, p in narrow.items()
        }
        self.state = {
            slot: {name: backends.zeros(p.shape, accumulation_dtype(p.dtype), device) for name, p in params.items()}
            for slot in self.slots()
        }
        self._lr = backends.zeros((1,), np.float64 if wide else np.float32, device)
        self._step = backends.zeros((1,), np.int64, device)
        smallest_rank = lookup("choice of what decays", self.decay, DECAYS)
        self._weight_decay = [self.weight_decay if len(p.shape) >= smallest_rank else 0.0 for p in params.values()]
        self._parameters, self.steps, self.advanced = names, 0, False

    def kept(self, named: Mapping[str, T]) -> dict[str, T]:
        """The entries for the parameters whose state this optimizer keeps. named: a dictionary by the parameters'
        names."""
        return {name: value for name, value in named.items() if self.keeps is None or self.keeps(name)}

    def match(self, params: Arrays) -> bool:
        """Adapt the state to `params`, after layers were frozen or unfrozen. Parameters that were trained before keep
        their state. Returns whether anything changed; if so, the caller has to call `follow` again.
        """
        if [*self._parameters] == [*params]:
            return False
        before = self.state_dict()
        self.build(params)
        self.load_state_dict({name: before.get(name, value) for name, value in self.state_dict().items()})
        return True

    def take_weights(self, params: Arrays) -> None:
        """Take over weights that were changed outside of a step, for example by `net.load_state_dict`: where a
        parameter is no longer its rounded master, it becomes the master. Otherwise the next step undoes the change.

        Args:
            params: The parameters by name.
        """
        for optimizer in self.walk():
            for name in optimizer.masters.keys() & params.keys():  # a layer may have been frozen since the last step
                master = optimizer.masters[name]
                kept, given = backends.to_numpy(master), backends.to_numpy(params[name])
                with np.errstate(over="ignore"):
                    changed = kept.astype(given.dtype) != given
                if changed.any():
                    backends.assign(master, np.where(changed, _as_float32(given), kept))

    @property
    def rate_dtype(self) -> np.dtype:
        """The dtype of learning rates on the device."""
        return self._lr.dtype

    def rates(self, lr: float, ahead: int = 0) -> list[float]:
        """The learning rates of a step, one for each optimizer inside.

        Args:
            lr: The run's learning rate in that step.
            ahead: 0 for the next step, 1 for the one after it, and so on.
        """
        return [lr]

    def follow(self, lr: Array, step: Array) -> None:
        """From now on, read each step's rates and number from these arrays on the device. The caller updates them, and
        calls `count` instead of `advance`.

        Args:
            lr: The numbers that `rates` returns, in an array.
            step: (1,) int64.
        """
        self._lr, self._step = lr, step

    def count(self) -> None:
        """Count a step that the device has run or will run."""
        self.steps += 1

    def arrays(self) -> list[Array]:
        """The optimizer's own arrays (not copies) that an update reads or writes."""
        return [*self._named().values(), self._lr, self._step]

    def walk(self) -> Iterator[Optimizer]:
        """This optimizer and every optimizer inside."""
        yield self

    def begin(self, total: int, epoch: int) -> None:
        """Called before a run's first step.

        Args:
            total: The number of steps in the run.
            epoch: The number of steps in an epoch.
        """

    def step(self, params: Arrays, grads: Arrays, lr: float | None = None) -> None:
        """One step, which changes the parameters in place.

        Args:
            params, grads: Arrays by name, in any order. Parameters of the step before keep their state (`match`).
            lr: This step's rate, at least 0, by default the optimizer's.
        """
        lr = None if lr is None else number("lr", lr, 0)
        if self._parameters:
            self.match(params)
        else:
            self.build(params)
        self.advance(lr)
        self.update(params, grads)

    def advance(self, lr: float | None = None) -> None:
        """The host's part of a step: counts it and writes its number and learning rate to the device. `lr`: as in
        `step`.
        """
        self.steps, self.advanced = self.steps + 1, True
        backends.assign(self._lr, self.lr if lr is None else lr)
        backends.assign(self._step, self.steps)

    def update(
        self,
        params: Arrays,
        grads: Arrays,
        scaling: Array | None = None,
        averages: Arrays | None = None,
        ema: float = 1.0,
    ) -> None:
        """The device's part of a step: one op call, without host values that change from step to step.

        Args:
            params, grads: Arrays by name.
            scaling: The array that `ops.update_loss_scale` or `ops.clip_norm` changed for these gradients: it holds
                the factor for them, or says that the step is skipped. None for a factor of 1.
            averages: Moving averages of the parameters by name, or None.
            ema: Their decay.
        """
        params = self.kept(params)
        if not params:
            return
        state = [[slot[name] for name in params] for slot in self.state.values()]
        masters = [self.masters.get(name, p) for name, p in params.items()] if self.masters else None
        self._launch(
            list(params.values()),
            [grads[name] for name in params],
            *state,
            masters=masters,
            scaling=scaling,
            averages=None if averages is None else [averages[name] for name in params],
            ema=ema,
        )

    def _launch(
        self, params: Sequence[Array], grads: Sequence[Array], *state: Sequence[Array], **options: Unpack[Common]
    ) -> None:
        """Call the optimizer's op with these arrays."""
        raise NotImplementedError

    def _named(self) -> dict[str, Array]:
        """The state arrays themselves, named "slot.parameter"; masters have the slot "master"."""
        slots = self.state | ({"master": self.masters} if self.masters else {})
        return {f"{slot}.{name}": array for slot, arrays in slots.items() for name, array in arrays.items()}

    def state_dict(self) -> dict[str, np.ndarray]:
        """The state as NumPy copies, named "slot.parameter", and the number of steps as "steps"."""
        return backends.host_copies(self._named()) | {"steps": np.array(self.steps, np.int64)}

    def check_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Raise ValueError that names the first entry of `state` that is missing, unknown or of another shape or dtype,
        or a negative `steps`, and RuntimeError if the optimizer is not built.
        """
        if not self._parameters:
            raise RuntimeError(f"this {self.name} optimizer has no state yet; call build(net.params()) first")
        own_state = self.state_dict()
        for name in [*own_state, *state]:
            if name not in own_state or name not in state:
                where = "only in the given state" if name in state else "missing in the given state"
                raise ValueError(f"the state of this {self.name} optimizer does not match: {name!r} is {where}")
            given, own = backends.to_numpy(state[name], name), own_state[name]
            if given.shape != own.shape or given.dtype != own.dtype:
                raise ValueError(
                    f"the state of this {self.name} optimizer does not match: {name!r} must be {own.dtype.name} "
                    f"{own.shape}, received {given.dtype.name} {given.shape}"
                )
        integer("steps", state["steps"][()], 0)

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore `state`, as `state_dict` returned it. The optimizer must be built; nothing changes if this raises."""
        self.check_state_dict(state)
        for name, array in self._named().items():
            backends.assign(array, state[name])
        self.steps = int(backends.to_numpy(state["steps"])[()])


def expect_params(params: Arrays) -> None:
    if not params:
        raise ValueError("there is nothing to optimize: the net has no trained parameters")


def _as_float32(array: Array) -> np.ndarray:
    return backends.to_numpy(array).astype(np.float32)


def expect_no_settings(settings: Options) -> None:
    """Raise ValueError if settings were given with an optimizer that has its own."""
    if settings:
        raise ValueError(f"settings {sorted(settings)} were given with an optimizer that is already built")
