"""Every backend, and the argument checks, mirror the contract's signatures."""

import importlib
import inspect

import pytest

from gpuconv import ops, shapes
from gpuconv.backends import contract, cpu, reference

BACKENDS = ["gpuconv.backends.cpu", "gpuconv.backends.cuda", "gpuconv.backends.reference"]


def parameters(function):
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_mirrors_the_contract(backend):
    for name in ops.__all__:
        implementation = getattr(importlib.import_module(backend), name)
        assert inspect.isfunction(implementation), name
        assert parameters(implementation) == parameters(getattr(contract, name)), name


def test_the_checks_mirror_the_contract():
    for name in ops.__all__:
        assert parameters(getattr(shapes, name)) == parameters(getattr(contract, name)), name


def test_ops_show_the_contract():
    for name in ops.__all__:
        op = getattr(ops, name)
        assert parameters(op) == parameters(getattr(contract, name)), name
        assert op.__doc__ == getattr(contract, name).__doc__, name
        assert op.__doc__.strip(), name


def test_array_arguments_come_first_and_the_rest_by_keyword():
    """What follows the arrays cannot shift when one is left out, and dispatch finds the arrays by their annotation."""
    for name in ops.__all__:
        for parameter in inspect.signature(getattr(contract, name)).parameters.values():
            is_array = "Array" in parameter.annotation
            assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY), (name, parameter.name)
            assert is_array or parameter.kind is parameter.KEYWORD_ONLY, (name, parameter.name)
            if parameter.default is None and is_array:
                assert "None" in parameter.annotation, (name, parameter.name)


@pytest.mark.parametrize("backend", [cpu, reference])
def test_a_backend_exports_ops_alone(backend):
    public = {name for name, member in vars(backend).items() if inspect.isfunction(member)}
    assert public == set(ops.__all__)
