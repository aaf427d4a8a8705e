"""The three backends offer the same functions with the same arguments."""

import importlib
import inspect

import pytest

from gpuconv.ops import OPS


def offered(backend, op):
    """A backend's function for an op, in the file named after the op's family."""
    family = OPS[op].family
    function = getattr(getattr(importlib.import_module(f"gpuconv.backends.{backend}"), family), op)
    assert inspect.unwrap(function).__module__ == f"gpuconv.backends.{backend}.{family}"
    return function


def arguments(function):
    return [(parameter.name, parameter.kind) for parameter in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("op", OPS)
def test_all_backends_take_the_same_arguments(op):
    expected = arguments(offered("reference", op))
    assert arguments(offered("cpu", op)) == expected
    assert arguments(offered("cuda.ops", op)) == expected


@pytest.mark.parametrize("op", OPS)
def test_a_backend_receives_every_array(op):
    """The arrays have the same names as in the op. Those that the op takes by position come first, in that order."""
    received = [name for name, _ in arguments(offered("reference", op))]
    assert set(OPS[op].arrays) <= set(received)
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    first = [name for name, kind in arguments(OPS[op].function) if kind is positional and name in OPS[op].arrays]
    assert received[: len(first)] == first
