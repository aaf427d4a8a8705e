"""Every backend, and the argument checks, mirror the contract's signatures."""

import importlib
import inspect

import pytest

from gpuconv import ops, shapes
from gpuconv.backends import contract

BACKENDS = ["gpuconv.backends.reference"]


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", ops.__all__)
@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_mirrors_the_contract(backend, name):
    implementation = getattr(importlib.import_module(backend), name)
    assert parameters(implementation) == parameters(getattr(contract, name))


@pytest.mark.parametrize("name", ops.__all__)
def test_the_checks_mirror_the_contract(name):
    assert parameters(getattr(shapes, name)) == parameters(getattr(contract, name))


@pytest.mark.parametrize("name", ops.__all__)
def test_ops_show_the_contract(name):
    op = getattr(ops, name)
    assert parameters(op) == parameters(getattr(contract, name))
    assert op.__doc__ == getattr(contract, name).__doc__
