"""Data sets in memory, their parts and the names of their classes."""

import numpy as np
import pytest

from gpuconv.data import Dataset
from tests.data.small_samples import of_array


def images(n=12, h=3, w=5, c=2):
    return (np.arange(n * h * w * c) * 37 % 251).astype(np.uint8).reshape(n, h, w, c)


def dataset(n=12, classes=3):
    return Dataset(images(n), np.arange(n) % classes, [f"c{i}" for i in range(classes)], "set")


def test_a_dataset_holds_images_labels_and_class_names():
    pets = Dataset(images(), np.array([0, 1] * 6, np.uint8), ["cat", "dog"], "pets")
    assert pets.labels.dtype == np.int64
    assert pets.classes == ("cat", "dog")
    assert len(pets) == 12
    assert pets.image_shape == (3, 5, 2)
    assert repr(pets) == "Dataset('pets': 12 images of 3x5x2 in 2 classes)"
    with pytest.raises(AttributeError):
        pets.name = "other"


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"images": images().astype(np.float32)}, TypeError, "uint8.*float32"),
        ({"images": images()[0]}, ValueError, r"\(N, H, W, C\)"),
        ({"images": images()[:0], "labels": np.zeros(0, np.int64)}, ValueError, "empty"),
        ({"images": images()[:, :0]}, ValueError, "empty"),
        ({"labels": np.arange(12) % 3 * 1.0}, TypeError, "integers, received float64"),
        ({"labels": np.zeros(12, bool)}, TypeError, "integers, received bool"),
        ({"labels": np.arange(11) % 3}, ValueError, "12 images.*11"),
        ({"labels": np.arange(12)}, ValueError, r"\[0, 3\).*0 to 11"),
        ({"labels": np.arange(12) % 3 - 1}, ValueError, "-1 to 1"),
    ],
)
def test_bad_datasets_are_refused(bad, error, message):
    arguments = {"images": images(), "labels": np.arange(12) % 3, "classes": ["a", "b", "c"]} | bad
    with pytest.raises(error, match=message):
        Dataset(**arguments)


@pytest.mark.parametrize("indices", [slice(2, 9, 3), np.array([5, 5, 0]), np.arange(12) > 7])
def test_a_subset_takes_slices_index_arrays_and_masks(indices):
    complete = dataset()
    part = complete.subset(indices)
    np.testing.assert_array_equal(part.images, complete.images[indices])
    np.testing.assert_array_equal(part.labels, complete.labels[indices])
    assert part.classes == complete.classes


def test_an_empty_subset_is_refused():
    with pytest.raises(ValueError, match="empty"):
        dataset().subset(slice(0))


def test_split_takes_the_fraction_of_every_class():
    complete = dataset(n=300, classes=3)
    first, second = complete.split(0.2, seed=4)
    assert np.bincount(first.labels).tolist() == [80, 80, 80]
    assert np.bincount(second.labels).tolist() == [20, 20, 20]
    rows = {image.tobytes() for image in complete.images}
    assert {i.tobytes() for i in first.images} | {i.tobytes() for i in second.images} == rows


def test_split_is_the_same_for_equal_seeds_and_differs_for_others():
    complete = dataset(n=90)
    first, repeated, other_seed = (complete.split(0.3, seed=seed)[1].images for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, repeated)
    assert not np.array_equal(first, other_seed)


def test_split_keeps_an_image_of_every_class_in_the_first_part():
    labels = np.array([0, 0, 1, 2, 2, 2])
    complete = Dataset(images(6), labels, ["two", "one", "three", "none"])
    first, second = complete.split(0.01)
    assert first.labels.tolist() == [0, 1, 2, 2]
    assert second.labels.tolist() == [0, 2]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_split_refuses_fractions_that_are_not_between_0_and_1(fraction):
    with pytest.raises(ValueError, match="fraction"):
        dataset().split(fraction)


def test_labels_are_renumbered_by_class_name():
    images = np.zeros((3, 1, 1, 1), np.uint8)
    data = Dataset(images, np.array([0, 1, 1]), ["dog", "cat"]).relabeled(["cat", "dog"])
    assert data.labels.tolist() == [1, 0, 0]
    assert data.classes == ("cat", "dog")
    with pytest.raises(ValueError, match="it lacks 'ant' and has unknown 'dog'"):
        data.relabeled(["ant", "cat"])


def test_ignored_labels_are_no_class_of_a_dataset():
    labels = np.array([0, 1, -100] * 4)
    data = Dataset(images(), labels, ["dog", "cat"], ignored=-100)
    rest, part = data.split(0.5)
    assert sorted(part.labels) == [0, 0, 1, 1]
    assert sorted(rest.labels) == [-100] * 4 + [0, 0, 1, 1]
    np.testing.assert_array_equal(data.relabeled(["cat", "dog"]).labels, np.array([1, 0, -100] * 4))
    with pytest.raises(ValueError, match=r"in \[0, 2\), one for each class, received -1 to 1"):
        Dataset(images(), np.where(labels == 0, -1, labels), ["dog", "cat"], ignored=-100)


def test_at_most_five_mismatched_classes_are_named():
    images = np.zeros((1, 1, 1, 1), np.uint8)
    for count, names in ((5, "'a', 'b', 'c', 'd', 'e' and"), (6, "'a', 'b', 'c', 'd', 'e', ... and")):
        with pytest.raises(ValueError, match="lacks") as raised:
            Dataset(images, np.array([0]), ["x"], "set").relabeled("abcdef"[:count])
        assert str(raised.value) == (f"'set' must have the training data's classes: it lacks {names} has unknown 'x'")


def test_a_class_without_images_and_a_label_of_the_last_class_are_accepted():
    data = Dataset(np.zeros((2, 1, 1, 1), np.uint8), np.array([0, 2]), "abc")
    assert data.labels.tolist() == [0, 2]


def test_a_tuple_and_a_range_of_indices_select_images_as_a_list_does():
    complete = dataset()
    for indices in ((3, 1), (3,), range(2, 5), ()):
        if indices:  # a data set in memory is never empty
            found = complete.subset(indices)
            np.testing.assert_array_equal(found.images, complete.images[[*indices]])
            assert found.labels.tolist() == complete.labels[[*indices]].tolist()
        np.testing.assert_array_equal(of_array().subset(indices).indices, [*indices])


def test_a_single_integer_as_indices_is_refused():
    for one in (3, np.int64(3)):
        for each in (dataset(), of_array()):
            with pytest.raises(TypeError, match="indices must be a slice, a list of integers or a mask, received"):
                each.subset(one)


def test_class_names_may_be_numbers_or_come_from_a_generator():
    numbered = Dataset(images(3), np.array([0, 1, 2]), range(3))
    assert numbered.relabeled(range(3)).classes == ("0", "1", "2")
    assert numbered.relabeled([2, 1, 0]).labels.tolist() == [2, 1, 0]
    reversed_names = numbered.relabeled(str(number) for number in (2, 1, 0))
    assert (reversed_names.labels.tolist(), reversed_names.classes) == ([2, 1, 0], ("2", "1", "0"))


def test_labels_are_not_matched_by_a_class_name_that_occurs_twice():
    data = Dataset(images(3), np.array([0, 1, 2]), ["a", "a", "b"], "set")
    assert data.relabeled(["a", "a", "b"]).labels.tolist() == [0, 1, 2]  # the same names in the same order
    with pytest.raises(ValueError, match="labels of 'set' are matched by the names of classes, and 'a' occurs twice"):
        data.relabeled(["b", "a", "a"])


def test_a_class_may_not_become_the_ignored_one():
    data = Dataset(images(), np.array([1, 2, 0] * 4), ["a", "b", "c"], ignored=0)
    assert data.relabeled(["a", "c", "b"]).labels.tolist() == [2, 1, 0] * 4
    with pytest.raises(ValueError, match="'b' would be class 0 of 'images', whose images are ignored"):
        data.relabeled(["b", "a", "c"])
