"""Finds where two devices, precisions or algorithms begin to differ: the first call of an op that exceeds its bound.

Both sides train the same net on the same batches. Each call of each side is checked against the oracle on the same
arrays, so errors do not accumulate from call to call; the first wrong call is repeated on the other side.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv import algorithms, arguments, plots
from gpuconv.backends.cuda.runtime import replaced_files
from gpuconv.devices import KINDS, Device, gpu_name
from gpuconv.dtypes import PRECISIONS, as_precision, precision_of
from gpuconv.layers import Layer
from gpuconv.layers.layer_call import tracked_layer
from gpuconv.names import canonical
from gpuconv.ops import OPS
from gpuconv.training import Trainer
from gpuconv.training.optimizers import Groups
from gpuconv.training.protocols import DataLike
from gpuconv.types import Record
from gpuconv.verify.call import Call, recording
from gpuconv.verify.compare import Difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Side:
    """A device, a precision, and an algorithm of convolutions and linear layers. As text they are separated by commas,
    in any order, and some may be left out: "emulated" or "cuda:1,tf32,simt-64x64".

    device: None means the other side's device. If both are None, it is the device that "auto" chooses.
    """

    device: str | None = None
    precision: str = "float32"
    algo: str = algorithms.AUTO

    @classmethod
    def parse(cls, text: str) -> Side:
        """The side that the text names, with full names, such as "bfloat16" for "bf16". Raises ValueError for an
        unknown word, naming the nearest known one, and for two words of a kind."""
        found: dict[str, str] = {}
        words: dict[str, str] = {}
        for word in map(str.strip, text.split(",")):
            kind, name = _kind(word)
            if kind in found:
                raise ValueError(f"{text!r} names two of a kind, {words[kind]} and {word}; give one")
            found[kind], words[kind] = name, word
        return cls(**found)

    def __str__(self) -> str:
        algo = "" if self.algo == algorithms.AUTO else self.algo
        return ",".join(filter(None, [self.device, self.precision, algo]))


def _device_name(word: str) -> str:
    device = Device.named(word)
    return gpu_name(device.index) if device.on_gpu and not device.any_gpu else device.kind


_KINDS: dict[str, Callable[[str], str]] = {
    "device": _device_name,
    "precision": lambda word: precision_of(*as_precision(precision=word)),
    "algo": algorithms.full_name,
}


def _kind(word: str) -> tuple[str, str]:
    """The field that a word sets (device, precision or algo), and the word's full name."""
    for kind, full_name in _KINDS.items():
        with contextlib.suppress(ValueError):
            return kind, full_name(word)
    known = [*KINDS, *PRECISIONS, *dict.fromkeys(each.name for each in algorithms.ALGORITHMS)]
    return "algo", canonical("device, precision, algorithm or run", word, known)  # raises the error


@dataclass(frozen=True)
class Violation:
    """The first call beyond its bound; if both sides exceed a bound in the same step, this is the call of A.

    side: 0 for A, 1 for B. step: counted from 1 at the first compared step. layer: "" outside layers. direction:
    "forward", "backward", "update" or "outside of layers". parameter: for an update, the parameter with the wrong
    value, else "". worst: the element whose error is the largest share of its bound. other: the other side's value of
    this element, from the same inputs; NaN if the result there has another shape. other_share: the error of `other` as
    a share of the bound."""

    side: int
    step: int
    layer: str
    direction: str
    op: str
    parameter: str
    worst: Difference
    other: float
    other_share: float


@dataclass
class Bisection:
    """The result of `bisect`.

    Args:
        steps: The number of steps to compare; a violation ends the comparison earlier.
        calls: The number of calls checked on each side.
        skipped: The number of calls with infinity or NaN, for which there is no bound.
        violation: The first call that is beyond its bound, or None.
        shares: The largest error as a share of its bound, by call (op, layer and direction) and side, "A" or "B".
    """

    steps: int
    calls: tuple[int, int] = (0, 0)
    skipped: tuple[int, int] = (0, 0)
    violation: Violation | None = None
    shares: dict[str, dict[str, float]] = field(default_factory=dict, repr=False)

    def picture(self) -> Figure:
        """The figure of `gpuconv.plots.shares`."""
        return plots.shares(self.shares, title=str(self).partition("\n")[0])

    def __str__(self) -> str:
        checked = f"{self.calls[0]} calls of A and {self.calls[1]} of B checked"
        skipped = f"; {sum(self.skipped)} more had NaN or infinity" if any(self.skipped) else ""
        found = self.violation
        if found is None:
            return f"agree over {self.steps} step{'s' * (self.steps > 1)}: {checked}, each within its bound{skipped}"
        what = found.parameter or found.layer
        place = " of ".join(filter(None, [found.op, what]))
        rows = {
            "AB"[found.side]: f"{found.worst.given:.9g}, {found.worst.share:.3g} times its bound",
            "AB"[1 - found.side]: f"{found.other:.9g}, {found.other_share:.3g} times its bound",
            "oracle": f"{found.worst.expected:.9g}, bound {found.worst.bound:.3g}",
        }
        return "\n".join(
            [
                f"differ first at step {found.step}: {place}, {found.direction}, on {'AB'[found.side]}",
                f"  {'element':8}{found.worst.result}{[*found.worst.at]}",
                *(f"  {name:8}{text}" for name, text in rows.items()),
                f"  {checked}{skipped}",
            ]
        )


class _FirstViolation(Exception):
    def __init__(self, step: int, place: tuple[str, str], call: Call, parameter: str, worst: Difference) -> None:
        super().__init__(call.op)
        self.step, self.place, self.call, self.parameter, self.worst = step, place, call, parameter, worst


class _Judge:
    """Trains for a number of steps and raises `_FirstViolation` at the first call beyond its bound."""

    def __init__(self, trainer: Trainer, steps: int) -> None:
        self.trainer, self.steps = trainer, steps
        self.shares: dict[str, float] = {}
        self.calls = self.skipped = self.updates = 0
        self.before = trainer.steps  # the steps of an earlier `fit` are not counted

    def __call__(self, data: DataLike, **fit: Any) -> None:
        epochs = self.trainer.epoch + self.steps  # enough: an epoch has at least one step
        with tracked_layer() as self.place:
            self.trainer.fit(data, epochs=epochs, callbacks=[self], progress=False, **fit)
        if self.trainer.interrupted_by:
            signal.raise_signal(self.trainer.interrupted_by)
            raise KeyboardInterrupt  # the caller's handler of the signal returned

    @contextlib.contextmanager
    def around_step(self, trainer: Trainer) -> Iterator[None]:
        with recording(self.judge):
            yield

    def on_step(self, trainer: Trainer, record: Record | None) -> None:
        self.updates = 0
        if trainer.steps - self.before >= self.steps:
            trainer.stop("enough steps")

    def judge(self, call: Call) -> None:
        layer, direction = self.place()
        update = "params" in OPS[call.op].changes
        self.updates += update
        if not call.checkable:
            self.skipped += 1
            return
        self.calls += 1
        worst = call.compare()
        name = f"{call.op}{f' of {layer}' if layer else ''}{f', {direction}' if direction else ''}"
        self.shares[name] = max(worst.share, self.shares.get(name, 0.0))
        if worst.wrong:
            parameter = self.parameter(worst.result) if update else ""
            place = layer, direction or ("update" if update else "outside of layers")
            raise _FirstViolation(self.trainer.steps - self.before + 1, place, call, parameter, worst)

    def parameter(self, result: str) -> str:
        """The parameter's name for an entry of an update's lists, such as "params[3]"; "" for another result."""
        leaves = [each for each in self.trainer.optimizer.walk() if not isinstance(each, Groups)]
        entry = re.search(r"\[(\d+)\]$", result)
        return leaves[self.updates - 1].parameters[int(entry[1])] if entry else ""


def bisect(
    a: Trainer, b: Trainer, data: DataLike, *, steps: int = 2, kernels: Mapping[str, Path] | None = None, **fit: Any
) -> Bisection:
    """Train two trainers on the same data for some steps, and find the first call that is beyond its bound.

    Args:
        a, b: The trainers, of equal nets.
        data: As in `Trainer.fit`, but no generator.
        steps: The number of steps to compare. A trainer that has trained before continues from its last step.
        kernels: .cu files that B uses in place of the shipped files of the same names, as in `gpuconv.lab`.
        fit: Further arguments of `Trainer.fit`, such as batch_size.

    Raises:
        TypeError: `a` or `b` is not a Trainer, `data` is a generator, which only one side could read from the
            beginning, or `steps` is not an integer.
        ValueError: The nets have different layers or are one object, `steps` is below 1, or a kernel file is missing.
    """
    if wrong := [each for each in (a, b) if not isinstance(each, Trainer)]:
        raise TypeError(f"a and b must be Trainers, received {type(wrong[0]).__name__}")
    steps = arguments.integer("steps", steps, 1)
    if isinstance(data, Iterator):
        raise TypeError(
            f"both sides read data from the beginning, received {type(data).__name__}; give a list of batches, or a "
            "function that makes a generator"
        )
    if a.net is b.net:
        raise ValueError("a and b train the same net; give one of them a copy, net.twin()")
    with replaced_files.replace_files(dict(kernels or {})):
        pass  # only for its checks
    if _settings_without_algorithms(a.net) != _settings_without_algorithms(b.net):
        raise ValueError("the two nets have different layers; bisect compares one net on two sides")
    judges = _Judge(a, steps), _Judge(b, steps)
    found: list[tuple[int, _FirstViolation]] = []
    for side, files in enumerate(({}, dict(kernels or {}))):
        try:
            with replaced_files.replace_files(files):
                judges[side](data, **fit)
        except _FirstViolation as one:
            found.append((side, one))
            judges[1].steps = one.step  # B stops where A stopped
    counts = (judges[0].calls, judges[1].calls), (judges[0].skipped, judges[1].skipped)
    outcome = Bisection(steps, *counts)
    for letter, judge in zip("AB", judges):
        for name, share in judge.shares.items():
            outcome.shares.setdefault(name, {})[letter] = share
    if found:
        side, first = min(found, key=lambda each: each[1].step)
        with replaced_files.replace_files(dict(kernels or {}) if side == 0 else {}):
            outcome.violation = _violation(side, first, judges[1 - side].trainer.net)
    return outcome


def _settings_without_algorithms(net: Layer) -> list[Record]:
    """The layers' settings without the algorithms."""
    return [layer.config() | {"algo": None} for layer in net.walk() if not layer.children()]


def _violation(side: int, first: _FirstViolation, other: Layer) -> Violation:
    """The violation, with the same call on the other side."""
    algos = {layer.algo for layer in other.walk() if hasattr(layer, "algo")}
    changed: dict[str, object] = {"tf32": other.tf32} if "tf32" in first.call.options else {}
    if "algo" in first.call.options and len(algos) == 1:
        changed["algo"] = algos.pop()
    worst = first.worst
    other_value = np.asarray(first.call.on(other.device, **changed).results[worst.result])[worst.at]
    same_shape = other_value.ndim == 0  # otherwise the indices of the element select a part of another volume
    value = float(other_value) if same_shape else np.nan
    error = abs(value - worst.expected)
    share = error / worst.bound if worst.bound else np.inf if error else 0.0
    layer, direction = first.place
    return Violation(side, first.step, layer, direction, first.call.op, first.parameter, worst, value, share)
