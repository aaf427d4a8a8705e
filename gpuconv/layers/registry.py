"""The layers by name, gpuconv's own and users': what a config calls a class, and the class that a config names.

gpuconv's layers have their plain names; another class is named with its module, "mynet.Swish", so that it takes no
other layer's place.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Any

from gpuconv.names import lookup

LAYERS: dict[str, Any] = {}  # classes of layers by `name_of`, and under the names that they had before

RECIPE = (
    "a layer's settings are the fields of a dataclass: @dataclass(eq=False, repr=False) class Swish(Layer): "
    "beta: float = 1.0 (docs/layers.md)"
)


class UndefinedLayerError(ValueError):
    """A layer of a user's whose class is not there: the module that defines it was not imported."""


def name_of(kind: type) -> str:
    """What configs call a class of layers."""
    return kind.__name__ if kind.__module__.startswith("gpuconv.") else f"{kind.__module__}.{kind.__qualname__}"


def layer_class(name: str) -> Any:
    """The class that a config names. A user's class is found by its name alone too, wherever it was defined, where
    there is one of that name. Raises ValueError where there is none, or several."""
    if isinstance(name, str) and name not in LAYERS:
        plain = name.rpartition(".")[2]
        own = {key: kind for key, kind in LAYERS.items() if "." in key and key.rpartition(".")[2] == plain}
        if len(own) > 1:
            raise ValueError(f"there are several layers named {plain!r}: {', '.join(own)}; received {name!r}")
        if own:
            return next(iter(own.values()))
        if "." in name:
            raise UndefinedLayerError(
                f"the layer {name!r} is not defined here: import the module that defines it before the net is made"
            )
    return lookup("layer", name, LAYERS)


def expect_rebuildable(layer: Any, base: Any) -> None:
    """Raise TypeError for a user's layer that its config would not make again, so that it could not be saved.

    base: `Layer`."""
    kind: Any = type(layer)
    if name_of(kind) == kind.__name__:
        return
    fields = {field.name for field in dataclasses.fields(kind)}
    parameters = inspect.signature(kind).parameters.values()
    named = [each.name for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    if lost := [name for name in named if name not in fields]:
        raise _not_rebuildable(kind, f"its argument {lost[0]!r} is no field")
    try:
        config = json.loads(json.dumps(layer.config()))
        again = base.from_config(config).config()
    except Exception as error:
        raise _not_rebuildable(kind, str(error)) from error
    if json.loads(json.dumps(again)) != config:
        raise _not_rebuildable(kind, f"its config {config} makes a layer with another one, {again}")


def _not_rebuildable(kind: type, why: str) -> TypeError:
    return TypeError(f"{kind.__name__} cannot be saved or copied: its config does not make it again: {why}; {RECIPE}")
