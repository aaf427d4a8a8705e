"""The layers by name, gpuconv's own and users': what a config calls a class, and the class that a config names.

gpuconv's layers have their plain names; another class is named with its module, "mynet.Swish", so that it takes no
other layer's place.
"""

from __future__ import annotations

from typing import Any

from gpuconv.names import lookup

LAYERS: dict[str, Any] = {}  # classes of layers by `name_of`, and under the names that they had before


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
