"""Digests of a run: a line for each step, with a hash, the sum and the norm of every tensor of that step.

`gpuconv bisect RUN_A RUN_B` compares two such files (`gpuconv.inspect.bisect_runs`). A line is

    {"format": 2, "step": 1, "on": "numpy: ...",
     "tensors": [["forward", "conv1", "float32", 65536, 9, "xxh3:5f1c02aa90b1d7e4", 12.5, 80.1, 0]]}

with each tensor's direction, name, dtype, number of values, number of products summed for one value, hash of its bytes,
sum, norm, and the norm of its change in the step; null stands for NaN and for a number of 1e308 or more in absolute
value. In float16, gradients are multiplied by the loss scale. Their sums and norms are divided by it again; their
hashes are of the multiplied values. The tensors are in the order of the work: the layers' outputs, the gradients of
their inputs, the parameters' gradients, the variables after the update (frozen ones and buffers included), the loss. A
hash begins with its kind. Lines of format 1 are read too; they have no "format", and their hashes are CRC-32 without
the kind.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from gpuconv import arguments, backends
from gpuconv.checkpoint import CheckpointError, write_atomically
from gpuconv.dtypes import as_numeric, is_float
from gpuconv.layers import Layer
from gpuconv.layers.fused import Fused
from gpuconv.layers.fused_residual import ResidualNorm
from gpuconv.ops.overlap import copy_of
from gpuconv.system import files
from gpuconv.training.callback_base import Callback
from gpuconv.training.logs import append
from gpuconv.training.run_state import RunState
from gpuconv.training.tensor_sums import CRC32, ROW, Measures
from gpuconv.types import Array

FORMAT = 2
MAX_NUMBER = 1e308  # the absolute values of a file's numbers are below this
_NUMBER = re.compile(r"(?<!%)%\.\d+g")  # in a template


@dataclass(frozen=True)
class Digest:
    """The digest of a tensor. products: the number of products summed for one of its values, at least 1. moved: the
    norm of a variable's change in the step, for the direction "update"; 0 for others."""

    direction: str  # "forward", "backward", "gradient", "update" or "loss"
    name: str
    dtype: str
    size: int
    products: int
    hash: str
    sum: float | None
    norm: float | None
    moved: float | None = 0.0

    @property
    def rounds(self) -> bool:
        """Whether its values may have rounding errors, that is, whether they are floats."""
        return is_float(as_numeric("dtype", self.dtype))

    @property
    def error(self) -> float:
        """A bound on the error that rounding in `Measures` causes in the norm, and also in sum / sqrt(size).

        Adding rows of n values causes an error of at most n u / (1 - n u) times the sum of their absolute values, where
        u is the unit roundoff. That sum is at most sqrt(size) times the norm. Rows of squares may be twice as long,
        because the norm has half the relative error of its square."""
        unit = np.finfo(np.float64 if self.dtype == "float64" else np.float32).eps / 2
        return ROW * float(unit) * (self.norm or 0.0) if self.rounds else 0.0

    def alike(self, other: Digest) -> bool | None:
        """Whether both are digests of the same bits; None if that is unknown, because the hashes are of two kinds."""
        if (self.size, self.dtype) != (other.size, other.dtype):
            return False
        if self.kind != other.kind:
            return None
        return self.hash == other.hash

    @property
    def kind(self) -> str:
        """The kind of hash: "xxh3", "splitmix" or "crc32"."""
        return self.hash.partition(":")[0]

    @classmethod
    def of(cls, direction: str, name: str, tensor: Array, products: float = 1, before: Array | None = None) -> Digest:
        """The digest of a tensor, with as many digits as in a file. products: as in the class, rounded up. before: a
        variable's values before the step, if the tensor holds its values after the step."""
        measures = Measures()
        with np.errstate(all="ignore"):
            measures.add(tensor, before)
        template = _template(direction, name, tensor.dtype, math.prod(tensor.shape), products)
        return _checked(json.loads(_filled([template], measures)))


def _template(direction: str, name: str, dtype: np.dtype, size: int, products: float) -> str:
    """A digest's JSON with placeholders for the hash, the sum, the norm and the norm of the change. For dtypes up to
    float32 the numbers have 9 digits, which is more than their accuracy."""
    begin = json.dumps([direction, name, dtype.name, size, max(1, math.ceil(products))])[:-1].replace("%", "%%")
    number = "%.9g" if is_float(dtype) and dtype.itemsize <= 4 else "%.17g"
    return f'{begin}, "%s", {number}, {number}, {number}]'


def _filled(templates: list[str], measures: Measures) -> str:
    """The tensors' templates, filled in with their hashes and numbers, as one text."""
    hashes, numbers = measures.results()
    text, values = ", ".join(templates), numbers.ravel().tolist()
    if not (abs(numbers) < MAX_NUMBER).all():
        text = _NUMBER.sub("%s", text)
        values = [repr(each) if abs(each) < MAX_NUMBER else "null" for each in values]
    return text % tuple(itertools.chain.from_iterable(zip(hashes, values[0::3], values[1::3], values[2::3])))


@dataclass(frozen=True)
class Step:
    """The digests of step number `step`, in the order of its work. on: the device and machine that computed them."""

    step: int
    on: str
    tensors: list[Digest]

    @property
    def device(self) -> str:
        """The name of the device, with which `on` begins (`machine`)."""
        return self.on.partition(": ")[0]


Key = tuple[str, str, int]  # a tensor's direction and name, and how many earlier tensors of the step have both


def with_unique_keys(step: Step) -> list[tuple[Key, Digest]]:
    """The digests of a step, each with a unique key. Names alone are not unique: with shards, a layer runs several
    times in a step."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for digest in step.tensors:
        place = digest.direction, digest.name
        found.append(((*place, seen[place]), digest))
        seen[place] += 1
    return found


class Digests(Callback):
    """Writes the digests of every step: ``fit(..., run_dir="runs/one", callbacks=[Digests()])``.

    path: a file, by default digests.jsonl in the run directory. every: with N, the layers' outputs and the gradients of
    their inputs are recorded only in the first N steps, then in each N-th, and in the first step written to a file.
    Steps are not captured, but have the same bits as captured ones. When a run is resumed, the lines after the
    checkpoint's step are replaced.
    """

    only_on_rank_0 = True
    # Called with each tensor's direction, name, values and loss scale (1 except for gradients in float16).
    seen: Callable[[str, str, Array, float], None] | None = None

    def __init__(self, path: str | os.PathLike[str] | None = None, every: int = 1) -> None:
        self.path, self.every = path, arguments.integer("every", every, 1)

    def on_start(self, trainer: RunState) -> None:
        """Open the file. Raises ValueError if neither a path nor a run directory is given, or if the path is that of
        another file of the run."""
        path = self.path or (trainer.run and trainer.run.digests)
        if not path:
            raise ValueError("Digests() writes into the run directory, and the run has none: give it a path")
        self._path, self._on = Path(path), machine(trainer.net.device)
        if trainer.run:
            trainer.run.expect_digests(self._path, "path")
        there = _lines(self._path) if trainer.steps and self._path.exists() else []
        kept = [line for line, step in there if step.step <= trainer.steps]
        write_atomically(self._path, b"".join(kept))
        self._begun = bool(kept)
        self._variables = [*trainer.net.named_variables()]
        self._layers = _recorded(trainer.trained)
        self._templates = cache(partial(_template_of, trainer.net))

    @contextmanager
    def around_step(self, trainer: RunState) -> Iterator[None]:
        """A context around a step of `trainer`, which writes the digests of the step's tensors."""
        step = trainer.steps + 1
        records_layers = step <= self.every or step % self.every == 0 or not self._begun
        with self._digests(trainer, self._layers if records_layers else []) as digests:
            yield
        self._begun = True
        begin = json.dumps({"format": FORMAT, "step": step, "on": self._on, "tensors": []})
        append(self._path, f"{begin[:-2]}{digests[0]}]}}\n")  # the digests are JSON already: put them into the list

    @contextmanager
    def _digests(self, trainer: RunState, layers: Sequence[Layer]) -> Iterator[list[str]]:
        """A context for one step. It yields a list, and at its end appends the JSON of the digests to this list.
        layers: the layers whose outputs and input gradients are recorded."""
        found: list[str] = []
        measures, tensors = Measures(), []
        sums = trainer.totals.read()
        loss_scale = trainer.loss_scale.scale if trainer.loss_scale else 1.0
        before = [copy_of(layer[name]) for _, layer, name in self._variables]

        def add(direction: str, of: Layer | str, tensor: Array, before: Array | None = None) -> None:
            scale = loss_scale if direction in ("backward", "gradient") else 1.0
            measures.add(tensor, before, scale)
            tensors.append((direction, of, tensor.dtype, tensor.shape))
            if self.seen:
                self.seen(direction, _name(direction, of), tensor, scale)

        def forward(layer: Layer, x: Array, y: Array) -> None:
            add("forward", layer, y)

        def backward(layer: Layer, dx: Array | None, dy: Array) -> None:
            if dx is not None:
                add("backward", layer, dx)

        # A ResidualNorm's joining layer has the output of the whole block, which is recorded for the block.
        joined = [layer.joining_layer for layer in layers if isinstance(layer, ResidualNorm)]
        hooks = [layer.register_forward_hook(forward) for layer in layers if layer not in joined]
        hooks += [layer.register_backward_hook(backward) for layer in layers]
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()
        step = trainer.totals.read().since(sums)
        for key, layer, name in self._variables:
            if layer.trains(name):
                add("gradient", key, layer.gradient(name))
        for (key, layer, name), value in zip(self._variables, before):
            add("update", key, layer[name], value)
        add("loss", "loss", np.array(step.loss))
        found.append(_filled([self._templates(*tensor, step.samples) for tensor in tensors], measures))


def _recorded(net: Layer) -> list[Layer]:
    """The layers inside a net, except for the body of each residual block: the body has the block's path, and its first
    and last layers are recorded."""
    bodies = [child for layer in net.walk() for _, child in layer.children() if child.path == layer.path]
    return [layer for layer in net.walk() if layer.path and layer not in bodies]


def _template_of(
    net: Layer, direction: str, of: Layer | str, dtype: np.dtype, shape: tuple[int, ...], samples: float
) -> str:
    """The template of a tensor's digest, which is the same in many steps. of: a layer, or the name of a variable.
    samples: the number of samples in the step."""
    products = 1.0
    if isinstance(of, Layer):
        products = _products(of, shape)
    elif direction == "gradient":
        outputs = {f"{layer.path}.{name}": layer.output_shape for layer, name, _ in net.all_variables()}
        # A filter's gradient sums over all output positions: outputs of a sample / number of filters, for each sample.
        products = samples * math.prod(outputs.get(of) or ()) / (shape[0] if shape else 1)
    elif direction == "loss":
        products = samples
    return _template(direction, _name(direction, of), dtype, math.prod(shape), products)


def _name(direction: str, of: Layer | str) -> str:
    return of if isinstance(of, str) else _end(of, -1 if direction == "forward" else 0).path


def _end(layer: Layer, number: int) -> Layer:
    """The first (`number` 0) or the last (-1) of the layers that a fused layer replaces; any other layer itself."""
    while isinstance(layer, Fused):
        layer = layer.layers[number]
    return layer


def _products(layer: Layer, shape: tuple[int, ...]) -> float:
    """The number of products that a layer sums for one value of an array of that shape: its output, or the gradient of
    its input. 1 for a layer with others inside, which count their own."""
    inner = layer.children() and not isinstance(layer, Fused)
    return 1 if inner else layer.mult_adds / max(1, math.prod(shape[1:]))


def machine(device: str) -> str:
    """The backend, libraries and machine that determine the bits of a run's results; a hash stands for the machine's
    name."""
    return f"{backends.identity(device)}, machine {zlib.crc32(platform.node().encode()):08x}"


def read(path: str | os.PathLike[str]) -> list[Step]:
    """The steps in a file, without an incomplete last line. Raises CheckpointError that names a wrong line."""
    return [step for _, step in _lines(path)]


def _lines(path: str | os.PathLike[str]) -> list[tuple[bytes, Step]]:
    """Each line of a file with its step. Raises as `read` does."""
    try:
        with files.open_regular(path) as file:
            *lines, _ = file.read().split(b"\n")
    except OSError as error:
        raise CheckpointError(f"cannot read the digests {path}: {error.strerror}") from error
    found: list[tuple[bytes, Step]] = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if (written := entry.get("format", 1)) not in (1, FORMAT):
                raise ValueError(f"its format is {str(written)[:20]}, and this version reads 1 and {FORMAT}")
            tensors = [_checked(each) for each in entry["tensors"]]
            found.append((line + b"\n", Step(int(entry["step"]), str(entry["on"]), tensors)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            why = f"it has no entry {error}" if isinstance(error, KeyError) else error
            raise CheckpointError(f"{path}, line {number}, is not a line of digests: {why}") from error
    return found


def _checked(entry: object) -> Digest:
    """The digest that an entry of a line describes. Raises ValueError for an invalid entry."""
    kinds: list[type | tuple[type, ...]] = [str, str, str, int, int, str, *[(int, float, type(None))] * 3]
    if not isinstance(entry, list) or len(entry) != len(kinds) or not all(map(isinstance, entry, kinds)):
        raise ValueError(f"{str(entry)[:60]} describes no tensor")
    found = Digest(*entry)
    if ":" not in found.hash:
        found = replace(found, hash=f"{CRC32}:{found.hash}")
    as_numeric("dtype", found.dtype)
    for name in ("size", "products", "sum", "norm", "moved"):
        if not -MAX_NUMBER < (getattr(found, name) or 0) < MAX_NUMBER:  # nor NaN
            raise ValueError(f"{name} is {str(getattr(found, name))[:60]}")
    return found
