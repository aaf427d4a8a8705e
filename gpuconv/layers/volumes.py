"""What `Sequential.activations` gives."""

from __future__ import annotations

from typing import Any

from gpuconv.names import lookup


class Volumes(list[tuple[str, Any]]):
    """Pairs of a layer's name and its output volume, in forward order; ``volumes["conv1"]`` is that layer's."""

    def __getitem__(self, key: Any) -> Any:
        return lookup("layer", key, dict(self.items())) if isinstance(key, str) else super().__getitem__(key)

    def keys(self) -> list[str]:
        return [name for name, _ in self]

    def values(self) -> list[Any]:
        return [volume for _, volume in self]

    def items(self) -> list[tuple[str, Any]]:
        return [*self]
