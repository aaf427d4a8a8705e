"""The part of a layer that the files which `base.py` imports use. `base.Layer` has all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from gpuconv.layers.variables import Variable
from gpuconv.types import Array, Record, Shape


class AnyLayer(Protocol):
    """A layer; `base.Layer` describes each member."""

    path: str
    device: str
    dtype: np.dtype
    input_shape: Shape | None
    output_shape: Shape | None
    variables: dict[str, Variable]
    arrays: dict[str, Array]
    gradients: dict[str, Array]

    @property
    def is_foreign(self) -> bool: ...
    @property
    def takes_parts(self) -> bool: ...
    @property
    def writes_slices(self) -> bool: ...
    @property
    def reads_slices(self) -> bool: ...
    @property
    def takes_slices(self) -> bool: ...
    @property
    def holds_input(self) -> bool: ...
    @property
    def hooks(self) -> Mapping[str, tuple[Callable[..., object], ...]]: ...
    @property
    def built(self) -> bool: ...
    def __getitem__(self, name: str, /) -> Any: ...
    def children(self) -> Sequence[tuple[str, AnyLayer]]: ...
    def walk(self) -> Iterator[AnyLayer]: ...
    def trains(self, name: str) -> bool: ...
    def config(self) -> Record: ...
    def stash(self, *values: object) -> None: ...
