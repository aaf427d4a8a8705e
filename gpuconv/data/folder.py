"""A folder of image files: one sub-folder a class."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuconv.data.dataset import Dataset
from gpuconv.data.image import read_image
from gpuconv.data.listing import list_images
from gpuconv.names import canonical

SPLITS = ("name", "order")

_FIRST_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")  # of 0.1.0


def load(
    directory: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    channels: int = 3,
    test: float = 0.2,
    seed: int = 0,
    split: str = "name",
) -> tuple[Dataset, Dataset]:
    """(train, test) of the images in the sub-folders of `directory`, whose sorted names are the classes.

    size: (H, W) to resize to; without it all images must have one size. channels: 3 for colour, 1 for grey. test: the
    fraction of every class that is kept for testing, chosen by `seed` and by the rule `split`: "name" judges each file
    by its name alone (see `for_testing`), so that a file that is added moves no other; "order" draws from the sorted
    files of a class, as gpuconv 0.1.0 did, which read no folders within a class.

    Raises what `whole` does, and ValueError where no class has two images, one to train on and one to test on.
    """
    split = canonical("split", split, SPLITS)
    if test == 1:
        raise ValueError(f"test=1 keeps all of {os.fspath(directory)} for testing and leaves none to train on")
    if not 0 < test < 1:
        raise ValueError(f"test must be between 0 and 1, received {test}")
    dataset, paths = _read(directory, size, channels, first_version=split == "order")
    tested = [for_testing(names, test, seed) for names in paths]
    if split == "order" or max(map(len, tested)) < 2:  # which refuses where no class has two
        return dataset.split(test, seed=seed)
    second = np.concatenate(tested)
    return dataset.subset(~second), dataset.subset(second)


def whole(
    directory: str | os.PathLike[str], *, size: tuple[int, int] | None = None, channels: int = 3
) -> Dataset:
    """All images in the sub-folders of `directory`, unsplit; `load` says what the arguments are.

    `~` is the home folder. Folders within a class belong to it. Hidden files are left out; a notice counts the others
    that are not read.

    Raises FileNotFoundError or NotADirectoryError for a missing folder, FileNotFoundError where there are no classes or
    no images, and OSError or ValueError, naming the file, for an image that `read_image` refuses or that is of another
    size.
    """
    return _read(directory, size, channels)[0]


def _read(
    directory: str | os.PathLike[str], size: tuple[int, int] | None, channels: int, first_version: bool = False
) -> tuple[Dataset, list[list[str]]]:
    """The data set, and for each class the names of its files, from `directory` on."""
    root = Path(os.path.expanduser(directory))
    classes = list_images(root)
    if first_version:
        for name, paths in classes.items():
            classes[name] = [p for p in paths if p.parent == root / name and p.suffix.lower() in _FIRST_SUFFIXES]
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    first = None
    for label, paths in enumerate(classes.values()):
        for path in paths:
            image = read_image(path, size=size, channels=channels)
            first = first or (path, image.shape)
            if image.shape != first[1]:
                raise ValueError(
                    f"images must have one size: {first[0]} has {_size(first[1])}, {path} has {_size(image.shape)}; "
                    "give size= (in text: folder:DIR,size=32x32) to resize them"
                )
            images.append(image)
            labels.append(label)
    dataset = Dataset(np.stack(images), np.array(labels), list(classes), root.name)
    return dataset, [[path.relative_to(root).as_posix() for path in paths] for paths in classes.values()]


def for_testing(names: Sequence[str], fraction: float, seed: int = 0) -> NDArray[np.bool_]:
    """Which files of a class are for testing: about `fraction` of them.

    names: the class and the path in its folder, "cats/001.png". A file is for testing when a hash of `seed` and its
    name, as a number in [0, 1), is below `fraction`, whatever other files there are. Of two files or more at least one
    is for testing, the one of the lowest hash, and at least one for training, the one of the highest.
    """
    hashes = np.array([_hash(f"{seed}/{name}") for name in names])
    chosen = hashes < fraction
    if len(names) > 1:
        chosen[np.argmin(hashes)], chosen[np.argmax(hashes)] = True, False
    return chosen & (len(names) > 1)


def _hash(text: str) -> float:
    """A number in [0, 1) for a file's name, the same in every locale and where macOS has decomposed it."""
    name = unicodedata.normalize("NFC", os.fsencode(text).decode("utf-8", "surrogateescape"))
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:6], "big") / 2**48


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"
