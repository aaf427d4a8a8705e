"""Functions that a layer calls after each of its forwards or backwards."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Self

from gpuconv.layers.protocol import AnyLayer

Hook = Callable[[Any, Any, Any], object]  # called with (layer, x, y) or (layer, dx, dy)


class Handle:
    """A registered hook; `remove` ends this registration. direction: "forward" or "backward". Raises TypeError for a
    hook that cannot be called."""

    def __init__(self, layer: AnyLayer, direction: str, hook: Hook) -> None:
        if not callable(hook):
            arguments = "layer, x, y" if direction == "forward" else "layer, dx, dy"
            raise TypeError(f"a hook is a function of ({arguments}), received {type(hook).__name__}")
        self._of, self._entry = (layer, direction), partial(hook)  # a new object, even if the hook is registered twice
        vars(layer)["hooks"] = {**layer.hooks, direction: (*layer.hooks.get(direction, ()), self._entry)}

    def remove(self) -> None:
        layer, direction = self._of
        hooks = {**layer.hooks}
        if left := tuple(entry for entry in hooks.pop(direction, ()) if entry is not self._entry):
            hooks[direction] = left
        vars(layer)["hooks"] = hooks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()
