"""The loader of data that is not in device memory: threads read its batches in advance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuconv import backends, ops, random
from gpuconv.arguments import integer
from gpuconv.data.dataset import Dataset
from gpuconv.data.loader import Batch, Loader, compute_ahead
from gpuconv.data.samples import Samples, read_checked
from gpuconv.devices import Device
from gpuconv.images.normalization import Normalization
from gpuconv.system.processor import available_cores


def make_loader(data: Dataset | Samples, batch_size: int, **options: Any) -> Loader:
    """The loader of a data set. It reads `Samples` from files batch by batch, and keeps other data in device memory.
    batch_size, options: as in `Loader`."""
    if isinstance(data, Samples):
        return StreamLoader(data, batch_size, **options)
    return Loader(data, batch_size, **options)


class StreamLoader(Loader):
    """A `Loader` of `Samples`, which are read batch by batch. Its batches have the same bits as a `Loader`'s.

    Args:
        dataset: The samples.
        batch_size: Images of a batch.
        normalization: How uint8 images are normalized. It must be None for float images, which are only converted to
            `dtype` and cannot be augmented either.
        workers: Threads that read in advance; by default as many as the samples allow, but at most 8 and at most one
            for each core.
        options: As in `Loader`.

    Raises:
        TypeError: As in `Loader`.
        ValueError: As in `Loader`, or float images with a normalization or augmentation.
    """

    _takes = Samples
    dataset: Samples

    def __init__(
        self,
        dataset: Samples,
        batch_size: int,
        *,
        normalization: Normalization | None = None,
        workers: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(dataset, batch_size, normalization=normalization, **options)
        default = min(dataset.workers, 8, available_cores())
        self._given = {} if workers is None else {"workers": integer("workers", workers, 1)}
        self.workers = self._given.get("workers", default)
        if not dataset.raw and (normalization is not None or str(self.augmentation) != "none"):
            raise ValueError(
                f"images of {dataset.name!r} are floats, which are only converted to a dtype; normalization and "
                "augmentation are for uint8 images"
            )

    def over(self, dataset: Dataset | Samples, **changes: object) -> Loader:
        return super().over(dataset, **(self._given | changes))

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
            images, labels = read_checked(self.dataset, chosen)
            if self.augmentation.flip == "alternating":
                images = self._flipped(images, chosen, offset)
            return np.ascontiguousarray(images), labels, offset

        if not Device.named(self.device).runs_kernels:
            return compute_ahead(lambda number: self._make_batch(*read(number)), numbers, self.workers)
        # The threads only read; the device is used by the caller's thread alone.
        return (self._make_batch(*each) for each in compute_ahead(read, numbers, self.workers))

    def _flipped(self, images: np.ndarray, chosen: np.ndarray, offset: int) -> np.ndarray:
        """The images, mirrored where `ops.load_batch` would mirror them in the complete data set."""
        odd = (offset + np.arange(len(chosen))) // len(self.dataset) % 2 == 1
        own, *_ = random.philox4x32((chosen & 0xFFFFFFFF, chosen >> 32, random.AUGMENT, 1), seed=self.seed)
        flipped = (own >= 2**31) ^ odd
        return np.where(flipped[:, None, None, None], images[:, :, ::-1], images)

    def _make_batch(self, images: np.ndarray, labels: np.ndarray, offset: int) -> Batch:
        targets = backends.asarray(labels, device=self.device)
        if self.dataset.dtype != np.uint8:
            return backends.asarray(images, device=self.device, dtype=self._options["dtype"]), targets
        every = backends.asarray(np.arange(len(images)), device=self.device)
        options = self._options | ({"flip": False} if self.augmentation.flip == "alternating" else {})
        # load_batch gathers only class numbers. Other targets are already those of this batch.
        numbers = targets if labels.ndim == 1 else every
        moved = backends.asarray(images, device=self.device)
        x, picked = ops.load_batch(moved, numbers, every, offset=offset, **options)
        return self._mixed(x, picked if labels.ndim == 1 else targets, offset)
