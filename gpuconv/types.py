"""What the annotations of ops and backends mean. Nothing here runs."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import numpy as np


class Array(Protocol):
    """A NumPy, CuPy or emulated array: the part of NumPy's interface that all three share."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...
    @property
    def ndim(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def strides(self) -> tuple[int, ...]: ...
    @property
    def flags(self) -> Any: ...
    @property
    def T(self) -> Any: ...
    @property
    def astype(self) -> Any: ...
    @property
    def copy(self) -> Any: ...
    @property
    def item(self) -> Any: ...
    @property
    def reshape(self) -> Any: ...
    def __getitem__(self, key: Any, /) -> Any: ...
    def __setitem__(self, key: Any, value: Any, /) -> None: ...
    def __len__(self) -> int: ...


ArrayT = TypeVar("ArrayT", bound=Array)  # what an op is given and returns: NumPy arrays for NumPy arrays

Pair = tuple[int, int]  # (height, width)
PaddingPairs = tuple[Pair, Pair]  # ((top, bottom), (left, right))

# As users give them: see gpuconv.ops.
Size = int | Pair
Padding = int | Pair | PaddingPairs | str
Scalar = float | Array  # a number, or an array of one element on the device
