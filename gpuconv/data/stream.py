"""Batches of data that is not in device memory: read in advance by threads, or taken from a user's iterable."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gpuconv import backends, ops, random
from gpuconv.arguments import integer
from gpuconv.data.dataset import Dataset
from gpuconv.data.loader import Batch, Loader, compute_ahead
from gpuconv.data.normalization import Normalization
from gpuconv.data.samples import Samples, as_targets, expect_finite, expect_image_dtype, laid_out
from gpuconv.devices import Device
from gpuconv.dtypes import as_dtype


class StreamLoader(Loader):
    """A `Loader` of `Samples`, which are read batch by batch. Its batches have the same bits as a `Loader`'s.

    Args:
        dataset: The samples.
        batch_size: Images of a batch.
        normalization: How uint8 images are normalized. It must be None for float images, which are passed on unchanged
            and cannot be augmented either.
        workers: Threads that read in advance; by default as many as the samples allow, but at most 8 and at most one
            for each core.
        options: As in `Loader`.

    Raises:
        ValueError: As in `Loader`, or float images with a normalization or augmentation.
    """

    def __init__(
        self,
        dataset: Samples,
        batch_size: int,
        *,
        normalization: Normalization | None = None,
        workers: int | None = None,
        **options: Any,
    ) -> None:
        most = min(dataset.workers, 8, os.cpu_count() or 1)
        self._chosen = {} if workers is None else {"workers": integer("workers", workers, 1)}
        self.workers = self._chosen.get("workers", most)
        super().__init__(dataset, batch_size, normalization=normalization, **options)
        if dataset.dtype != np.uint8 and (normalization is not None or str(self.augmentation) != "none"):
            raise ValueError(
                f"images of {dataset.name!r} are floats, taken as they are; normalization and augmentation are for "
                "uint8 images"
            )

    def over(self, dataset: Dataset | Samples, **changes: object) -> Loader:
        return super().over(dataset, **(self._chosen | changes))

    def _move_to_device(self) -> None:
        """Nothing is moved to the device in advance."""

    def epoch(self, epoch: int = 0, start_batch: int = 0) -> Iterator[Batch]:
        """As in `Loader.epoch`."""
        numbers = self.numbers(epoch, start_batch)
        count = len(self.dataset)
        order = random.permutation(count, seed=self.seed, epoch=epoch) if self.shuffle else np.arange(count)

        def read(number: int) -> tuple[np.ndarray, np.ndarray, int]:
            start, offset = self.place(epoch, number)
            chosen = order[start : start + self.size(number)]
            images, labels = self.dataset.read(chosen)
            if self.augmentation.flip == "alternating":
                images = self._flipped(images, chosen, offset)
            return np.ascontiguousarray(images), labels, offset

        if not Device.named(self.device).runs_kernels:
            return compute_ahead(lambda number: self._make_batch(*read(number)), numbers, self.workers)
        # The threads only read, because they do not use the device.
        return (self._make_batch(*each) for each in compute_ahead(read, numbers, self.workers))

    def _flipped(self, images: np.ndarray, chosen: np.ndarray, offset: int) -> np.ndarray:
        """The images, mirrored where `ops.load_batch` would mirror them in the complete data set."""
        odd = (offset + np.arange(len(chosen))) // len(self.dataset) % 2 == 1
        own, *_ = random.philox4x32((chosen & 0xFFFFFFFF, chosen >> 32, random.AUGMENT, 1), seed=self.seed)
        flipped = (own >= 2**31) ^ odd
        return np.where(flipped[:, None, None, None], images[:, :, ::-1], images)

    def _make_batch(self, images: np.ndarray, labels: np.ndarray, offset: int) -> Batch:
        labels = backends.asarray(labels, device=self.device)
        if self.dataset.dtype != np.uint8:
            return backends.asarray(images, device=self.device, dtype=self._options["dtype"]), labels
        every = backends.asarray(np.arange(len(images)), device=self.device)
        options = self._options | ({"flip": False} if self.augmentation.flip == "alternating" else {})
        # load_batch gathers only class numbers. Other targets need no gathering: they are those of this batch.
        numbers = labels if labels.ndim == 1 else every
        images = backends.asarray(images, device=self.device)
        x, picked = ops.load_batch(images, numbers, every, offset=offset, **options)
        return self._mixed(x, picked if labels.ndim == 1 else labels, offset)


class Batches:
    """Batches (x, y) of a user's iterable.

    Each epoch iterates over an iterable from the start, or calls a function; an iterator, such as a generator,
    continues where it stopped. The first batch is read and checked on creation, and used in the first epoch.

    Args:
        source: A PyTorch DataLoader, a generator, or a function that makes one. It yields x: (n, *shape), floats (used
            unchanged) or uint8, or a PyTorch tensor, which may have channels first; and y: (n,) integers, or floats
            (n, ...), a target for each score.
        name: The name of the data, for messages.
        shape: The shape of one image.
        length: The number of batches in an epoch; None if unknown.
        device: Where the batches go.
        dtype: The dtype of x there.
        normalize: Returns the normalization of uint8 images, given the images of the first batch; None for floats.

    Raises:
        ValueError: The source gave no batch.
    """

    def __init__(
        self,
        source: Any,
        name: str,
        shape: tuple[int, ...],
        *,
        length: int | None,
        device: str,
        dtype: DTypeLike,
        normalize: Callable[[np.ndarray], Normalization | None] = Normalization.measured,
    ) -> None:
        self.name, self.shape, self.length = name, shape, length
        self.device, self.dtype = device, as_dtype(dtype)
        self.once = hasattr(source, "__next__")
        makes = callable(source) and not hasattr(source, "__iter__")
        self._begin: Callable[[], Any] = source if makes else lambda: source
        self._taken = 0
        batches = iter(self._begin())
        first = [*itertools.islice(batches, 1)]
        if not first:
            raise ValueError(f"{name} has no batch: the {type(source).__name__} gave none")
        self._begun: Iterator[Any] | None = itertools.chain(first, batches)
        x, _ = self._pair(first[0])
        expect_finite(x, f"the first batch of {name}")
        self.normalization = normalize(x)

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError(f"the number of batches in {self.name} is unknown")
        return self.length

    def epoch(self, epoch: int = 0, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of an `epoch` from number `start_batch` on; earlier ones are read and dropped.

        Raises ValueError if the source is an iterator that is past this batch.
        """
        batches = self._begun or iter(self._begin())
        skipped = start_batch
        if self.once:
            skipped += epoch * (self.length or 0) - self._taken
            self._taken += skipped
        else:
            self._begun = None
        if skipped < 0:
            raise ValueError(
                f"{self.name} is a {type(self._begin()).__name__}, which gives each batch once; give the function that "
                "makes it, or a list of batches"
            )
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
        return x, as_targets(given[1], self.name, len(x))

    def _batch(self, given: object) -> Batch:
        x, labels = self._pair(given)
        if x.dtype == np.uint8:
            if self.normalization is None:
                raise TypeError(f"the first batch of {self.name} has floats, a later one uint8")
            x = self.normalization(np.ascontiguousarray(x), self.dtype)
        x = backends.asarray(np.ascontiguousarray(x), device=self.device, dtype=self.dtype)
        return x, backends.asarray(labels, device=self.device)
