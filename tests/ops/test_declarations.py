"""How ops are declared: names, docstrings, signatures and kernel files."""

import inspect
import re

import pytest

from gpuconv import ops
from gpuconv.backends.cuda.runtime import source
from gpuconv.ops import OPS


def test_every_op_is_public():
    assert ops.__all__ == list(OPS)
    for name, listed in OPS.items():
        assert getattr(ops, name) is listed.function
        assert listed.function.__name__ == name


@pytest.mark.parametrize("op", OPS)
def test_an_ops_docstring_says_what_it_does_and_lists_its_arguments_in_order(op):
    function = getattr(ops, op)
    summary, _, rest = inspect.getdoc(function).partition("\n\n")
    assert summary
    listed = rest.partition("Args:\n")[2].partition("\n\n")[0]
    assert re.findall(r"^    (\w+): .", listed, re.M) == [*inspect.signature(function).parameters]


@pytest.mark.parametrize("op", OPS)
def test_arrays_come_first_and_other_arguments_are_keyword_only(op):
    """So leaving out an array shifts no other argument. The kernel_size of a pool may be positional, as in
    PyTorch, because a pool has no array that could be left out."""
    positional = OPS[op].arrays + (("kernel_size",) if op in ("max_pool2d", "avg_pool2d") else ())
    for parameter in inspect.signature(getattr(ops, op)).parameters.values():
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY), parameter.name
        assert parameter.name in positional or parameter.kind is parameter.KEYWORD_ONLY, parameter.name
        if parameter.default is None and parameter.name in positional:
            assert "None" in parameter.annotation, parameter.name


@pytest.mark.parametrize("op", OPS)
def test_the_arrays_that_an_op_changes_are_listed_in_the_order_of_its_arguments(op):
    arrays = OPS[op].arrays
    assert list(OPS[op].changes) == [name for name in arrays if name in OPS[op].changes]


@pytest.mark.parametrize("op", OPS)
def test_an_ops_kernel_file_exists(op):
    assert (source.directory() / OPS[op].kernel).is_file()
