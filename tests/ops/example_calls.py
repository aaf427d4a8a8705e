"""Example calls of every op, by name, with the arrays that they write."""

import numpy as np

from gpuconv import ops, verify
from gpuconv.ops import OPS

RESULTS = ("out", "dw", "db", "dgamma", "dbeta")
CASES = verify.cases(("odd",))


def array_names(op):
    """The names of the op's array arguments."""
    return OPS[op].arrays


def calls(op, count=2):
    """Example calls of an op on host arrays: every argument by name."""
    cases = [case for case in CASES if case.op == op and "few channels" not in case.name][:count]
    for case in cases:
        arrays, options = case.arguments("float32")
        yield dict(zip(array_names(op), arrays)) | options


def each_array(call, op):
    """(label, array, function that replaces it) for every array of a call."""
    for name in array_names(op):
        value = call.get(name)
        if isinstance(value, list):
            for index, array in enumerate(value):
                yield (
                    f"{name}[{index}]",
                    array,
                    lambda new, name=name, index=index: (
                        call | {name: [*call[name][:index], new, *call[name][index + 1 :]]}
                    ),
                )
        elif value is not None:
            yield name, value, lambda new, name=name: call | {name: new}


def copied(value):
    if isinstance(value, list):
        return [copied(entry) for entry in value]
    return value.copy() if hasattr(value, "copy") else value


def outputs(op, call):
    """Every array that can receive a result of a call, by name, filled with 3."""
    with np.errstate(all="ignore"):
        returned = getattr(ops, op)(**{name: copied(value) for name, value in call.items()})
    returned = returned if isinstance(returned, tuple) else (returned,)
    names_of_returned = ("out", "dw") if op == "conv2d_backward" else ("out", "dgamma", "dbeta")
    like = dict(zip(names_of_returned, returned))
    if OPS[op].family == "loss" and op != "add_metrics":
        like = {"out": returned[1]}
    if "db" in array_names(op):
        like["db"] = np.zeros(call["dy"].shape[-1:], np.float32)
    return {name: np.full_like(like[name], 3) for name in array_names(op) if name in like and name in RESULTS}
