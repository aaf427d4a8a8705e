"""The kind of a user's data is recognized."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.data import Dataset, Loader, Samples, sources
from tests.data.small_samples import IMAGES, LABELS


def test_class_names_are_taken_from_the_attribute_classes():
    class Named(list):
        classes = ("cat", "dog")

    pairs = Named([(IMAGES[0], 0)])
    recognized = sources.as_data_source(pairs, "train", (2, 3, 3), classes=4, device="numpy", dtype="float32")
    assert list(recognized.classes) == ["cat", "dog"]


def test_uint8_arrays_in_memory_become_a_dataset_and_other_arrays_samples(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    options = {"name": "train", "shape": (2, 3, 3), "device": "numpy", "dtype": "float32"}
    in_memory = sources.as_data_source((IMAGES, LABELS), classes=2, **options)
    assert (type(in_memory).__name__, in_memory.name, in_memory.classes) == ("Dataset", "train", ("0", "1", "2"))
    five_classes = sources.as_data_source((IMAGES, LABELS), classes=5, **options)
    assert five_classes.classes == tuple("01234")
    for images in (np.load(tmp_path / "a.npy", mmap_mode="r"), IMAGES.astype(np.float32)):
        samples = sources.as_data_source((images, LABELS), classes=5, **options)
        assert (type(samples).__name__, list(samples.classes)) == ("ArraySamples", list("01234"))
        np.testing.assert_array_equal(samples.read(np.array([3, 1]))[0], IMAGES[[3, 1]])
    for dtype, labels in ((np.float32, np.zeros(0, int)), (np.float32, []), (np.uint8, [])):
        with pytest.raises(ValueError, match="data set 'train' is empty"):
            sources.as_data_source((np.zeros((0, 2, 3, 3), dtype), labels), **options)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("labels_of", [list, tuple, np.array], ids=["list", "tuple", "array"])
def test_lists_of_images_and_labels_are_taken_like_arrays(count, labels_of):
    options = {"name": "train", "shape": (2, 3, 3), "classes": 4, "device": "numpy", "dtype": "float32"}
    for images in (IMAGES[:count], IMAGES[:count].astype(np.float32)):
        found = sources.as_data_source([list(images), labels_of(LABELS[:count].tolist())], **options)
        np.testing.assert_array_equal(found.images, images)
        assert found.labels.tolist() == LABELS[:count].tolist()


def test_pairs_become_samples_and_pairs_of_several_images_become_batches():
    options = {"name": "train", "shape": (2, 3, 3), "classes": 4, "device": "numpy", "dtype": "float32"}
    pairs = [(IMAGES[0], 0), (IMAGES[1], 1)]
    batches = [(list(IMAGES[:2]), [0, 1]), (list(IMAGES[2:4]), [1, 0])]
    kinds = [type(sources.as_data_source(data, **options)).__name__ for data in (pairs, tuple(pairs), batches)]
    assert kinds == ["MapSamples", "MapSamples", "Batches"]


@pytest.mark.parametrize("axis", [False, True], ids=["without-channel-axis", "with-channel-axis"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_gray_pairs_become_samples_and_pairs_of_several_gray_images_become_batches(count, axis):
    options = {"name": "train", "shape": (2, 3, 1), "classes": 4, "device": "numpy", "dtype": "float32"}
    gray = IMAGES[:2, :, :, :1] if axis else IMAGES[:2, :, :, 0]
    samples, batches = [(gray[0], 1)] * count, [(gray, LABELS[:2])] * count
    kinds = [type(sources.as_data_source(data, **options)).__name__ for data in (samples, batches)]
    assert kinds == ["MapSamples", "Batches"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_targets_of_a_list_of_images_may_be_lists_of_numbers(count):
    targets = [[0.5, 0.25]] * count
    options = {"name": "train", "shape": (2, 3, 3), "classes": 2, "device": "numpy", "dtype": "float32"}
    found = sources.as_data_source((list(IMAGES[:count].astype(np.float32)), targets), **options)
    assert found.labels.tolist() == targets


def test_a_huge_label_makes_no_class_names_up_to_it():
    labels = np.array([0, 2**40] * (len(IMAGES) // 2))
    samples = sources.as_data_source(
        (IMAGES[: len(labels)], labels), "train", (2, 3, 3), classes=3, device="numpy", dtype="float32"
    )
    assert (type(samples).__name__, list(samples.classes)) == ("ArraySamples", [])
    rest, part = samples.split(0.5)
    assert {*rest.labels.tolist()} == {*part.labels.tolist()} == {0, 2**40}


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(np.array(["cat", "dog"]), ["cat", "dog"]), *((other, ["0", "1"]) for other in (2, lambda: 2, None, ()))],
    ids=["array", "number", "function", "None", "empty"],
)
def test_an_array_in_the_attribute_classes_names_the_classes_and_a_value_without_names_does_not(classes, expected):
    class Named(list):
        pass

    pairs = Named([(IMAGES[0], 0)])
    pairs.classes = classes
    recognized = sources.as_data_source(pairs, "train", (2, 3, 3), classes=2, device="numpy", dtype="float32")
    assert list(recognized.classes) == expected


@pytest.mark.parametrize("data", [dict, Loader, Dataset, Samples])
def test_a_class_instead_of_data_is_refused(data):
    with pytest.raises(TypeError, match=f"received the class {data.__name__}, not an object of it"):
        sources.as_data_source(data, "train", (2, 3, 3), device="numpy", dtype="float32")
