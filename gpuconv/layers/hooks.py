"""Functions that a layer calls after each of its forwards or backwards."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Self

from gpuconv.layers.protocol import AnyLayer

Hook = Callable[[Any, Any, Any], object]  # called with (layer, x, y) or (layer, dx, dy)


def _run(hook: Hook, direction: str, layer: AnyLayer, *arrays: object) -> None:
    """Call a hook with (x, y) or (dx, dy). It may return only the array that the layer returned, y or dx."""
    returned, own = hook(layer, *arrays), arrays[direction == "forward"]
    if returned is not None and returned is not own:
        raise TypeError(
            "a hook must return None, because it cannot replace an array as in PyTorch; the hook of "
            f"{layer.path or type(layer).__name__} returned {type(returned).__name__}"
        )


class Handle:
    """A registered hook; `remove` ends this registration. direction: "forward" or "backward". Raises TypeError for a
    hook that cannot be called."""

    def __init__(self, layer: AnyLayer, direction: str, hook: Hook) -> None:
        if not callable(hook):
            arguments = "layer, x, y" if direction == "forward" else "layer, dx, dy"
            raise TypeError(f"a hook is a function of ({arguments}), received {type(hook).__name__}")
        self._of = layer, direction
        self._entry = partial(_run, hook, direction)  # a new object, even if the hook is registered twice
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
