"""CIFAR-10: 60,000 color images of 32x32 in 10 classes, from local files.

A. Krizhevsky, "Learning multiple layers of features from tiny images", 2009. <https://www.cs.toronto.edu/~kriz/cifar.html>
describes both formats: the binary version (records of a label and 3,072 bytes) and the python version (pickles).
"""

from __future__ import annotations

import io
import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuconv.arguments import flag
from gpuconv.data.dataset import Dataset
from gpuconv.data.pickles import ArrayState, ArrayUnpickler, UnsafePickleError
from gpuconv.system.shell import command

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_FILES = ("test_batch",)
IMAGES_PER_FILE = 10_000
PIXELS = 3 * 32 * 32  # bytes of an image

# The binary version: the same images without pickles.
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SIZE = 170_052_171  # bytes
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"

Part = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def load(directory: str | os.PathLike[str]) -> tuple[Dataset, Dataset]:
    """(train, test) of 50,000 and 10,000 images, uint8 (N, 32, 32, 3).

    directory: the folder of the six batch files of either version, or the one into which the archive was unpacked.
    Raises FileNotFoundError, naming what is missing, and ValueError, naming a file that is truncated or corrupt, or
    whose pickle holds anything but arrays and plain values.
    """
    folder, suffix = _find(Path(os.path.expanduser(directory)))
    read = _read_binary if suffix else _read_python
    missing = [name + suffix for name in TRAIN_FILES + TEST_FILES if not (folder / (name + suffix)).is_file()]
    if missing:
        raise FileNotFoundError(f"CIFAR-10 in {folder} is incomplete: {', '.join(missing)} missing")

    def gather(names: tuple[str, ...]) -> Dataset:
        parts = [read(folder / (name + suffix)) for name in names]
        planes = np.concatenate([pixels for pixels, _ in parts]).reshape(-1, 3, 32, 32)
        labels = np.concatenate([labels for _, labels in parts])
        return Dataset(
            planes.transpose(0, 2, 3, 1),
            labels,
            CLASSES,
            "cifar10",
            f"cifar10:{os.path.abspath(os.path.expanduser(directory))}",
        )

    return gather(TRAIN_FILES), gather(TEST_FILES)


def download(directory: str | os.PathLike[str], *, progress: bool = True) -> Path:
    """Download the binary version (170 MB) into `directory`, unpack it, and return the folder of the batch files.

    If all files exist with the right sizes, nothing is downloaded. An interrupted download continues where it stopped.
    progress: show a bar. Raises as `fetch_archive` does, and TypeError unless `progress` is a bool.
    """
    return _download(Path(os.path.expanduser(directory)), URL, SHA256, SIZE, flag("progress", progress))


def _download(directory: Path, url: str, sha256: str, size: int, progress: bool) -> Path:
    folder = directory / "cifar-10-batches-bin"
    paths = [folder / f"{name}.bin" for name in TRAIN_FILES + TEST_FILES]
    if not all(path.is_file() and path.stat().st_size == _binary_size() for path in paths):
        from gpuconv.data.download import fetch_archive

        fetch_archive(url, directory, sha256=sha256, size=size, progress=progress)
    return folder


def _find(directory: Path) -> tuple[Path, str]:
    """The folder of the batch files, and their suffix: ".bin" for the binary version, "" for the python version."""
    for folder in (directory, directory / "cifar-10-batches-bin", directory / "cifar-10-batches-py"):
        for suffix in (".bin", ""):
            if any((folder / (name + suffix)).is_file() for name in TRAIN_FILES + TEST_FILES):
                return folder, suffix
    raise FileNotFoundError(
        f"no CIFAR-10 in {directory}: expected data_batch_1 to 5 and test_batch, as .bin files or python batches "
        f"({command('gpuconv', 'data', 'cifar10', '--to', directory)} downloads them)"
    )


def _binary_size() -> int:
    return IMAGES_PER_FILE * (1 + PIXELS)


def _read_binary(path: Path) -> Part:
    expected, found = _binary_size(), path.stat().st_size
    if found != expected:
        raise ValueError(f"{path} is not a complete CIFAR-10 batch: expected {expected} bytes, found {found}")
    records = np.fromfile(path, np.uint8).reshape(IMAGES_PER_FILE, 1 + PIXELS)
    labels, pixels = records[:, 0], records[:, 1:]
    _check_labels(path, labels)
    return pixels, labels


def _read_python(path: Path) -> Part:
    data = path.read_bytes()
    try:
        batch = ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    except UnsafePickleError as error:
        raise ValueError(f"{path} is refused: {error}") from None
    except Exception as error:  # a corrupt pickle can fail in any way
        raise ValueError(
            f"{path} is not a complete CIFAR-10 batch: expected a pickle of {IMAGES_PER_FILE} images "
            f"({IMAGES_PER_FILE * PIXELS} bytes and more), found {len(data)} bytes ({error})"
        ) from error
    if not isinstance(batch, dict):
        raise ValueError(f"{path} is not a CIFAR-10 batch: expected a pickled dict, found {type(batch).__name__}")
    pixels, labels = (batch.get(name.encode(), batch.get(name)) for name in ("data", "labels"))
    pixels = pixels.values() if isinstance(pixels, ArrayState) else None
    if pixels is None or pixels.shape != (IMAGES_PER_FILE, PIXELS):
        found = "none" if pixels is None else f"shape {pixels.shape}"
        raise ValueError(f"{path} is corrupt: expected 'data' of uint8 {(IMAGES_PER_FILE, PIXELS)}, found {found}")
    if not isinstance(labels, list) or len(labels) != IMAGES_PER_FILE or not all(map(_is_int64, labels)):
        found = _first_fault(labels) if isinstance(labels, list) else type(labels).__name__
        expected = f"'labels', a list of {IMAGES_PER_FILE} integers of 64 bits"
        raise ValueError(f"{path} is corrupt: expected {expected}, found {found}")
    _check_labels(path, labels)
    return pixels, np.array(labels, np.uint8)


def _is_int64(value: object) -> bool:
    return type(value) is int and value.bit_length() < 64


def _first_fault(labels: list[object]) -> str:
    """The number of labels if it is wrong, otherwise the first label that is no integer of 64 bits."""
    if len(labels) != IMAGES_PER_FILE:
        return f"{len(labels)} entries"
    number, label = next((number, label) for number, label in enumerate(labels) if not _is_int64(label))
    kind = "an integer of more bits" if type(label) is int else type(label).__name__
    return f"{kind} at index {number}"


def _check_labels(path: Path, labels: Collection[int]) -> None:
    low, high = min(labels), max(labels)
    if low < 0 or high >= len(CLASSES):
        raise ValueError(f"{path} is corrupt: expected labels in [0, {len(CLASSES)}), found {low} to {high}")
