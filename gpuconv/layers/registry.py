"""The registry of layer classes, gpuconv's and users'. It gives each class its name in configs, and finds the class for
a name.

gpuconv's layers have their plain names. Other classes are named with their module, "mynet.Swish", so that they replace
no other layer.
"""

from __future__ import annotations

from typing import Any

from gpuconv.names import lookup

LAYERS: dict[str, type[Any]] = {}  # layer classes by `name_of`, and by their former names


class UndefinedLayerError(ValueError):
    """The class of a user's layer is unknown: the module that defines it was not imported."""


def name_of(kind: type) -> str:
    """The name of a layer class in configs."""
    return kind.__name__ if kind.__module__.startswith("gpuconv.") else f"{kind.__module__}.{kind.__qualname__}"


def layer_class(name: str) -> type[Any]:
    """The class with this name in configs. A user's class is also found without its module, or with another one, if the
    part of its name after the last dot is unique. Raises ValueError if there is none, or several."""
    if isinstance(name, str) and name not in LAYERS:
        plain = name.rpartition(".")[2]
        users = {key: kind for key, kind in LAYERS.items() if "." in key and key.rpartition(".")[2] == plain}
        if len(users) > 1:
            raise ValueError(f"there are several layers named {plain!r}: {', '.join(users)}; received {name!r}")
        if users:
            return next(iter(users.values()))
        if "." in name:
            raise UndefinedLayerError(
                f"the layer {name!r} is not defined here: import the module that defines it before the net is created"
            )
    return lookup("layer", name, LAYERS)
