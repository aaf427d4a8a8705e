"""CIFAR-10 files of a few images."""

import pickle

import numpy as np

from gpuconv import random
from gpuconv.data import cifar10

FILES = [*cifar10.TRAIN_FILES, *cifar10.TEST_FILES]
COUNT = 6


def batch(number, count=COUNT):
    """Pixels (count, 3072) and labels. Each image has three planes of 32x32 pixels, as in the files."""
    words = random.bits(count * 768, seed=number, stream=random.DATA)
    return words.view(np.uint8).reshape(count, 3072), (np.arange(count) * 3 + number) % 10


def write_binary(directory, count=COUNT):
    directory.mkdir(exist_ok=True)
    for number, name in enumerate(FILES):
        pixels, labels = batch(number, count)
        np.hstack([labels.astype(np.uint8)[:, None], pixels]).tofile(directory / f"{name}.bin")


def write_python(directory, protocol=2, as_bytes=True):
    directory.mkdir(exist_ok=True)
    for number, name in enumerate(FILES):
        pixels, labels = batch(number)
        content = {"data": pixels, "labels": labels.tolist(), "batch_label": name, "filenames": ["a.png"] * COUNT}
        if as_bytes:
            content = {key.encode(): value for key, value in content.items()}
        (directory / name).write_bytes(pickle.dumps(content, protocol))


PIXELS, LABELS = batch(0)
