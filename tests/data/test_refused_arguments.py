"""The error for an argument of a wrong type says what was expected and received, and does not come from an inner
function."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import data
from gpuconv.data import Augmentation, Batches, Dataset, Loader, Normalization, StreamLoader
from gpuconv.data.samples import ArraySamples

IMAGES = np.arange(6 * 8 * 8, dtype=np.uint8).reshape(6, 8, 8, 1)
IN_MEMORY = Dataset(IMAGES, np.arange(6) % 2, ["a", "b"], "six")
STREAMED = ArraySamples(
    name="six", image_shape=(8, 8, 1), dtype=IMAGES.dtype, labels=np.arange(6) % 2, classes=["a", "b"], images=IMAGES
)
NORMALIZATION = Normalization.from_dataset(IN_MEMORY)


def pets(tmp_path, **options):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.pgm").write_bytes(b"P5 2 2 255\n" + bytes(4))
    return data.folder.load(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "32x32"}, "size must be an integer, received '32x32'"),
        ({"channels": 3.0}, "channels must be an integer, received 3.0"),
        ({"test": "0.2"}, "test must be a number, received '0.2'"),
        ({"seed": 1.5}, "seed must be an integer, received 1.5"),
        ({"stream": "no"}, "stream must be True or False, received 'no'"),
    ],
    ids=["size", "channels", "test", "seed", "stream"],
)
def test_an_option_of_a_folder_is_refused(tmp_path, options, message):
    pytest.importorskip("PIL.Image")
    with pytest.raises(TypeError, match=message):
        pets(tmp_path, **options)


BATCH = IMAGES, np.arange(6)


def batches(source=(BATCH,), length=None, device="numpy"):
    return Batches(source, "six", (8, 8, 1), length=length, device=device, dtype="float32")


CALLS = {
    "load, spec": (lambda: data.load(5), "a data set is described by text, received int"),
    "load, test": (lambda: data.load("digits", 5), "test must be text or None, received int"),
    "synthetic": (lambda: data.synthetic.load(size=32), r"size must be \(H, W, C\), received 32"),
    "Dataset, classes": (lambda: Dataset(IMAGES, np.zeros(6, int), 5), "classes of 'images' must be names, received 5"),
    "Dataset.relabeled": (lambda: IN_MEMORY.relabeled(5), "classes of 'six' must be names, received 5"),
    "Dataset.split": (lambda: IN_MEMORY.split("0.2"), "fraction must be a number, received '0.2'"),
    "Samples.split": (lambda: STREAMED.split(None), "fraction must be a number, received None"),
    "Augmentation.parse": (lambda: Augmentation.parse(5), "an augmentation is described by text, received int"),
    "Normalization.from_dataset": (
        lambda: Normalization.from_dataset(IMAGES),
        "dataset must be a gpuconv.data.Dataset or Samples, received ndarray; from_images takes images",
    ),
    "Loader, dataset": (
        lambda: Loader(STREAMED, 2, normalization=NORMALIZATION),
        "a Loader takes a gpuconv.data.Dataset, received ArraySamples",
    ),
    "StreamLoader, dataset": (
        lambda: StreamLoader(IN_MEMORY, 2, normalization=NORMALIZATION),
        "a StreamLoader takes a gpuconv.data.Samples, received Dataset",
    ),
    "Loader, no normalization": (
        lambda: Loader(IN_MEMORY, 2, normalization=None),
        "normalization of uint8 images must be a gpuconv.data.Normalization, received NoneType",
    ),
    "StreamLoader, no normalization": (
        lambda: StreamLoader(STREAMED, 2),
        "normalization of uint8 images must be a gpuconv.data.Normalization, received NoneType",
    ),
    "Batches, length": (lambda: batches(length="2"), "length must be an integer, received '2'"),
    "Batches, source": (
        lambda: batches(5),
        "six must be an iterable of batches, or a function that returns one, received int",
    ),
    "Loader, augmentation": (
        lambda: Loader(IN_MEMORY, 2, normalization=NORMALIZATION, augmentation="flip"),
        r"augmentation must be a gpuconv.data.Augmentation, received 'flip'; Augmentation.parse\(text\) makes one",
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_a_wrong_type_is_refused(name):
    call, message = CALLS[name]
    with pytest.raises(TypeError, match=message):
        call()


def test_an_unknown_device_of_batches_is_refused():
    with pytest.raises(ValueError, match="unknown device 'nmpy'; did you mean 'numpy'"):
        batches(device="nmpy")
