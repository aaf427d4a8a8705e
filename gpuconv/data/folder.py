"""A folder of image files: one sub-folder a class."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuconv.data.dataset import Dataset
from gpuconv.names import canonical
from gpuconv.shapes import pair

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

SPLITS = ("name", "order")

_MODES = {1: "L", 3: "RGB"}


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
    files of a class, as gpuconv 0.1.0 did.

    Files without an image's suffix and hidden ones are passed over. Raises FileNotFoundError where there are no classes
    or no images, ValueError, naming the file, for an image that `read_image` refuses or that is of another size, and
    ValueError where no class has two images, one to train on and one to test on.
    """
    split = canonical("split", split, SPLITS)
    if not 0 < test < 1:
        raise ValueError(f"test must be between 0 and 1, received {test}")
    directory = Path(directory)
    folders = list(_visible(directory)) if directory.is_dir() else []
    folders = [folder for folder in folders if folder.is_dir()]
    if not folders:
        raise FileNotFoundError(f"{directory} must hold one sub-folder of images for each class; it has none")
    images: list[NDArray[np.uint8]] = []
    labels: list[int] = []
    tested: list[NDArray[np.bool_]] = []
    first = None
    for label, folder in enumerate(folders):
        paths = [path for path in _visible(folder) if path.suffix.lower() in SUFFIXES]
        if not paths:
            raise FileNotFoundError(f"class folder {folder} has no images ({' '.join(SUFFIXES)})")
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
        tested.append(for_testing([path.relative_to(directory).as_posix() for path in paths], test, seed))
    dataset = Dataset(np.stack(images), np.array(labels), [folder.name for folder in folders], directory.name)
    if split == "order" or max(map(len, tested)) < 2:  # which refuses where no class has two
        return dataset.split(test, seed=seed)
    second = np.concatenate(tested)
    return dataset.subset(~second), dataset.subset(second)


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


def read_image(
    path: str | os.PathLike[str], *, size: tuple[int, int] | None = None, channels: int = 3
) -> NDArray[np.uint8]:
    """One image file as uint8 (H, W, channels), upright, resized to `size` = (H, W) with antialiasing if given.

    Where the image is transparent, white shows through. Grey of 16 bits is scaled down to 8.

    Raises FileNotFoundError for a missing file and ValueError, naming the file, for one that is no readable image or
    whose values have no known range: integers of 32 bits and floats.
    """
    Image = _pillow()
    if channels not in _MODES:
        raise ValueError(f"channels must be 1 (grey) or 3 (colour), received {channels}")
    with open(path, "rb") as file:
        try:
            image = _flat(Image.open(file)).convert(_MODES[channels])
        except Exception as error:  # Pillow's decoders raise many kinds on bad bytes
            raise ValueError(f"cannot read {path} as an image: {error}") from error
    if size is not None:
        height, width = pair("size", size, 1)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.array(image).reshape(image.height, image.width, channels)


def read_mode(path: str | os.PathLike[str]) -> str:
    """The mode of an image file as Pillow names it: "L" is grey, "RGBA" colour with transparency, and so on."""
    with _pillow().open(path) as image:
        return image.mode


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError('reading image files needs Pillow: pip install "gpuconv[image]"') from error
    return Image


def _flat(image: Any) -> Any:
    """The image upright, with 8 bits a value and nothing transparent."""
    from PIL import Image, ImageOps

    # Pillow reads 16 bits of grey into "I" from PGM files, and older versions from PNG files too.
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if image.mode in ("I", "F") and not deep:
        values = "floats" if image.mode == "F" else "integers of 32 bits"
        raise ValueError(
            f"its mode is {image.mode}, {values} of no known range; accepted are 8 bits a value and grey of 16 bits"
        )
    image = ImageOps.exif_transpose(image)
    if deep:
        grey = np.asarray(image).astype(np.uint32)
        grey[grey == image.info.get("transparency")] = 65535
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8))  # 65535 is 255
    if image.mode.endswith("A") or "transparency" in image.info:
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image


def _visible(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.iterdir()) if not path.name.startswith("."))


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}x{shape[1]}"
