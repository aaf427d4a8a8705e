"""Docstrings list all constructor arguments, in the class or in the base class that defines them."""

import inspect
import re

import pytest

from gpuconv import layers, training
from gpuconv.training import optimizers

CLASSES = {
    f"{module.__name__.removeprefix('gpuconv.')}.{name}": getattr(module, name)
    for module, base in ((layers, layers.Layer), (training, optimizers.Optimizer))
    for name in module.__all__
    if inspect.isclass(getattr(module, name)) and issubclass(getattr(module, name), base)
}
FUSED = {"layers.ConvActivation", "layers.ConvNorm", "layers.ConvReLU", "layers.NormActivation"}  # `fuse` makes them


def listed(documented: type) -> set[str]:
    text = inspect.cleandoc(documented.__doc__ or "")
    return {*re.findall(r"^    (\w+): .", text.partition("Args:\n")[2].partition("\n\n")[0], re.M)}


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in FUSED])
def test_every_argument_is_listed(name):
    known = set().union(*map(listed, CLASSES[name].__mro__))
    assert {*inspect.signature(CLASSES[name]).parameters} <= known


def test_layers_and_optimizers_are_among_them():
    assert {"layers.Conv2D", "layers.Sequential", "training.SGD", "training.Groups"} <= {*CLASSES}
