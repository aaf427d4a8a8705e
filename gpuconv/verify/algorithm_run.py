"""One call of an algorithm: the question that it answers, its inputs, its form and its results."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpuconv import backends
from gpuconv.backends.cuda.ops import conv
from gpuconv.backends.cuda.runtime.outputs import pack_width
from gpuconv.backends.reference.precision import round_tf32
from gpuconv.dtypes import as_dtype
from gpuconv.problems import PLAIN, Conv2dProblem, Epilogue
from gpuconv.types import Array, Options, Record

if TYPE_CHECKING:
    from gpuconv.backends.cuda.gemm.product import Product

_PERIOD = 65_537  # the numbers of an array repeat after this many: a prime, so that no length of an axis divides it
EXACT = 1 << 24  # whole numbers up to here are exact in float32
_LARGEST_SUM = 1 << 14  # inputs are scaled so that sums of random products stay below about this, for float16's range

Results = dict[str, np.ndarray]


@dataclass(frozen=True)
class Question:
    """Asks whether `algorithm` is right for one problem.

    direction: "fprop", "dgrad" or "wgrad". vectors: how many channels and how many filters one access moves; fewer than
    the problem allows if the arrays are not aligned. against: a proved algorithm."""

    device: str
    direction: str
    problem: Conv2dProblem
    epilogue: Epilogue
    dtype: np.dtype
    tf32: bool
    vectors: tuple[int, int]
    algorithm: str
    against: str

    @classmethod
    def read(cls, record: Record) -> Question:
        (before, after), (left, right) = record["window"]["padding"]
        window = record["window"] | {"padding": ((before, after), (left, right))}
        return cls(
            record["device"],
            record["direction"],
            Conv2dProblem.of(record["x_shape"], record["w_shape"], **window),
            Epilogue.of(**record["epilogue"]),
            as_dtype(record["dtype"]),
            record["tf32"],
            (record["vectors"][0], record["vectors"][1]),
            record["algorithm"],
            record["against"],
        )

    @property
    def product(self) -> Product:
        return conv.product_of(
            self.direction, self.problem, self.epilogue, self.dtype, self.tf32, self.vectors[0], self.vectors[1]
        )


@dataclass(frozen=True)
class Form:
    """A variant of a call that the same kernel serves. bias: with a bias, or for wgrad with the bias gradient.
    accumulate: the result is added to `out`. sliced: y, dy and dx are slices of the channels of wider volumes."""

    bias: bool = True
    accumulate: bool = False
    sliced: bool = False


class Inputs:
    """The arrays of a question. kind: "random", "magnitudes" (the absolute values of the random numbers) or "whole"
    (whole numbers)."""

    def __init__(self, question: Question, kind: str) -> None:
        self._question, self._kind = question, kind
        problem = question.problem
        channels, filters = self.unaligned
        depth = question.product.k
        self._scale = 2.0 ** -max(0, math.ceil(math.log2(max(depth, 1) / _LARGEST_SUM)))
        # The largest whole number. Sums of products use at most half of the exact range. The rest is for the bias or
        # for the contents of `out`.
        self._largest_whole = 2 if 8 * depth < EXACT else 1
        every: dict[str, dict[str, tuple[tuple[int, ...], bool]]] = {
            "fprop": {"x": (problem.x_shape, channels), "w": (problem.w_shape, False), "bias": ((problem.k,), False)},
            "dgrad": {"dy": (problem.y_shape, filters), "w": (problem.w_shape, channels)},
            "wgrad": {"dy": (problem.y_shape, filters), "x": (problem.x_shape, channels)},
        }
        shapes = every[question.direction].items()
        self.arrays = {name: self._array(*each, seed) for seed, (name, each) in enumerate(shapes)}

    def out(self, shape: tuple[int, ...], accumulate: bool = False) -> Array:
        """An array for a result: unwritten or, with accumulate, holding numbers to which the result is added."""
        if not accumulate:
            return self._unwritten(shape, self._shifts_out)
        return self._array(shape, self._shifts_out, seed=9)

    def sliced(self, of: Array) -> tuple[Array, Array]:
        """(wider volume, slice of its channels with the numbers of `of`). The volume has 32 bytes of channels more than
        `of`, and these hold zeros. Half of them lie on each side. If results are not aligned, one channel more lies on
        the left, and one less on the right."""
        width = 16 // of.dtype.itemsize
        volume = backends.zeros((*of.shape[:-1], of.shape[-1] + 2 * width), of.dtype, self._question.device)
        begin = width + self._shifts_out
        part = volume[..., begin : begin + of.shape[-1]]
        backends.assign(part, of)
        return volume, part

    @property
    def _shifts_out(self) -> bool:
        return self._question.direction == "fprop" and self.unaligned[1]

    @property
    def unaligned(self) -> tuple[bool, bool]:
        """(channels, filters): whether arrays with channels last, and those with filters last, start at an address that
        is not aligned for the widest accesses."""
        problem, dtype = self._question.problem, self._question.dtype
        counts = (problem.c // problem.groups, problem.k // problem.groups)
        channels, filters = (
            moved < pack_width(dtype, count=count) for moved, count in zip(self._question.vectors, counts)
        )
        return channels, filters

    def _unwritten(self, shape: tuple[int, ...], shifted: bool) -> Array:
        flat = backends.empty((math.prod(shape) + shifted,), self._question.dtype, self._question.device)
        return flat[int(shifted) :].reshape(shape)

    def _array(self, shape: tuple[int, ...], shifted: bool, seed: int) -> Array:
        array = self._unwritten(shape, shifted)
        flat, numbers = array.reshape(-1), self._numbers(seed, min(_PERIOD, math.prod(shape)))
        for begin in range(0, flat.shape[0], _PERIOD):
            part = flat[begin : begin + _PERIOD]
            backends.assign(part, numbers[: part.shape[0]])
        return array

    def _numbers(self, seed: int, count: int) -> Array:
        rng = np.random.default_rng(seed)
        if self._kind == "whole":
            host = rng.integers(-self._largest_whole, self._largest_whole + 1, count).astype(np.float64)
        else:
            host = rng.standard_normal(count) * (self._scale if seed == 0 else 1)
            host = round_tf32(host.astype(np.float32)) if self._question.tf32 else host
            host = np.abs(host) if self._kind == "magnitudes" else host
        return backends.asarray(host.astype(self._question.dtype), self._question.device)


def run(question: Question, algo: str, inputs: Inputs, form: Form, epilogue: Epilogue) -> Results:
    """The results of one call, on the host, by name."""
    found = run_on_device(question, algo, inputs, form, epilogue)
    return {name: backends.to_numpy(array) for name, array in found.items()}


def run_on_device(question: Question, algo: str, inputs: Inputs, form: Form, epilogue: Epilogue) -> Options:
    """The results of one call, on the device, by name. In place of a slice there is its wider volume."""
    problem, given, wide = question.problem, inputs.arrays, {}
    named: Options = dict(algo=algo, tf32=question.tf32)
    dy = inputs.sliced(given["dy"])[1] if form.sliced and "dy" in given else given.get("dy")
    if question.direction == "fprop":
        x, w, bias = given["x"], given["w"], given["bias"] if form.bias else None
        if epilogue.moments:
            y, moments, saved = conv.conv2d_moments(x, w, bias, problem, epilogue, **named)
        else:
            y, moments, saved = inputs.out(problem.pooled_shape(epilogue.pool)), None, None
            if form.sliced:
                wide["y"], y = inputs.sliced(y)
            if epilogue.plain_store:
                conv.conv2d(x, w, bias, problem, epilogue, out=y, **named)
            else:
                y, saved = conv.conv2d_relu(x, w, bias, problem, epilogue, out=y, **named)
        found = {"y": y, "moments": moments, "before" if epilogue.saves_input else "mask": saved}
    elif question.direction == "dgrad":
        dx = inputs.out(problem.x_shape, form.accumulate)
        if form.sliced:
            wide["dx"], dx = inputs.sliced(dx)
        more = named | dict(out=dx, accumulate=form.accumulate)
        conv.conv2d_dgrad(dy, given["w"], problem, PLAIN, mask=None, **more)
        found = {"dx": dx}
    else:
        dw = inputs.out(problem.w_shape, form.accumulate)
        db = inputs.out((problem.k,), form.accumulate) if form.bias else None
        more = named | dict(out=dw, db=db, accumulate=form.accumulate)
        conv.conv2d_wgrad(dy, given["x"], problem, PLAIN, mask=None, **more)
        found = {"dw": dw, "db": db}
    return {name: array for name, array in (found | wide).items() if array is not None}
