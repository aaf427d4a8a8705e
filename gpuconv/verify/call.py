"""One call of an op with its actual arrays: recorded, checked against the oracle, stored and replayed."""

from __future__ import annotations

import inspect
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from gpuconv import backends, ops
from gpuconv.arguments import is_array
from gpuconv.checkpoint import Checkpoint, CheckpointError
from gpuconv.names import lookup
from gpuconv.ops import OPS
from gpuconv.types import Options, Record
from gpuconv.verify.compare import Difference, Expected, compare, results
from gpuconv.verify.oracle import expected_results, is_exact
from gpuconv.verify.rules.base import as_float64, expected_sum
from gpuconv.verify.run import copied, map_arrays, to_device

_RENAMED = {"advance_clock": "advance_step_counter"}  # former names of ops, which stored calls may have

# The arguments to which an op may write its results, and the option that makes it add to them instead.
_OUTPUTS = ("out", "dw", "db", "dgamma", "dbeta")
_ACCUMULATE_OPTIONS = {
    "conv2d_dgrad": {"out": "accumulate"},
    "conv2d_wgrad": {"out": "accumulate", "db": "accumulate"},
    "conv2d_backward": {"out": "accumulate_dx", "dw": "accumulate", "db": "accumulate"},
    "bias_grad": {"out": "accumulate"},
    "linear_wgrad": {"out": "accumulate", "db": "accumulate"},
    "batch_norm_backward": {"dgamma": "accumulate", "dbeta": "accumulate"},
    "group_norm_backward": {"dgamma": "accumulate", "dbeta": "accumulate"},
}


@dataclass
class Call:
    """The inputs and results of one call of an op, on the host.

    arrays, options: the op's inputs, as `Case.arguments` returns them. into: the contents that the arrays for results
    (`out`, `dw`, ...) had before the call, by name. results: by name, as `compare.results` returns them, and "db" if
    the call computed a bias gradient.
    """

    op: str
    arrays: list[Any]
    options: Options
    into: dict[str, np.ndarray]
    results: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def checkable(self) -> bool:
        """Whether the results can be checked: the bounds do not hold if an input is infinite or NaN."""
        if is_exact(self.op):
            return True
        return all(map(_is_finite, [*self.arrays, *self.options.values(), *self._added_to().values()]))

    def expected(self) -> list[Expected]:
        """The expected value of each result, in the order of the results."""
        adding = {"accumulate", "accumulate_dx"}
        options = {name: value for name, value in self.options.items() if name not in adding}
        arrays = [copied(array) for array in self.arrays]
        found = expected_results(self.op, arrays, options)
        names = [name for name in self.results if name != "db"]
        by_name = {name: Expected(name, one.value, one.bound) for name, one in zip(names, found, strict=True)}
        if "db" in self.results:
            by_name["db"] = self._bias_gradient()
        index = {"out": 0, "dw": 1, "dgamma": 1, "dbeta": 2}
        for argument, before in self._added_to().items():
            name = "db" if argument == "db" else names[index[argument]]
            by_name[name] = expected_sum(by_name[name], before)
        return list(by_name.values())

    def _bias_gradient(self) -> Expected:
        """The sum of dy over all axes but the last. For a convolution it is computed as the filter gradient of a 1 x 1
        convolution of ones, so that only values whose mask bit is set count."""
        dy = self.arrays[0]
        if dy.ndim == 2:
            (one,) = expected_results("bias_grad", [dy], {})
        else:
            n, p, q, _ = dy.shape
            same = {name: self.options[name] for name in ("mask", "pool", "groups")}
            ones = np.ones((n, p * same["pool"], q * same["pool"], same["groups"]), dy.dtype)
            (one,) = expected_results("conv2d_wgrad", [dy, ones], dict(kernel_size=1, **same))
        return Expected("db", np.reshape(one.value, -1), np.reshape(one.bound, -1))

    def _added_to(self) -> dict[str, np.ndarray]:
        """The arrays to which the call added its results, with their contents before the call, by argument name."""
        options = _ACCUMULATE_OPTIONS.get(self.op, {})
        return {name: self.into[name] for name, option in options.items() if name in self.into and self.options[option]}

    def compare(self) -> Difference:
        """The worst difference from the oracle among all results."""
        differences = [
            compare(_overflowed(one, self.results[one.name]), self.results[one.name]) for one in self.expected()
        ]
        return max(differences, key=lambda difference: difference.share, default=Difference(0.0, 0.0, 0.0))

    def on(self, device: str, **changed: object) -> Call:
        """Repeat the call on a device, and return the record of that call. changed: replacements for options."""
        recorded: list[Call] = []
        arrays = [to_device(copied(array), device) for array in self.arrays]
        options = {name: to_device(copied(value), device) for name, value in (self.options | self.into).items()}
        with recording(recorded.append):
            getattr(ops, self.op)(*arrays, **options | changed)
        return recorded[0]

    # --- storage --------------------------------------------------------------------------------

    def stored(self, **facts: object) -> Checkpoint:
        """The call as a checkpoint's arrays and JSON. facts: further JSON entries, such as where the call was made."""
        tensors: dict[str, np.ndarray] = {}
        state = {
            "arrays": [_to_json(tensors, f"array.{number}", array) for number, array in enumerate(self.arrays)],
            "options": {name: _to_json(tensors, f"option.{name}", value) for name, value in self.options.items()},
            "into": {name: _to_json(tensors, f"into.{name}", value) for name, value in self.into.items()},
            "results": [
                _to_json(tensors, f"result.{name}", value) | {"of": name} for name, value in self.results.items()
            ],
        }
        return Checkpoint(tensors, {"call": self.op, **state, **facts})

    @classmethod
    def read(cls, path: str | os.PathLike[str], checkpoint: Checkpoint) -> Call:
        """The call that `stored` put into a checkpoint. path: for messages. Raises CheckpointError if there is none."""
        state, tensors = checkpoint.state, checkpoint.tensors
        try:
            op = str(state["call"])
            op = _RENAMED.get(op, op)
            lookup("op", op, OPS)
            arrays = [_as_list(_from_json(tensors, entry)) for entry in state["arrays"]]
            # The number of array arguments that were added to the op after the call was stored.
            newer_arrays = len(_positional(op)) - len(arrays)
            return cls(
                op,
                [*arrays, *[None] * newer_arrays],
                {name: _from_json(tensors, entry) for name, entry in state["options"].items()},
                {name: _from_json(tensors, entry) for name, entry in state["into"].items()},
                {entry["of"]: _from_json(tensors, entry) for entry in state["results"]},
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            why = f"it has no entry {error}" if isinstance(error, KeyError) else error
            raise CheckpointError(f"{path} holds no call of an op that a shadow oracle stored: {why}") from error


def _to_json(tensors: dict[str, np.ndarray], name: str, value: object) -> Record:
    """A value as JSON; arrays go into `tensors`. A list without arrays is stored as a tuple."""
    if isinstance(value, np.ndarray):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, list) and any(isinstance(entry, np.ndarray) for entry in value):
        return {"list": [_to_json(tensors, f"{name}.{number}", entry) for number, entry in enumerate(value)]}
    if isinstance(value, (tuple, list)):
        return {"tuple": [_to_json(tensors, f"{name}.{number}", entry) for number, entry in enumerate(value)]}
    if isinstance(value, np.dtype):
        value = value.name
    value = value.item() if isinstance(value, np.generic) else value
    return {"number": value.hex()} if isinstance(value, float) else {"value": value}  # JSON has no infinity


def _from_json(tensors: dict[str, np.ndarray], entry: Record) -> Any:  # noqa: ANN401 - an array, or another argument
    if "tensor" in entry:
        return tensors[entry["tensor"]]
    if "list" in entry:
        return [_from_json(tensors, each) for each in entry["list"]]
    if "tuple" in entry:
        return tuple(_from_json(tensors, each) for each in entry["tuple"])
    return float.fromhex(entry["number"]) if "number" in entry else entry["value"]


def _overflowed(one: Expected, result: np.ndarray) -> Expected:
    """The expected result `one`, but infinite where `result` overflowed correctly. An overflow is correct if it has the
    sign of the expected value, and |expected value| + bound is at least the dtype's largest number."""
    if result.dtype.kind in "iub":
        return one
    found, value = as_float64(result), np.asarray(one.value)
    beyond = np.abs(value) + one.bound >= float(ml_dtypes.finfo(result.dtype).max)
    overflowed = beyond & np.isinf(found) & (np.sign(found) == np.sign(value))
    return Expected(one.name, np.where(overflowed, found, value), one.bound)


def _is_finite(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_finite, value))
    if not isinstance(value, np.ndarray) or value.dtype.kind in "iub":
        return True
    return bool(np.isfinite(value.astype(np.float64)).all())


def _on_host(value: object) -> Any:  # noqa: ANN401 - an array, or another argument
    """A copy of an array, or of each array in a list or tuple, on the host; anything else as it is."""
    return map_arrays(lambda array: np.array(backends.to_numpy(array)), value, is_array)


def _as_list(value: object) -> object:
    """A tuple of arrays as a list; anything else as it is."""
    return list(value) if isinstance(value, tuple) else value


def size_of(value: object) -> int:
    """Bytes of the arrays in an argument."""
    if isinstance(value, (list, tuple)):
        return sum(map(size_of, value))
    return math.prod(value.shape) * value.dtype.itemsize if is_array(value) else 0


@contextmanager
def recording(
    keep: Callable[[Call], None],
    wants: Callable[[str, int], bool] = lambda op, size: True,
    inside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[None]:
    """Within this context, `keep` receives each call of an op that this thread makes, after the op ran.

    wants: decides whether to record a call, from the op's name and the bytes of its arguments. The inputs are copied
    to the host before the op runs and the results afterwards, so an array that the op changes in place is recorded with
    its old and its new values. inside: makes the context in which the copies are made and `keep` is called.
    """
    thread = threading.get_ident()
    keeping = False  # do not record ops that `keep` calls

    def call(function: Callable[..., object], *arrays: object, **options: object) -> object:
        nonlocal keeping
        frame = sys._getframe(1)  # the frame of the op, whose local variables are its arguments
        op = OPS.get(frame.f_code.co_name)
        if keeping or threading.get_ident() != thread or op is None or op.function.__code__ is not frame.f_code:
            return function(*arrays, **options)
        name, given = frame.f_code.co_name, dict(frame.f_locals)
        named = {each: given[each] for each in inspect.signature(op.function).parameters}
        if not wants(name, sum(map(size_of, named.values()))):
            return function(*arrays, **options)
        with inside():
            recorded = _call_before(name, named)
        returned = function(*arrays, **options)
        with inside():
            found = results(name, [named[each] for each in _positional(name)], returned)
            if named.get("db") is not None:
                found["db"] = named["db"]
            recorded.results = {each: _on_host(value) for each, value in found.items()}
            keeping = True
            try:
                keep(recorded)
            finally:
                keeping = False
        return returned

    with backends.watch_calls(call):
        yield


def _positional(op: str) -> list[str]:
    parameters = inspect.signature(OPS[op].function).parameters.values()
    return [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD and each.name in OPS[op].arrays]


def _call_before(op: str, named: dict[str, object]) -> Call:
    """The call before it runs, without results."""
    arrays = [_on_host(_as_list(named[each])) for each in _positional(op)]
    rest = {name: value for name, value in named.items() if name not in _positional(op)}
    into = {name: _on_host(rest.pop(name)) for name in _OUTPUTS if rest.get(name) is not None}
    options = {name: _on_host(value) for name, value in rest.items() if name not in _OUTPUTS}
    return Call(op, arrays, options, into)
