"""The result of `Sequential.activations`."""

from __future__ import annotations

from typing import SupportsIndex, overload

from gpuconv.names import lookup
from gpuconv.types import Array


class Volumes(list[tuple[str, Array]]):
    """Pairs of a layer's name and its output volume, in forward order; ``volumes["conv1"]`` is the output of conv1."""

    @overload
    def __getitem__(self, key: str) -> Array: ...
    @overload
    def __getitem__(self, key: SupportsIndex) -> tuple[str, Array]: ...
    @overload
    def __getitem__(self, key: slice) -> list[tuple[str, Array]]: ...
    def __getitem__(self, key: str | SupportsIndex | slice) -> Array | tuple[str, Array] | list[tuple[str, Array]]:
        return lookup("layer", key, dict(self.items())) if isinstance(key, str) else super().__getitem__(key)

    def __contains__(self, item: object) -> bool:
        return item in self.keys() if isinstance(item, str) else super().__contains__(item)

    def __repr__(self) -> str:
        """A line for each layer: its name and the shape of its volume."""
        return "\n".join(f"{name}: {' x '.join(map(str, volume.shape))}" for name, volume in self)

    def keys(self) -> list[str]:
        return [name for name, _ in self]

    def values(self) -> list[Array]:
        return [volume for _, volume in self]

    def items(self) -> list[tuple[str, Array]]:
        return [*self]
