"""Batches that a user's iterable gives, such as a PyTorch DataLoader or a generator."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike

from gpuconv import backends
from gpuconv.arguments import expect_accepts, integer
from gpuconv.data.expect import as_targets, expect_finite, expect_image_dtype
from gpuconv.data.loader import Batch
from gpuconv.dtypes import as_dtype
from gpuconv.images.layout import laid_out
from gpuconv.images.normalization import Normalization


class Batches:
    """Batches (x, y) of a user's iterable, or of one that a user's function makes.

    Each epoch iterates over the iterable from its start, or calls the function again. An iterator, such as a generator,
    continues where it stopped. The first batch is read and checked on creation, and used in the first epoch.

    Args:
        source: A PyTorch DataLoader, a generator, or a function that makes one. It yields pairs (x, y). x has shape
            (n, *shape) and is uint8 or floats; floats are not normalized, only cast to `dtype`. A PyTorch tensor may
            have channels first. y is (n,) integers, or (n, ...) floats with a target for each score.
        name: The name of the data, for messages.
        shape: The shape of one image.
        length: The number of batches in an epoch; None if unknown.
        device: Where the batches go.
        dtype: The dtype of x there.
        normalize: A function of the images of the first batch. It returns their normalization, or None for floats.
        ignored: The label of images that do not count, or None.

    Raises:
        TypeError: An argument, or an array of the first batch, has another type.
        ValueError: The source gave no batch, the first one does not fit, or the device or the length is not accepted.
    """

    def __init__(
        self,
        source: Iterable[Any] | Callable[[], Iterable[Any]],
        name: str,
        shape: tuple[int, ...],
        *,
        length: int | None,
        device: str,
        dtype: DTypeLike,
        normalize: Callable[[np.ndarray], Normalization | None] = Normalization.measured,
        ignored: int | None = None,
    ) -> None:
        if not (hasattr(source, "__iter__") or hasattr(source, "__getitem__") or callable(source)):
            received = type(source).__name__
            raise TypeError(
                f"{name} must be an iterable of batches, or a function that returns one, received {received}"
            )
        self.name, self.shape, self.ignored = name, shape, ignored
        self.length = None if length is None else integer("length", length, 0)
        self.device, self.dtype = backends.resolve(device), as_dtype(dtype)
        self.once = hasattr(source, "__next__")
        self._source = source
        self._taken = 0
        batches = iter(self._begin())
        first = [*itertools.islice(batches, 1)]
        if not first:
            raise ValueError(f"{name} has no batch: the {type(source).__name__} gave none")
        self._begun: Iterator[Any] | None = itertools.chain(first, batches)
        x, _ = self._pair(first[0])
        expect_finite(x, f"the first batch of {name}")
        self.normalization = normalize(x)

    def _begin(self) -> Iterable[Any]:
        """The source's batches from the first on; an iterator continues where it is."""
        if not callable(self._source) or hasattr(self._source, "__iter__"):
            return cast(Iterable[Any], self._source)
        expect_accepts(f"the function {self.name}", self._source)
        made = self._source()
        if not (hasattr(made, "__iter__") or hasattr(made, "__getitem__")):
            raise TypeError(f"the function {self.name} must return batches, received {type(made).__name__}")
        return made

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError(f"the number of batches in {self.name} is unknown")
        return self.length

    def epoch(self, epoch: int = 0, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of an `epoch` from number `start_batch` on; earlier ones are read and dropped.

        Raises ValueError if the source is an iterator that is past this batch.
        """
        batches = self._begun or iter(self._begin())
        skipped = start_batch  # the number of batches to read and drop
        if self.once:
            skipped += epoch * (self.length or 0) - self._taken
        if skipped < 0:
            raise ValueError(
                f"{self.name} is a {type(self._begin()).__name__}, which gives each batch once; give the function that "
                "makes it, or a list of batches"
            )
        if self.once:
            self._taken += skipped
        else:
            self._begun = None
        last = None if self.length is None else skipped + self.length - start_batch
        for batch in itertools.islice(batches, skipped, last):
            self._taken += 1
            yield self._batch(batch)

    def _pair(self, given: object) -> tuple[Any, Any]:
        if not isinstance(given, (tuple, list)) or len(given) != 2:
            received = f"{len(given)} parts" if isinstance(given, (tuple, list)) else type(given).__name__
            raise TypeError(f"a batch of {self.name} must be (images, labels), received {received}")
        x = laid_out(given[0], self.shape, rank=1 + len(self.shape))
        expect_image_dtype(x.dtype, self.name)
        if x.ndim != 1 + len(self.shape):
            raise ValueError(
                f"a batch of {self.name} must have images of shape (N, {', '.join(map(str, self.shape))}), "
                f"received {x.shape}"
            )
        return x, as_targets(given[1], self.name, len(x), self.ignored)

    def _batch(self, given: object) -> Batch:
        x, labels = self._pair(given)
        if x.dtype == np.uint8:
            if self.normalization is None:
                raise TypeError(f"the first batch of {self.name} has floats, and a later one has uint8")
            x = self.normalization(np.ascontiguousarray(x), self.dtype)
        elif self.normalization is not None:
            raise TypeError(
                f"the first batch of {self.name} has uint8, which is normalized, and a later one has floats"
            )
        x = backends.asarray(np.ascontiguousarray(x), device=self.device, dtype=self.dtype)
        return x, backends.asarray(labels, device=self.device)
