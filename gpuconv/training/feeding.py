"""From data sets to the loaders that feed a run, and what a run remembers of them."""

from __future__ import annotations

import math
import zlib
from typing import Any

from gpuconv.data import Dataset, Loader, Normalization
from gpuconv.layers import BatchNorm, Input, Sequential
from gpuconv.losses import SoftmaxCrossEntropy, SVMHinge


class DataError(ValueError):
    """Images, labels or batches that the net cannot be trained or tested on."""


def loaders(data: dict[str, Any], *, batch_size: int, seed: int, device: str, dtype: Any) -> dict[str, Any]:
    """Each part's loader, in order. A loader, or None, is itself.

    A Dataset becomes a loader, normalised by the statistics of the images of the first part, which alone is shuffled.
    Raises TypeError for what is neither, and where those images are not known.
    """
    made: dict[str, Any] = {}
    first = next(iter(data.values()))
    training = first if isinstance(first, Dataset) else getattr(first, "dataset", None)
    for name, part in data.items():
        if isinstance(part, Dataset):
            if not isinstance(training, Dataset):
                raise TypeError(f"give {name} as a Loader too: how to normalise its images is not known")
            normalization = Normalization.from_dataset(training)
            part = Loader(
                part, batch_size, normalization=normalization, seed=seed, shuffle=not made, device=device, dtype=dtype
            )
        elif not hasattr(part, "epoch") and not (made and part is None):
            raise TypeError(f"{name} must be a Loader or a Dataset, received {type(part).__name__}")
        made[name] = part
    return made


def expect(name: str, loader: Any, net: Any, loss: Any) -> None:
    """Raise DataError where a loader's images, labels or last batch are known not to fit the net and its loss."""
    if not _ours(loader):
        return
    data = loader.dataset
    first = net[0] if isinstance(net, Sequential) else net
    if isinstance(first, Input):
        try:
            first.expect(data.image_shape)
        except ValueError as error:
            raise DataError(f"{name} does not fit: {error} from {data.name!r}") from None
    classes, most = net.output_shape[-1], int(data.labels.max())
    compares = isinstance(loss, (SoftmaxCrossEntropy, SVMHinge))
    if compares and name == "train" and min(classes, len(data.classes)) < 2:
        only = f"{data.name!r} has one class, {data.classes[0]!r}"
        what = only if len(data.classes) < 2 else "the net gives one score"
        raise DataError(f"{what}: there is nothing to tell apart; training takes two classes or more")
    if compares and most >= classes:
        raise DataError(
            f"{name} does not fit: the net tells {classes} classes apart, labels 0 to {classes - 1}, received {most} "
            f"from {data.name!r}"
        )
    if name != "train" or data.image_shape != net.input_shape:  # of larger images the layers' shapes are not known
        return
    rest = loader.size(len(loader) - 1)
    for layer in net.walk():
        shape = layer.input_shape
        if isinstance(layer, BatchNorm) and shape and rest * math.prod(shape[:-1]) < 2:
            raise DataError(
                f"{layer.path} takes statistics of more than one value, and the last batch has one image: choose "
                f"another batch size than {loader.batch_size} for {len(data)} images, or drop that batch (drop_last)"
            )


def checksum(data: Dataset) -> str:
    """Of images and labels, in their order."""
    return f"{zlib.crc32(data.labels.data, zlib.crc32(data.images.data)):08x}"


def describe(loader: Any) -> dict[str, Any] | None:
    """What a loader feeds the net, with a checksum of its images, so that other data is noticed. JSON-able."""
    if not isinstance(loader, Loader):
        return None if loader is None else {"batches": len(loader)}
    data = loader.dataset
    return {
        "name": data.name, "images": len(data), "shape": list(data.image_shape), "checksum": checksum(data),
        "batch_size": loader.batch_size, "shuffle": loader.shuffle, "drop_last": loader.drop_last,
        "seed": loader.seed, "augmentation": str(loader.augmentation),
    }  # fmt: skip


class Feed:
    """The batches of a run, one after another, from whatever has ``len`` and ``epoch(epoch, start_batch=...)``."""

    on_device = False  # whether `next` is device work alone, the same for every batch of a size

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._batches: Any = None
        self._given = 0

    def enter(self, epoch: int, number: int) -> None:
        """The next batch is that one."""
        self.close()
        self._batches, self._given = iter(self.loader.epoch(epoch, start_batch=number)), number

    def close(self) -> None:
        if hasattr(self._batches, "close"):
            self._batches.close()
        self._batches = None

    def size(self, number: int) -> int:
        """How many images that batch has; 0 where that is not known before it is there."""
        return 0

    def place(self, epoch: int, number: int) -> tuple[int, int]:
        """The numbers by which `next` finds that batch on the device, if it does."""
        return 0, 0

    def next(self, clock: Any, size: int) -> tuple[Any, Any]:
        """The next batch. Raises ValueError where there are fewer than the loader's length tells."""
        for batch in self._batches:
            self._given += 1
            return batch
        raise ValueError(f"the loader gave {self._given} batches of the {len(self.loader)} that its length tells")


class DeviceFeed(Feed):
    """The batches of our loader, on a device where it loads without the host: the clock says which is next."""

    on_device = True

    def __init__(self, loader: Loader) -> None:
        super().__init__(loader)
        self._order = loader.order()

    def enter(self, epoch: int, number: int) -> None:
        self.loader.shuffle_into(self._order, epoch)

    def size(self, number: int) -> int:
        return self.loader.size(number)

    def place(self, epoch: int, number: int) -> tuple[int, int]:
        return self.loader.place(epoch, number)

    def next(self, clock: Any, size: int) -> tuple[Any, Any]:
        return self.loader.load(self._order, size, start=clock.start, offset=clock.offset)


def feed(loader: Any) -> Feed:
    """What gives a run its batches. On NumPy the loader's thread prepares them ahead."""
    return DeviceFeed(loader) if _ours(loader) and loader.device != "numpy" else Feed(loader)


def _ours(loader: Any) -> bool:
    """Whether its batches are what `Loader` makes of its data set."""
    return isinstance(loader, Loader) and type(loader).epoch is Loader.epoch
