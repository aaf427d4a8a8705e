"""Finds where two runs began to differ, from their digests (`gpuconv.training.tensor_digests`).

On one machine any differing bit counts, if dtypes and kinds of hashes are the same too. Otherwise a tensor may differ
by as much as rounding explains, to first order:

- Each value is a sum of a known number of products, and all tensors before it were rounded as well. So the relative
  errors that verify's bound allows (`gpuconv.verify.bounds`) add up over everything computed so far. They bound the
  change of the norm; multiplied by the root of the number of values, they bound the change of the sum (Cauchy-Schwarz).
- Gradients may cancel, so their errors are relative to the gradient of the whole net.
- A mean may cancel too. The running statistics of a batch norm give the standard deviation S and the root mean square R
  of its input. A relative error e of the input changes the mean by up to e R, and the variance by up to 2 e R S.
- The sums and norms of the digests are rounded too (`Digest.error`).
- A step whose outputs and gradients inside the net were not recorded is assumed to round as much as the recorded step
  that rounds most.
- A step changes a parameter by an array of norm n. In two runs these arrays differ by at most 2 n times the gradient's
  relative error. A relative error above 1 counts as 1, because Adam takes full steps even along a gradient that is only
  rounding error. Later steps inherit this drift.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpuconv import plots
from gpuconv.training import RunDirectory
from gpuconv.training.compare_settings import setting_differences
from gpuconv.training.tensor_digests import Digest, Key, Step, read, with_unique_keys
from gpuconv.verify.bounds import sum_bound

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PathLike = str | os.PathLike[str]
MOST_SETTINGS = 5  # further ones are only counted
RUNNING_MEAN, RUNNING_VAR = ".running_mean", ".running_var"  # the ends of their names

GROUPS = {
    "forward": "outputs",
    "backward": "gradients of inputs",
    "gradient": "gradients",
    "update": "parameters",
    "loss": "loss",
}
WHAT = {
    "forward": "the output of {}, forward",
    "backward": "the gradient of the input of {}, backward",
    "gradient": "the gradient of {}, backward",
    "update": "{} after the update",
    "loss": "the loss",
}


@dataclass(frozen=True)
class Element:
    """The element in which a tensor differs most, found by repeating both runs (`gpuconv bisect --element`). at: its
    index. a, b: its values. differing: how many of the tensor's `size` elements differ."""

    at: tuple[int, ...]
    a: float
    b: float
    differing: int
    size: int

    @classmethod
    def of(cls, a: np.ndarray, b: np.ndarray) -> Element | None:
        """The element that differs most; None if the shapes differ, or all values are equal."""
        if a.shape != b.shape:
            return None
        one, other = (np.asarray(each).astype(np.float64) for each in (a, b))
        with np.errstate(invalid="ignore"):
            same = (one == other) | (np.isnan(one) & np.isnan(other))
            differences = np.where(same, -1.0, np.nan_to_num(abs(one - other), nan=np.inf))
        if same.all():
            return None
        at = tuple(int(each) for each in np.unravel_index(int(differences.argmax()), differences.shape))
        return cls(at, float(one[at]), float(other[at]), int((~same).sum()), same.size)

    def __str__(self) -> str:
        return (
            f"largest difference at [{', '.join(map(str, self.at))}]: {self.a:.9g} and {self.b:.9g}, "
            f"{abs(self.a - self.b):.3g} apart; {self.differing:,} of {self.size:,} elements differ"
        )


@dataclass(frozen=True)
class ComparedTensor:
    """A tensor of both runs. rounding: the change of its norm that rounding explains. earlier: the number of compared
    tensors before it in this step. inside: whether both runs recorded the outputs and gradients inside the net in this
    step. element: where it differs most, if that is known."""

    step: int
    a: Digest
    b: Digest
    rounding: float
    earlier: int
    inside: bool = True
    key: Key = ("", "", 0)
    element: Element | None = None

    @property
    def share(self) -> float:
        """The difference as a share of what rounding explains: 0 for the same bits, above 1 if the difference is
        larger."""
        one, other = self.a, self.b
        if one.alike(other):
            return 0.0
        if one.size != other.size:
            return math.inf
        if not (one.rounds and other.rounds):
            same = (one.norm, one.sum) == (other.norm, other.sum)
            return 0.0 if same and one.alike(other) is None else math.inf
        if one.norm is None or other.norm is None or one.sum is None or other.sum is None:
            return 0.0 if (one.norm, one.sum) == (other.norm, other.sum) else math.inf
        errors = abs(one.norm - other.norm), abs(one.sum - other.sum) / math.sqrt(one.size)
        if not self.rounding:
            return math.inf if any(errors) else 0.0
        return max(errors) / self.rounding

    @property
    def tensor(self) -> str:
        return WHAT.get(self.a.direction, f"{self.a.direction} of {{}}").format(self.a.name)

    def __str__(self) -> str:
        lines = [f"differ first at step {self.step}: {self.tensor}", f"  {'':6}{'A':>23}{'B':>23}"]
        for name in ("dtype", "size", "hash", "sum", "norm"):
            lines.append(f"  {name:6}{_shown(getattr(self.a, name)):>23}{_shown(getattr(self.b, name)):>23}")
        norms = [digest.norm for digest in (self.a, self.b) if digest.norm is not None]
        if len(norms) == 2:
            lines.append(f"  the norms differ by {abs(norms[0] - norms[1]):.3g}; rounding explains {self.rounding:.3g}")
        lines.append(
            f"  the {self.earlier} tensors of this step before it agree"
            if self.earlier
            else "  it is the first recorded tensor of this step"
        )
        if self.element:  # no element changes by more than the norm of the difference, which `rounding` bounds
            lines.append(f"  {self.element}; rounding explains {self.rounding:.3g}")
        if not self.inside:
            lines.append(
                "  earlier tensors of the net were not recorded here; --digests-every 1 records them at every step"
            )
        return "\n".join(lines)


@dataclass
class Runs:
    """The result of a comparison. steps: the number of steps that both runs recorded. lengths: the number that each run
    recorded. settings: the settings that differ, in words. bits: the first tensor whose bits differ. beyond:
    the first tensor whose difference rounding does not explain. one_machine: whether any differing bit counts, as on
    one machine with the same dtypes and kinds of hashes. hashes: the kinds of hashes. shares: for each tensor
    (direction, name), by step, the difference as a share of what rounding explains."""

    steps: int = 0
    lengths: tuple[int, int] = (0, 0)
    settings: list[str] = field(default_factory=list)
    one_machine: bool = True
    hashes: list[str] = field(default_factory=list)
    bits: ComparedTensor | None = None
    beyond: ComparedTensor | None = None
    shares: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict, repr=False)

    @property
    def found(self) -> ComparedTensor | None:
        return self.bits if self.one_machine else self.beyond

    def set_element(self, element: Element | None) -> None:
        """Add to `found` the element that differs most."""
        name = "bits" if self.one_machine else "beyond"
        setattr(self, name, replace(getattr(self, name), element=element))

    def picture(self) -> Figure:
        """The figure of `gpuconv.plots.differences`."""
        found = self.found
        first = (found.step, (GROUPS[found.a.direction], found.a.name)) if found else None
        rows = {(GROUPS[direction], name): steps for (direction, name), steps in self.shares.items()}
        rows = {row: rows[row] for group in GROUPS.values() for row in rows if row[0] == group}
        return plots.differences(rows, first=first, title=str(found or "they agree").partition("\n")[0])

    def __str__(self) -> str:
        lines = [f"settings differ: {line}" for line in self.settings[:MOST_SETTINGS]]
        if more := len(self.settings[MOST_SETTINGS:]):
            lines.append(f"and {more} more settings")
        by = "on one machine any different bit counts" if self.one_machine else "a difference beyond rounding counts"
        lines.append(f"compared: {self.steps} steps, of {self.lengths[0]} and {self.lengths[1]} recorded; {by}")
        lines.append(str(self.found) if self.found else f"agree over {self.steps} steps")
        if self.one_machine and self.bits:
            late = f"from step {self.beyond.step} on, {self.beyond.tensor}" if self.beyond else "nowhere"
            lines.append(f"beyond what rounding explains: {late}")
        elif not self.one_machine:
            early = f"from step {self.bits.step} on, {self.bits.tensor}" if self.bits else "nowhere"
            if len(self.hashes) > 1:
                early = f"unknown, as the hashes are of two kinds, {' and '.join(self.hashes)}"
            lines.append(f"different bits: {early}")
        return "\n".join(lines)


def _shown(value: str | float | None) -> str:
    return "not finite" if value is None else f"{value:.9g}" if isinstance(value, float) else str(value)


def bisect_runs(a: PathLike, b: PathLike) -> Runs:
    """Compare two runs.

    Args:
        a, b: Run directories, or files of digests (`gpuconv.training.Digests`).

    Raises:
        ValueError: a and b are the same run, one of them has no digests, or they have no step or no tensor in common.
        CheckpointError: A file cannot be read, or has a line without digests.
        FileNotFoundError: A folder holds no run.
    """
    files = [_file(path) for path in (a, b)]
    if all(file.exists() for file in files) and os.path.samefile(*files):
        raise ValueError(f"{a} and {b} are the same run; name two")
    found = compare(*map(read, files))
    if all(Path(path).is_dir() for path in (a, b)):
        there, here = (RunDirectory.open(path).settings() for path in (a, b))
        found.settings = setting_differences(there, here)
    return found


def _file(path: PathLike) -> Path:
    if not Path(path).is_dir():
        return Path(path)
    run = RunDirectory.open(path)
    if not run.digests.exists():
        raise ValueError(f"{path} has no digests; a run records them with `gpuconv train --digests`")
    return run.digests


def compare(a: list[Step], b: list[Step]) -> Runs:
    """Compare the steps that both runs recorded. Raises ValueError if there is no such step, or if the two runs have no
    tensor in common at one of them."""
    ours, theirs = ({step.step: step for step in steps} for steps in (a, b))
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        raise ValueError(f"the runs have no step in common: one has {_range(ours)}, the other {_range(theirs)}")
    found = Runs(len(both), (len(ours), len(theirs)))
    by_step = [(number, _pairs(ours[number], theirs[number])) for number in both]
    compared = [(one, other) for _, listed in by_step for _, one, other in listed]
    found.hashes = sorted({digest.kind for both_digests in compared for digest in both_digests})
    found.one_machine = all(ours[number].on == theirs[number].on for number in both) and all(
        one.dtype == other.dtype and one.kind == other.kind for one, other in compared
    )
    rounding = Rounding(max(map(_rounding_inside_net, [*a, *b])))
    for number, listed in by_step:
        if not listed:
            raise ValueError(f"the runs have no tensor in common at step {number}: their nets differ")
        inside = any(one.direction == "forward" for _, one, _ in listed)
        rounding.begin([digest for _, *digests in listed for digest in digests], inside)
        for earlier, (key, one, other) in enumerate(listed):
            tensor = ComparedTensor(number, one, other, rounding.allowed(one, other), earlier, inside, key)
            shares = found.shares.setdefault((one.direction, one.name), {})
            shares[number] = max(tensor.share, shares.get(number, 0.0))  # a layer runs once for each shard
            if one.alike(other) is False:
                found.bits = found.bits or tensor
            if tensor.share > 1:
                found.beyond = found.beyond or tensor
        rounding.end()
    return found


class Rounding:
    """Follows, from tensor to tensor, how much rounding may have changed a norm. unrecorded: the relative error that a
    step adds if its outputs and gradients inside the net were not recorded."""

    def __init__(self, unrecorded: float) -> None:
        self.relative_error = 0.0  # the relative errors of everything computed so far, added up
        self.unrecorded = unrecorded
        self.drift: defaultdict[str, float] = defaultdict(float)  # the absolute drift of each parameter
        self._gradients: dict[str, float] = {}  # the norms of the parameters' gradients in this step
        self._norms: dict[str, float] = {}  # the norms of the parameters after this step
        self._variances: dict[str, float] = {}  # by layer, the sum of the running variances after this step

    def begin(self, step: list[Digest], inside: bool) -> None:
        """Begin a step, given its digests. inside: whether the outputs and gradients inside the net were recorded."""
        self.relative_error += 0.0 if inside else self.unrecorded
        self._gradients, self._norms = (
            {each.name: each.norm or 0.0 for each in step if each.direction == direction}
            for direction in ("gradient", "update")
        )
        self._variances = {
            each.name.removesuffix(RUNNING_VAR): each.sum or 0.0
            for each in step
            if each.direction == "update" and each.name.endswith(RUNNING_VAR)
        }

    def allowed(self, one: Digest, other: Digest) -> float:
        """The difference of the norms that rounding explains, the rounding of the digests included."""
        return self._explained_by_computation(one, other) + one.error + other.error

    def _explained_by_computation(self, one: Digest, other: Digest) -> float:
        """The difference of the norms that rounding in the computation explains. Adds the rounding of this tensor to
        `relative_error`."""
        self.relative_error += max(map(_rounding, (one, other)))
        error = self.relative_error * math.hypot(*self._gradients.values())
        if one.direction == "gradient":
            return error
        norm = max(one.norm or 0.0, other.norm or 0.0)
        if one.direction == "update":
            # Running statistics and frozen parameters have no gradient, so no error of a gradient counts for them.
            gradient = self._gradients.get(one.name, math.inf)
            share = min(1.0, max(self.relative_error, error / gradient if gradient else 1.0))
            self.drift[one.name] += share * 2 * max(one.moved or 0.0, other.moved or 0.0)
            return self.relative_error * self._magnitude(one.name, norm) + self.drift[one.name]
        return self.relative_error * norm

    def _magnitude(self, name: str, norm: float) -> float:
        """What the error of a variable with this norm is relative to: the norm, except for running statistics."""
        layer = name.removesuffix(RUNNING_MEAN).removesuffix(RUNNING_VAR)
        variance = self._variances.get(layer, 0.0)
        if layer == name or variance <= 0:
            return norm
        deviation = math.sqrt(variance)
        root_mean_square = math.hypot(self._norms.get(layer + RUNNING_MEAN, 0.0), deviation)
        return root_mean_square if name.endswith(RUNNING_MEAN) else 2 * norm * root_mean_square / deviation

    def end(self) -> None:
        """End a step. All that the next step computes inherits the largest relative drift of a layer's parameters."""
        layers = {name.rpartition(".")[0] for name in self._norms}
        self.relative_error += max(
            (self._of_layer(layer, self.drift) / (self._of_layer(layer, self._norms) or 1.0) for layer in layers),
            default=0,
        )

    def _of_layer(self, layer: str, norms: Mapping[str, float]) -> float:
        """The norm over all parameters of a layer, from the norm of each parameter."""
        return math.hypot(*(norms[name] for name in self._norms if name.rpartition(".")[0] == layer))


def _range(steps: dict[int, Step]) -> str:
    return f"steps {min(steps)} to {max(steps)}" if steps else "none"


def _pairs(a: Step, b: Step) -> list[tuple[Key, Digest, Digest]]:
    """The tensors that both steps have, in a's order. A fused net has fewer tensors."""
    others = dict(with_unique_keys(b))
    return [(key, one, others[key]) for key, one in with_unique_keys(a) if key in others]


def _rounding(digest: Digest) -> float:
    """The relative error that verify's bound allows for the tensor's own sums."""
    return float(sum_bound(digest.dtype, digest.products, 1.0)) if digest.rounds else 0.0


def _rounding_inside_net(step: Step) -> float:
    """The relative errors of a step's outputs and gradients inside the net, added up."""
    return sum(_rounding(digest) for digest in step.tensors if digest.direction in ("forward", "backward"))
