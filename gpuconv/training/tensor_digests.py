"""Digests of a run: a line for each step, with a hash, the sum and the norm of every tensor of that step.

`gpuconv bisect RUN_A RUN_B` compares two such files (`gpuconv.inspect.bisect`). A line is

    {"step": 1, "on": "numpy: ...", "tensors": [["forward", "conv1", "float32", 65536, 9, "5f1c02aa", 12.5, 80.1, 0]]}

with each tensor's direction, name, dtype, number of values, products summed for one value, CRC-32 of its bytes, sum and
norm in float64 (null where they are not finite), and the norm of its change by the update. They are in the order of the
work: the layers' outputs, the gradients of their inputs, the parameters' gradients, the updated parameters, the loss.
Most bytes are in the layers' outputs and the gradients of their inputs, so not every step has these.
"""

from __future__ import annotations

import json
import math
import os
import platform
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
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

EVERY = 20  # every so many steps all tensors are recorded: keeps the cost below a tenth of the run's time
MOST = 1e308  # the numbers in a file are below this
_ONES = np.ones(8192)  # BLAS may add more in several threads, in an order that depends on their number


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

    @classmethod
    def of(
        cls, direction: str, name: str, tensor: Array, products: float = 1, before: np.ndarray | None = None
    ) -> Digest:
        """before: the values before the update."""
        host = tensor if type(tensor) is np.ndarray else backends.to_numpy(tensor)
        flat = np.ascontiguousarray(host).reshape(-1)
        total, squares, moved = _sums(flat, before if before is None else before.reshape(-1))
        return cls(
            direction,
            name,
            _name(flat.dtype),
            flat.size,
            max(1, math.ceil(products)),
            f"{zlib.crc32(flat.view(np.uint8).data):08x}",
            _finite(total),
            _finite(math.sqrt(squares)),
            _finite(math.sqrt(moved)),
        )


@cache
def _name(dtype: np.dtype) -> str:
    """The dtype's name, cached because NumPy builds the string at every access."""
    return dtype.name


def _sums(flat: np.ndarray, before: np.ndarray | None) -> tuple[float, float, float]:
    """The sum of the values, of their squares, and of the squares of their changes, in float64, in blocks that stay in
    the cache."""
    buffer = np.empty(min(flat.size, len(_ONES)))
    total = squares = moved = 0.0
    for begin in range(0, flat.size, len(_ONES)):
        part = slice(begin, begin + len(_ONES))
        values = buffer[: len(flat[part])]
        values[...] = flat[part]
        total += float(values.dot(_ONES[: len(values)]))
        squares += float(values.dot(values))
        if before is not None:
            values -= before[part]
            moved += float(values.dot(values))
    return total, squares, moved


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


@dataclass(frozen=True)
class Step:
    """The digests of a step, in the order of its work. on: the device and machine that computed them."""

    step: int
    on: str
    tensors: list[Digest]

    def line(self) -> str:
        listed = [[*vars(digest).values()] for digest in self.tensors]
        return json.dumps({"step": self.step, "on": self.on, "tensors": listed}) + "\n"


class Digests(Callback):
    """Writes the digests of every step: ``fit(..., run_dir="runs/one", callbacks=[Digests()])``.

    path: a file, by default digests.jsonl in the run directory. every: N records the layers' outputs and the gradients
    of their inputs in the first N steps and then in each N-th step; 1 records them in all steps. Steps run launch by
    launch, with the same bits as captured ones. When a run is resumed, the file goes on after the checkpoint's step.
    """

    only_on_rank_0 = True

    def __init__(self, path: str | os.PathLike[str] | None = None, every: int = EVERY) -> None:
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
        with digests_of_step(trainer, inside) as tensors:
            yield
        self._begun = True
        append(self._path, Step(step, self._on, tensors).line())


@contextmanager
def digests_of_step(trainer: Any, inside: bool = True) -> Iterator[list[Digest]]:
    """A context for one step, which fills the list. inside: whether to record the layers' outputs and the gradients of
    their inputs."""
    found: list[Digest] = []
    sums = trainer.totals.read()
    before = {name: np.array(backends.to_numpy(value)) for name, value in trainer.net.state_dict().items()}

    def forward(layer: Any, x: Array, y: Array) -> None:
        last = layer.layers[-1] if isinstance(layer, Fused) else layer
        found.append(Digest.of("forward", last.path, y, _products(layer, y)))

    def backward(layer: Any, dx: Array | None, dy: Array) -> None:
        first = layer.layers[0] if isinstance(layer, Fused) else layer
        if dx is not None:
            found.append(Digest.of("backward", first.path, dx, _products(layer, dx)))

    with ExitStack() as hooked:
        for layer in trainer.trained.walk() if inside else ():
            if layer.path:
                hooked.enter_context(layer.register_forward_hook(forward))
                hooked.enter_context(layer.register_backward_hook(backward))
        yield found
    step = trainer.totals.read().since(sums)
    outputs = {f"{layer.path}.{name}": layer.output_shape for layer, name, _ in trainer.net.all_variables()}
    for name, grad in trainer.net.grads().items():
        found.append(Digest.of("gradient", name, grad, step.samples * math.prod(outputs.get(name, ())) / len(grad)))
    for name, value in trainer.net.state_dict().items():
        found.append(Digest.of("update", name, value, before=before[name]))
    found.append(Digest.of("loss", "loss", np.array(step.loss), step.samples))


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
            found.append(Step(int(entry["step"]), str(entry["on"]), [_checked(each) for each in entry["tensors"]]))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CheckpointError(f"{path}, line {number}, is no line of digests: {error}") from error
    return found


def _checked(entry: Any) -> Digest:
    kinds: list[Any] = [str, str, str, int, int, str, *[(int, float, type(None))] * 3]
    if not isinstance(entry, list) or len(entry) != len(kinds) or not all(map(isinstance, entry, kinds)):
        raise ValueError(f"{str(entry)[:60]} describes no tensor")
    found = Digest(*entry)
    as_numeric("dtype", found.dtype)
    for name in ("size", "products", "sum", "norm", "moved"):
        if not -MOST < (getattr(found, name) or 0) < MOST:  # nor NaN
            raise ValueError(f"{name} is {str(getattr(found, name))[:60]}")
    return found
