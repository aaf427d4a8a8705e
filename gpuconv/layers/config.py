"""Converts layers to JSON-serializable values and back. A layer's settings are its fields."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from gpuconv.layers.protocol import AnyLayer
from gpuconv.layers.registry import LAYERS, layer_class, name_of
from gpuconv.layers.state import Stateful
from gpuconv.names import lookup

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

HOW_TO_WRITE = (
    "a layer's settings are the fields of a dataclass: @dataclass(eq=False, repr=False) class Swish(Layer): "
    "beta: float = 1.0 (docs/layers.md)"
)


def settings(kind: type) -> list[str]:
    """The names of a layer's settings."""
    return [field.name for field in dataclasses.fields(kind)]


def encode(value: object) -> object:
    """A setting's value for JSON; `decode` reads it."""
    if isinstance(value, Stateful):
        return value.config()  # type: ignore[attr-defined]
    if isinstance(value, (list, tuple)):
        return [encode(entry) for entry in value]
    if isinstance(value, dict):
        return {key: as_setting(entry) for key, entry in value.items()}
    return value.item() if isinstance(value, np.generic) else value


def decode(value: object) -> object:
    if isinstance(value, Mapping) and "layer" in value:
        return make(value)
    return [decode(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def as_setting(value: object) -> object:
    """The value as a layer's setting: in lists and tuples of any depth, lists become tuples and NumPy's numbers become
    Python's. A dictionary stays the same object."""
    if isinstance(value, (list, tuple)):
        return tuple(as_setting(entry) for entry in value)
    return value.item() if isinstance(value, np.generic) else value


def make(config: Mapping[str, Any], **options: Any) -> AnyLayer:
    """See `Layer.from_config`."""
    if not isinstance(config, Mapping) or "layer" not in config:
        raise ValueError(f"a layer's config is a mapping with the entry 'layer', received {config!r}")
    kind = layer_class(config["layer"])
    if "precision" in config:
        config = dict(config)
        options = {"precision": config.pop("precision")} | options
        if options.get("dtype") is not None:
            del options["precision"]
    known = {name: name for name in settings(kind)}
    given = {
        lookup(f"option of {kind.__name__}", key, known): decode(value)
        for key, value in config.items()
        if key != "layer"
    }
    for each in inspect.signature(kind).parameters.values():
        named = each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)
        if named and each.default is each.empty and each.name not in given and each.name not in options:
            raise ValueError(f"{kind.__name__} needs the option {each.name!r}, received {[*given] or 'none'}")
    return kind(**given, **options)


def constructor_call(layer: DataclassInstance) -> str:
    """The call that creates a layer, without its name and default arguments."""
    shown = [
        f"{field.name}={getattr(layer, field.name)!r}"
        for field in dataclasses.fields(layer)
        if field.name != "name" and getattr(layer, field.name) != field.default
    ]
    return f"{type(layer).__name__}({', '.join(shown)})"


def expect_rebuildable(layer: AnyLayer) -> None:
    """Raise TypeError for a user's layer that its config cannot rebuild: such a layer could not be saved or copied."""
    kind: Any = type(layer)
    if name_of(kind) == kind.__name__:  # a layer of gpuconv
        return
    if issubclass(kind, LAYERS["Sequential"]):
        raise TypeError(
            f"{kind.__name__} cannot be saved or copied: copies and slices of a class that derives from Sequential are "
            "plain Sequentials; write a function that returns a Sequential, or a layer that derives from Layer "
            "(docs/layers.md)"
        )
    fields = settings(kind)
    parameters = inspect.signature(kind).parameters.values()
    named = [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    if lost := [name for name in named if name not in fields]:
        raise _not_rebuildable(kind, f"its argument {lost[0]!r} is not a field")
    try:
        config = json.loads(json.dumps(layer.config()))
        again = make(config).config()
    except Exception as error:
        raise _not_rebuildable(kind, str(error)) from error
    if json.loads(json.dumps(again)) != config:
        raise _not_rebuildable(kind, f"its config {config} creates a layer with another config, {again}")


def _not_rebuildable(kind: type, why: str) -> TypeError:
    return TypeError(
        f"{kind.__name__} cannot be saved or copied, as its config does not rebuild it: {why}; {HOW_TO_WRITE}"
    )
