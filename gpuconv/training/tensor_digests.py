"""Digests of a run: a line for each step, with a hash, the sum and the norm of every tensor of that step.

`gpuconv bisect RUN_A RUN_B` compares two such files (`gpuconv.inspect.bisect_runs`). A line is

    {"format": 2, "step": 1, "on": "numpy: ...",
     "tensors": [["forward", "conv1", "float32", 65536, 9, "xxh3:5f1c02aa90b1d7e4", 12.5, 80.1, 0]]}

with each tensor's direction, name, dtype, number of values, products summed for one value, hash of its bytes, sum and
norm (null where they are not finite), and the norm of its change by the update. They are in the order of the work: the
layers' outputs, the gradients of their inputs, the parameters' gradients, the updated parameters, the loss. A hash
names its kind; lines of format 1, which have no "format", hold CRC-32 without a name, and are read as well.
"""

from __future__ import annotations

import json
import math
import os
import platform
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gpuconv import arguments, backends, files
from gpuconv.checkpoint import CheckpointError, write_atomically
from gpuconv.dtypes import as_numeric, is_float
from gpuconv.layers.fused import Fused
from gpuconv.training.callbacks import Callback, append
from gpuconv.types import Array

FORMAT = 2
CRC32, XXH3 = "crc32", "xxh3"  # kinds of hashes: of format 1, and of this one
MOST = 1e308  # numbers of a file are below
ROW = 256  # values that are added in float32 before their sum is added to others in float64
_BLOCK = 1024 * ROW  # values, which stay in the processor's cache from the hash to the norm
_SMALL = 2.0**-100  # float32 loses mean squares below: products under 2^-126 may be rounded to 0
_ONES = {np.dtype(dtype): np.ones(ROW, dtype) for dtype in ("float32", "float64")}


@dataclass(frozen=True)
class Digest:
    """The digest of a tensor. products: the number summed for one of its values, at least 1. moved: the norm of the
    change of an updated parameter."""

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
        """Whether its values are floats."""
        return is_float(as_numeric("dtype", self.dtype))

    @property
    def error(self) -> float:
        """How far rounding in `_dot` may have moved the norm, and the sum divided by the root of the size: at most
        n u / (1 - n u) of the sum of absolute values for rows of n, which is at most the norm times that root."""
        unit = np.finfo(np.float64 if self.dtype == "float64" else np.float32).eps / 2
        return ROW * float(unit) * (self.norm or 0.0) if self.rounds else 0.0

    def alike(self, other: Digest) -> bool | None:
        """Whether both are of the same bits; None if the hashes are of two kinds."""
        if (self.size, self.dtype) != (other.size, other.dtype):
            return False
        if self.kind != other.kind:
            return None
        return self.hash == other.hash

    @property
    def kind(self) -> str:
        """The kind of hash, "xxh3" or "crc32"."""
        return self.hash.partition(":")[0]

    @classmethod
    def of(
        cls, direction: str, name: str, tensor: Array, products: float = 1, before: np.ndarray | None = None
    ) -> Digest:
        """before: the values before the update."""
        host = tensor if type(tensor) is np.ndarray else backends.to_numpy(tensor)
        flat = np.ascontiguousarray(host).reshape(-1)
        hashed, total, norm, moved = _measured(flat, before if before is None else before.reshape(-1))
        size = max(1, math.ceil(products))
        return cls(direction, name, _name(flat.dtype), flat.size, size, hashed, total, norm, moved)


@cache
def _name(dtype: np.dtype) -> str:
    """The dtype's name, cached because NumPy builds the string at every access."""
    return dtype.name


@np.errstate(all="ignore")
def _measured(flat: np.ndarray, before: np.ndarray | None) -> tuple[str, float | None, float | None, float | None]:
    """The hash, the sum, the norm and the norm of the change, by parts that stay in the cache."""
    from xxhash import xxh3_64

    hashed = xxh3_64()
    total = squares = moved = 0.0
    for at in range(0, flat.size, _BLOCK):
        part = flat[at : at + _BLOCK]
        hashed.update(part.view(np.uint8).data)
        values = _wide(part)
        total += _dot(values, _ONES[values.dtype])
        squares += _squares(values)
        if before is not None:
            moved += _squares(values - _wide(before[at : at + _BLOCK]))
    norms = _finite(math.sqrt(squares)), _finite(math.sqrt(moved))
    return f"{XXH3}:{hashed.hexdigest()}", _finite(total), *norms


def _wide(values: np.ndarray) -> np.ndarray:
    """As float32, or as float64 if the dtype is wider."""
    narrow = is_float(values.dtype) and values.dtype.itemsize <= 4
    return values.astype(np.float32 if narrow else np.float64, copy=False)


def _squares(values: np.ndarray) -> float:
    found = _dot(values)
    if values.dtype == np.float32 and found < len(values) * _SMALL:
        found = _dot(values.astype(np.float64))
    return found


def _dot(values: np.ndarray, row: np.ndarray | None = None) -> float:
    """The sum of the products of each `ROW` values with those of `row`, by default with themselves. A row is added in
    the values' dtype, the rows in float64; all in float64 if float32 overflows. No BLAS takes several threads for so
    few."""
    rest = values[len(values) - len(values) % ROW :]
    found = float(rest.dot(rest if row is None else row[: len(rest)])) if len(rest) else 0.0
    if len(values) >= ROW:
        rows = values[: len(values) - len(rest)].reshape(-1, ROW)
        found += float(np.add.reduce(np.vecdot(rows, rows if row is None else row), dtype=np.float64))
    if values.dtype == np.float32 and not math.isfinite(found):
        return _dot(values.astype(np.float64), row if row is None else row.astype(np.float64))
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Step:
    """The digests of a step, in the order of its work. on: the device and machine that computed them."""

    step: int
    on: str
    tensors: list[Digest]

    def line(self) -> str:
        listed = [[*vars(digest).values()] for digest in self.tensors]
        return json.dumps({"format": FORMAT, "step": self.step, "on": self.on, "tensors": listed}) + "\n"


Key = tuple[str, str, int]  # direction and name of a tensor, and how many of these came before it in the step


def keyed(step: Step) -> list[tuple[Key, Digest]]:
    """The digests of a step with a key that is unique in it: with shards, a layer runs several times in a step."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for digest in step.tensors:
        place = digest.direction, digest.name
        found.append(((*place, seen[place]), digest))
        seen[place] += 1
    return found


class Digests(Callback):
    """Writes the digests of every step: ``fit(..., run_dir="runs/one", callbacks=[Digests()])``.

    path: a file, by default digests.jsonl in the run directory. every: N records the layers' outputs and the gradients
    of their inputs only in the first N steps and then in each N-th. Steps run launch by launch, with the same bits
    as captured ones. When a run is resumed, the file goes on after the checkpoint's step.
    """

    only_on_rank_0 = True
    seen: Callable[[list[Digest], Array], None] | None = None

    def __init__(self, path: str | os.PathLike[str] | None = None, every: int = 1) -> None:
        self.path, self.every = path, arguments.integer("every", every, 1)

    def on_start(self, trainer: Any) -> None:
        path = self.path or (trainer.run and trainer.run.digests)
        if not path:
            raise ValueError("Digests() writes into the run directory, and the run has none: give it a path")
        self._path, self._on = Path(path), machine(trainer.net.device)
        there = read(self._path) if trainer.steps and self._path.exists() else []
        kept = [step.line() for step in there if step.step <= trainer.steps]
        write_atomically(self._path, "".join(kept).encode())
        self._begun = bool(kept)

    @contextmanager
    def around_step(self, trainer: Any) -> Iterator[None]:
        """A context around a step of `trainer` that records its arrays."""
        step = trainer.steps + 1
        inside = step <= self.every or step % self.every == 0 or not self._begun
        with digests_of_step(trainer, inside, self.seen) as tensors:
            yield
        self._begun = True
        append(self._path, Step(step, self._on, tensors).line())


@contextmanager
def digests_of_step(
    trainer: Any, inside: bool = True, seen: Callable[[list[Digest], Array], None] | None = None
) -> Iterator[list[Digest]]:
    """A context for one step, which fills the list. inside: whether to record the layers' outputs and the gradients of
    their inputs. seen: called after each tensor, with the digests so far and the tensor."""
    found: list[Digest] = []
    sums = trainer.totals.read()
    before = {name: np.array(backends.to_numpy(value)) for name, value in trainer.net.state_dict().items()}

    def add(direction: str, name: str, tensor: Array, products: float = 1, before: np.ndarray | None = None) -> None:
        found.append(Digest.of(direction, name, tensor, products, before))
        if seen:
            seen(found, tensor)

    def forward(layer: Any, x: Array, y: Array) -> None:
        add("forward", _end(layer, -1).path, y, _products(layer, y))

    def backward(layer: Any, dx: Array | None, dy: Array) -> None:
        if dx is not None:
            add("backward", _end(layer, 0).path, dx, _products(layer, dx))

    with ExitStack() as hooked:
        for layer in trainer.trained.walk() if inside else ():
            if layer.path:
                hooked.enter_context(layer.register_forward_hook(forward))
                hooked.enter_context(layer.register_backward_hook(backward))
        yield found
    step = trainer.totals.read().since(sums)
    outputs = {f"{layer.path}.{name}": layer.output_shape for layer, name, _ in trainer.net.all_variables()}
    for name, grad in trainer.net.grads().items():
        add("gradient", name, grad, step.samples * math.prod(outputs.get(name, ())) / len(grad))
    for name, value in trainer.net.state_dict().items():
        add("update", name, value, before=before[name])
    add("loss", "loss", np.array(step.loss), step.samples)


def _end(layer: Any, number: int) -> Any:
    """The first or last of the layers that a fused layer, or a chain of them, runs as one; another layer itself."""
    while isinstance(layer, Fused):
        layer = layer.layers[number]
    return layer


def _products(layer: Any, tensor: Array) -> float:
    """The number of products that the layer itself sums for a value of its output or input; layers inside it count
    their own."""
    inner = layer.children() and not isinstance(layer, Fused)
    return 1 if inner else layer.mult_adds / max(1, math.prod(tensor.shape[1:]))


def machine(device: str) -> str:
    """The backend, libraries and machine that determine the bits of a run's results, with a hash for the machine's
    name."""
    return f"{backends.identity(device)}, machine {zlib.crc32(platform.node().encode()):08x}"


def read(path: str | os.PathLike[str]) -> list[Step]:
    """The steps in a file, without an incomplete last line. Raises CheckpointError that names a wrong line."""
    try:
        with files.open_regular(path) as file:
            *lines, _ = file.read().split(b"\n")
    except OSError as error:
        raise CheckpointError(f"cannot read the digests {path}: {error.strerror}") from error
    found: list[Step] = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            if (written := entry.get("format", 1)) not in (1, FORMAT):
                raise ValueError(f"its format is {str(written)[:20]}, and this version reads 1 and {FORMAT}")
            tensors = [_checked(each) for each in entry["tensors"]]
            found.append(Step(int(entry["step"]), str(entry["on"]), tensors))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{path}, line {number}, is not a line of digests: {error}") from error
    return found


def _checked(entry: Any) -> Digest:
    kinds: list[Any] = [str, str, str, int, int, str, *[(int, float, type(None))] * 3]
    if not isinstance(entry, list) or len(entry) != len(kinds) or not all(map(isinstance, entry, kinds)):
        raise ValueError(f"{str(entry)[:60]} describes no tensor")
    found = Digest(*entry)
    if ":" not in found.hash:
        found = replace(found, hash=f"{CRC32}:{found.hash}")
    as_numeric("dtype", found.dtype)
    for name in ("size", "products", "sum", "norm", "moved"):
        if not -MOST < (getattr(found, name) or 0) < MOST:  # nor NaN
            raise ValueError(f"{name} is {str(getattr(found, name))[:60]}")
    return found
