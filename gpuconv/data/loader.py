"""The batches of an epoch, in a reproducible order, prepared in advance."""

from __future__ import annotations

import contextvars
import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from gpuconv import backends, ops
from gpuconv.arguments import flag, integer, seed_value
from gpuconv.data.augment import Augmentation
from gpuconv.data.beta import quantiles
from gpuconv.data.dataset import Dataset
from gpuconv.data.samples import Samples
from gpuconv.devices import Device
from gpuconv.dtypes import as_dtype
from gpuconv.images.normalization import Normalization
from gpuconv.ops.batch import expect_augmentable
from gpuconv.types import Array

Batch = tuple[Array, Array]
T = TypeVar("T")

_AHEAD = 2  # batches that one background thread may have ready


class Loader:
    """Batches (x, y) of a data set: x (n, H, W, C) normalized, y (n,) int64, both on `device`. With mixup or cutmix, y
    has a probability for each class: (n, classes) float32.

    The whole data set moves to `device` once, as bytes, and each batch is one `ops.load_batch` there. Random numbers
    depend only on (seed, epoch, position in the epoch), not on the batch size or earlier calls, except that mixup and
    cutmix draw once for each batch. So a batch has the same bits whether the epoch starts at this batch or at an
    earlier one. On device "numpy" a background thread prepares two batches in advance; on a GPU, ops run asynchronously
    anyway.

    Args:
        dataset: The images and labels.
        batch_size: Images of a batch, at least 1; the last batch of an epoch may be short.
        normalization: How pixels are normalized; None only for the float images of a `StreamLoader`.
        augmentation: By default none, which is right for evaluation.
        seed: The seed of the order and the augmentation.
        device: Where the batches live, such as "numpy" or "cuda".
        dtype: The dtype of x, a float dtype.
        shuffle: Whether each epoch has its own order; False for evaluation.
        drop_last: Whether a short last batch is left out.

    Raises:
        TypeError: An argument has another type; `Samples` need a `StreamLoader`.
        ValueError: An argument is out of its range; drop_last leaves no batch; the normalization or the augmentation
            does not fit the images; or mixup or cutmix is set, and the labels are not the numbers of known classes.
    """

    _takes: ClassVar[type] = Dataset
    # The fraction of the training data that `fit` moved into this loader; None if it moved none.
    part: float | None = None

    def __init__(
        self,
        dataset: Dataset | Samples,
        batch_size: int,
        *,
        normalization: Normalization | None,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        device: str = "numpy",
        dtype: DTypeLike = "float32",
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        if not isinstance(dataset, self._takes):
            accepted, received = self._takes.__name__, type(dataset).__name__
            raise TypeError(f"a {type(self).__name__} takes a gpuconv.data.{accepted}, received {received}")
        self.dataset: Any = dataset  # a Dataset; in a StreamLoader, Samples
        self.batch_size = integer("batch_size", batch_size, 1)
        if not isinstance(augmentation, Augmentation | None):
            raise TypeError(
                f"augmentation must be a gpuconv.data.Augmentation, received {augmentation!r}; "
                "Augmentation.parse(text) makes one"
            )
        if dataset.raw and not isinstance(normalization, Normalization):
            raise TypeError(
                "normalization of uint8 images must be a gpuconv.data.Normalization, received "
                f"{type(normalization).__name__}; Normalization.from_dataset(train) makes one"
            )
        if not isinstance(normalization, Normalization | None):  # a StreamLoader refuses a Normalization too
            raise TypeError(f"normalization of float images must be None, received {type(normalization).__name__}")
        self.augmentation = augmentation or Augmentation()
        self.seed = seed_value("seed", seed)
        self.device = backends.resolve(device)
        self.shuffle = flag("shuffle", shuffle)
        self.drop_last = flag("drop_last", drop_last)
        if self.drop_last and len(dataset) < batch_size:
            raise ValueError(f"drop_last leaves no batch: {len(dataset)} images, batch_size {batch_size}")
        self.normalization = normalization
        self._options = dataclasses.asdict(self.augmentation) | {"seed": self.seed, "dtype": as_dtype(dtype)}
        alpha = self._options.pop("mixup") + self._options.pop("cutmix")  # at most one of the two is not 0
        if normalization is not None:
            self._expect(dataset.image_shape)
            for name in ("mean", "std"):
                self._options[name] = backends.asarray(getattr(normalization, name), device=self.device)
        if self.augmentation.mixing:
            self._expect_classes()
            self._factors = backends.asarray(quantiles(alpha), device=self.device)
        self._move_to_device()

    def _expect(self, image_shape: tuple[int, ...]) -> None:
        """Raise ValueError if the normalization or the augmentation does not fit the images."""
        if len(image_shape) != 3:
            raise ValueError(f"a normalization is for images (H, W, C), received images of shape {image_shape}")
        height, width, channels = image_shape
        for name in ("mean", "std"):
            values = getattr(self.normalization, name)
            if values.shape not in ((channels,), (height, width, channels)):
                raise ValueError(
                    f"normalization is for other images: {name} has shape {values.shape}, images {image_shape}"
                )
        expect_augmentable(image_shape, self.augmentation.shift, self.augmentation.colors)

    def _expect_classes(self) -> None:
        """Raise ValueError unless labels are the numbers of known classes."""
        labels = self.dataset.labels
        if not self.dataset.classes or (labels is not None and labels.ndim != 1):
            raise ValueError(
                f"{self.augmentation.mixing} mixes labels that are numbers of known classes, and those of "
                f"{self.dataset.name!r} are not"
            )

    def _move_to_device(self) -> None:
        """Move the whole data set to the device."""
        self._images = backends.asarray(self.dataset.images, device=self.device)
        self._labels = backends.asarray(self.dataset.labels, device=self.device)

    def over(self, dataset: Dataset | Samples, **changes: object) -> Loader:
        """A loader of another data set, with the same settings except for `changes`.

        Args:
            dataset: The other data set.
            changes: Arguments of the class by name.
        """
        same = {
            name: getattr(self, name)
            for name in ("batch_size", "normalization", "augmentation", "seed", "device", "shuffle", "drop_last")
        }
        return type(self)(dataset, **(same | {"dtype": self._options["dtype"]} | changes))

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the images of a batch."""
        return self._options["dtype"]

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def epoch(self, epoch: int = 0, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start_batch` on.

        Args:
            epoch: The epoch's number, from 0.
            start_batch: The first batch, from 0; `len(self)` gives no batch.

        Raises:
            ValueError: A negative epoch, or a start_batch that is negative or past the end.
        """
        numbers = self.numbers(epoch, start_batch)
        order = self.order()
        self.shuffle_into(order, epoch)

        def batch(number: int) -> Batch:
            start, offset = self.place(epoch, number)
            return self.load(order, self.size(number), start=start, offset=offset)

        on_kernels = Device.named(self.device).runs_kernels
        return (batch(number) for number in numbers) if on_kernels else compute_ahead(batch, numbers)

    def numbers(self, epoch: int, start_batch: int) -> range:
        """The numbers of an epoch's batches from `start_batch` on. Raises as `epoch` does."""
        integer("epoch", epoch, 0)
        if integer("start_batch", start_batch, 0) > len(self):
            raise ValueError(
                f"start_batch must be at most {len(self)}, the batches of an epoch, received {start_batch}"
            )
        return range(start_batch, len(self))

    # --- the parts of `epoch`, for a training step that reads its position from the device --------

    def order(self) -> Array:
        """A new array for an epoch's order, initially unshuffled."""
        return backends.asarray(np.arange(len(self.dataset)), device=self.device)

    def shuffle_into(self, order: Array, epoch: int) -> None:
        """Overwrite `order`, int64 (N,) on the loader's device, with the order of `epoch`."""
        if self.shuffle:
            ops.random_permutation(order, seed=self.seed, epoch=epoch)

    def size(self, number: int) -> int:
        """The number of images in batch `number`."""
        return min(self.batch_size, len(self.dataset) - number * self.batch_size)

    def place(self, epoch: int, number: int) -> tuple[int, int]:
        """(start, offset) of batch `number` of an `epoch`: its position in the epoch's order, and its position in the
        stream of random numbers."""
        start = number * self.batch_size
        return start, epoch * len(self.dataset) + start

    def load(self, order: Array, count: int, *, start: int | Array, offset: int | Array) -> Batch:
        """A batch of `count` images, made only by ops on the device, so that it can be a part of a captured step.

        Args:
            order: As `shuffle_into` fills it.
            count: The number of images.
            start, offset: As `place` gives them: integers, or arrays on the device.
        """
        loaded = ops.load_batch(
            self._images, self._labels, order, start=start, count=count, offset=offset, **self._options
        )
        return self._mixed(*loaded, offset)

    def _mixed(self, x: Array, labels: Array, offset: int | Array) -> Batch:
        """The batch after mixup or cutmix, if there is either."""
        if not (mixing := self.augmentation.mixing):
            return x, labels
        classes, cut = len(self.dataset.classes), mixing == "cutmix"
        return ops.mix_batch(x, labels, self._factors, classes=classes, cut=cut, seed=self.seed, offset=offset)


def compute_ahead(batch: Callable[[int], T], numbers: range, workers: int = 1) -> Iterator[T]:
    """`map(batch, numbers)`, with the next results computed by threads while the caller uses the current one.

    Each batch is computed in a copy of the caller's context, so also within the caller's `backends.same_bits`. An
    exception in a thread is raised here, at its batch. The threads end with this generator, however it ends.
    """
    from concurrent.futures import Future, ThreadPoolExecutor

    pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="gpuconv-loader")
    ready: deque[Future[T]] = deque()
    try:
        for number in numbers:
            ready.append(pool.submit(contextvars.copy_context().run, batch, number))
            if len(ready) > _AHEAD + workers - 1:
                yield ready.popleft().result()
        while ready:
            yield ready.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
