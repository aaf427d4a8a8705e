"""A folder of image files, with one sub-folder for each class."""

from __future__ import annotations

import dataclasses
import math
import os
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuconv.arguments import flag, integer, number, pair
from gpuconv.data.dataset import Dataset, as_index, class_indices, names_as_text
from gpuconv.data.listing import list_images
from gpuconv.data.samples import Samples
from gpuconv.images.image_file import read_image
from gpuconv.names import canonical
from gpuconv.system.processor import available_cores

SPLITS = ("name", "order")

_FIRST_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")  # read by 0.1.0


def load(
    directory: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    channels: int = 3,
    test: float = 0.2,
    seed: int = 0,
    split: str = "name",
    stream: bool = False,
) -> tuple[Any, Any]:
    """(train, test) of the images in the sub-folders of `directory`. The sorted sub-folder names are the classes.

    size: (H, W) to resize to; without it all images must have the same size. channels: 3 for color, 1 for gray. test:
    the fraction of every class that is held out for testing, chosen by `seed` and the rule `split`. "name" decides by
    each file's name (see `for_testing`), so that adding a file rarely moves another file to the other set. "order"
    draws from the sorted files of a class, as gpuconv 0.1.0 did. Like that version, it ignores folders within a class
    and the suffixes .avif, .heic, .heif, .jfif, .jpe and .pbm. stream: leave the images in their files and read each
    when its batch needs it (`FolderSamples`), so that they need not fit into memory.

    Raises as `load_all` does, and ValueError unless 0 < test < 1, for an unknown `split`, and if no class has two
    images, one for training and one for testing.
    """
    split = canonical("split", split, SPLITS)
    test = number("test", test, -math.inf)
    seed = integer("seed", seed, 0 if split == "order" else -(2**63), 2**64 - 1)
    if test == 1:
        raise ValueError(f"test=1 keeps all of {os.fspath(directory)} for testing, and none for training")
    if not 0 < test < 1:
        raise ValueError(f"test must be between 0 and 1, received {test}")
    dataset, paths = _read(directory, size, channels, stream, first_version=split == "order")
    dataset = dataclasses.replace(dataset, spec=f"{dataset.spec},test={float(test)},seed={seed},split={split}")
    tested = [for_testing(names, test, seed) for names in paths]
    if split == "order":
        return dataset.split(test, seed=seed)
    if max(map(len, paths)) < 2:
        return dataset.split(test)  # raises, because no class has two images
    is_test = np.concatenate(tested)
    return dataset.subset(~is_test), dataset.subset(is_test)


def load_all(
    directory: str | os.PathLike[str], *, size: tuple[int, int] | None = None, channels: int = 3, stream: bool = False
) -> Any:  # noqa: ANN401 - a Dataset, or FolderSamples with `stream`
    """All images in the sub-folders of `directory`, without a split. Arguments as in `load`.

    `~` is the home folder. Folders within a class belong to it. Hidden files are ignored; a notice counts other files
    that are not read.

    Raises:
        FileNotFoundError: There is no such folder, or it has no class, or a class has no image, or a link beside the
            classes leads to nothing.
        NotADirectoryError: `directory` is not a folder.
        TypeError: An argument has another type.
        OSError, ValueError: `read_image` refuses an image, or the images have different sizes; the message names the
            file. Also if a folder cannot be read, or `size` or `channels` is not accepted.
        MemoryError: The images do not fit into memory, and `stream` is not set.
        ImportError: Pillow is not installed.
    """
    return _read(directory, size, channels, stream)[0]


whole = load_all  # the old name


def _read(
    directory: str | os.PathLike[str],
    size: tuple[int, int] | None,
    channels: int,
    stream: bool,
    first_version: bool = False,
) -> tuple[Any, list[list[str]]]:
    """The data set, and for each class the names of its files, relative to `directory`."""
    size = None if size is None else pair("size", size, 1)
    stream = flag("stream", stream)
    root = Path(os.path.expanduser(directory))
    classes = list_images(root)
    if first_version:
        for name, paths in classes.items():
            classes[name] = [p for p in paths if p.parent == root / name and p.suffix.lower() in _FIRST_SUFFIXES]
            if not classes[name]:
                raise FileNotFoundError(
                    f"class folder {root / name} has no images that split=order reads; that rule reads only files "
                    f"directly in a class folder with the suffixes {' '.join(_FIRST_SUFFIXES)}"
                )
    all_paths = [path for paths in classes.values() for path in paths]
    labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in classes.values()])
    shape = read_image(all_paths[0], size=size, channels=channels).shape
    samples = FolderSamples(
        name=root.name,
        image_shape=shape,
        dtype=np.dtype(np.uint8),
        labels=labels,
        classes=[*classes],
        root=root,
        paths=all_paths,
        size=size,
        workers=available_cores(),
        first_path=all_paths[0],
    )
    path = os.path.abspath(root)
    path += "/" * ("," in path)  # an option's value contains no "/", so "pets,b=c/" is not read as one
    spec = f"folder:{path}" + (f",size={_size(size)}" if size else "")
    samples = dataclasses.replace(samples, spec=f"{spec},channels={channels}" + ",stream=1" * stream)
    names = [[path.relative_to(root).as_posix() for path in paths] for paths in classes.values()]
    if stream:
        return samples, names
    expect_memory(samples)
    return Dataset(*samples.read(np.arange(len(all_paths))), [*classes], root.name, samples.spec), names


def expect_memory(samples: Samples) -> None:
    """Raise MemoryError with advice if the images do not fit into this machine's memory."""
    needed = len(samples) * math.prod(samples.image_shape)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed
    if needed > memory:
        raise MemoryError(
            f"{len(samples):,} images of {samples.name!r} take {needed / 2**30:.1f} GiB, and this machine has "
            f"{memory / 2**30:.1f} GiB of memory: stream=1 (folder:DIR,stream=1) reads them when needed"
        )


class UnreadableError(OSError, ValueError):
    """A file is not an image, or its image has another size. With stream=True this may be raised during training."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FolderSamples(Samples):
    """Image files, each decoded when its batch needs it; a loader's workers decode ahead."""

    labels: NDArray[np.int64]
    root: Path
    paths: Sequence[Path]
    size: tuple[int, int] | None
    first_path: Path

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, indices: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        images = np.empty((len(indices), *self.image_shape), np.uint8)
        for at, index in enumerate(indices):
            try:
                image = read_image(self.paths[index], size=self.size, channels=self.image_shape[-1])
            except ValueError as error:
                raise UnreadableError(str(error)) from error
            if image.shape != self.image_shape:
                raise UnreadableError(
                    f"images must have one size: {self.first_path} has {_size(self.image_shape)}, {self.paths[index]} "
                    f"has {_size(image.shape)}; give size= (in text: folder:DIR,size=32x32) to resize them"
                )
            images[at] = image
        return images, self.labels[indices]

    def checksum(self) -> str:
        """A checksum of the labels and of the files' names, sizes and modification times; it reads no image."""
        found = zlib.crc32(self.labels.data)
        for path in self.paths:
            status = os.stat(path)
            line = f"{path.relative_to(self.root).as_posix()} {status.st_size} {status.st_mtime_ns}\n"
            found = zlib.crc32(line.encode("utf-8", "surrogateescape"), found)
        return f"{found:08x}"

    def subset(self, indices: slice | Sequence[int] | np.ndarray) -> FolderSamples:
        chosen = np.arange(len(self))[as_index(indices)]
        return dataclasses.replace(self, paths=[self.paths[at] for at in chosen], labels=self.labels[chosen])

    def relabeled(self, classes: Sequence[str]) -> FolderSamples:
        """As `Dataset.relabeled`."""
        names = names_as_text(classes, self.name)
        return dataclasses.replace(self, labels=class_indices(self, names)[self.labels], classes=names)

    relabelled = relabeled  # the former name


def for_testing(names: Sequence[str], fraction: float, seed: int = 0) -> NDArray[np.bool_]:
    """A mask of the files of a class that are for testing: about `fraction` of them.

    names: each file's path from the class folder on, such as "cats/001.png". Each file has a hash of `seed` and its
    name, a number in [0, 1). If the hash is below `fraction`, the file is for testing, regardless of other files. There
    are two exceptions: of two or more files, the one with the lowest hash is always for testing and the one with the
    highest for training; a single file is for training.
    """
    hashes = np.array([_hash(f"{seed}/{name}") for name in names])
    chosen = hashes < fraction
    if len(names) > 1:
        chosen[np.argmin(hashes)], chosen[np.argmax(hashes)] = True, False
    return chosen & (len(names) > 1)


def _hash(text: str) -> float:
    """A number in [0, 1) for a file's name, independent of the locale and of macOS's Unicode decomposition."""
    name = unicodedata.normalize("NFC", os.fsencode(text).decode("utf-8", "surrogateescape"))
    import hashlib

    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:6], "big") / 2**48


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"
