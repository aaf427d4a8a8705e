"""Samples and batches outside device memory: reading, statistics, checksums, layouts and refusals."""

from __future__ import annotations

import os

import numpy as np
import pytest

from gpuconv.data import Augmentation, Normalization, Samples, StreamLoader, samples, sources, stream
from gpuconv.data.samples import ArraySamples, MapSamples, class_numbers, laid_out, memory_mapped_file

IMAGES = np.arange(10 * 2 * 3 * 3).astype(np.uint8).reshape(10, 2, 3, 3)
LABELS = np.arange(10) % 3
PLAIN = Normalization([0] * 3, [1] * 3)


class Numbered(Samples):
    """Images of one pixel, the number of the sample. reads: the indices of all reads."""

    def __init__(self, count, **options):
        super().__init__(**{"name": "numbered", "image_shape": (1, 1, 1), "dtype": np.dtype(np.uint8)} | options)
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "reads", [])

    def __len__(self):
        return self.count

    def read(self, indices):
        self.reads.append(np.array(indices))
        return (indices % 256).astype(np.uint8).reshape(-1, 1, 1, 1), np.zeros(len(indices), np.int64)


def of_array(images=IMAGES, labels=LABELS):
    return ArraySamples(
        name="array", image_shape=images.shape[1:], dtype=images.dtype, labels=labels, images=images, classes="abc"
    )


def test_statistics_come_from_at_most_4096_evenly_spaced_samples():
    for count, expected in ((5, 5), (4096, 4096), (4097, 4096), (100_000, 4096)):
        numbered = Numbered(count)
        assert len(numbered.measured()) == expected
        (indices,) = numbered.reads
        assert (indices[0], indices[-1], len(np.unique(indices))) == (0, count - 1, expected)
        assert np.ptp(np.diff(indices)) <= 1  # the distances differ by at most 1
    assert samples.MEASURED == 4096


def test_samples_have_the_documented_defaults():
    bare = Numbered(1)
    assert (bare.labels, list(bare.classes), bare.workers, bare.checksum(), bare.raw) == (None, [], 1, None, True)
    assert not Numbered(1, dtype=np.dtype(np.float32)).raw


def test_checksums_differ_for_other_images_labels_files_and_dates(tmp_path):
    sums = {of_array().checksum(), of_array(IMAGES + 1).checksum(), of_array(labels=LABELS[::-1].copy()).checksum()}
    assert len(sums) == 3
    assert of_array(IMAGES[:, :, ::-1][:, :, ::-1]).checksum() == of_array().checksum()
    np.save(tmp_path / "a.npy", IMAGES)
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npy").read_bytes())
    a, b = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "ab")
    before = of_array(a).checksum()
    assert of_array(a[:]).checksum() == before != of_array(b).checksum()
    os.utime(tmp_path / "a.npy", ns=(1, 1))
    assert of_array(a).checksum() != before
    assert all(len(text) == 8 and int(text, 16) >= 0 for text in sums)


def test_the_file_of_a_memory_mapped_array_is_found(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    array = np.load(tmp_path / "a.npy", mmap_mode="r")
    for view in (array, array[2:], array.reshape(-1), np.asarray(array)[1:]):
        assert memory_mapped_file(view) == str(tmp_path / "a.npy")
    for other in (IMAGES, IMAGES[1:], np.array(array), [1], None):
        assert memory_mapped_file(other) is None


def test_the_layout_of_images_is_recognized():
    rgb, gray = (2, 3, 3), (2, 3, 1)
    assert laid_out(IMAGES, rgb, rank=4) is IMAGES
    assert laid_out(IMAGES[0], rgb, rank=3).shape == rgb
    assert laid_out(IMAGES[..., 0], gray, rank=4).shape == (10, 2, 3, 1)
    assert laid_out(IMAGES[0, ..., 0], gray, rank=3).shape == gray
    assert laid_out(IMAGES[..., :2, 0], gray, rank=4).shape == (10, 2, 2)  # refused later, by its shape
    assert laid_out(np.zeros((4, 7)), (7,), rank=2).shape == (4, 7)
    channels_first = np.zeros((10, 3, 2, 4), np.uint8)
    with pytest.raises(ValueError, match=r"\(10, 3, 2, 4\); x.transpose\(0, 2, 3, 1\) moves them there"):
        laid_out(channels_first, (2, 4, 3), rank=4)
    with pytest.raises(ValueError, match=r"\(3, 2, 4\); x.transpose\(1, 2, 0\) moves them there"):
        laid_out(channels_first[0], (2, 4, 3), rank=3)
    assert laid_out(channels_first, (5, 4, 3), rank=4).shape == (10, 3, 2, 4)  # not the size that the net takes
    assert laid_out(np.zeros((10, 3, 4, 3)), (3, 4, 3), rank=4).shape == (10, 3, 4, 3)


def test_class_numbers_are_converted_or_refused():
    for labels in ([0, 2], (0, 2), np.array([0, 2], np.uint8)):
        first_pixels = class_numbers(labels, "set", 2)
        assert (first_pixels.tolist(), first_pixels.dtype) == ([0, 2], np.int64)
    assert class_numbers(np.zeros(0, int), "set", 0).shape == (0,)
    for labels, error, message in (
        ([0.0, 1.0], TypeError, "must be integers, the numbers of classes, received float64"),
        ([True, False], TypeError, "received bool"),
        ([0], ValueError, r"each of 2 images, received shape \(1,\)$"),
        ([[0], [1]], ValueError, r"shape \(2, 1\); x.ravel\(\) gives one axis$"),
        ([[0, 1], [1, 0]], ValueError, r"\(2, 2\); x.argmax\(1\) converts"),
        ([0, -1], ValueError, "labels of 'set' must be 0 or more, received -1"),
        (np.uint64([0, 2**63]), ValueError, r"labels of 'set' must be below 2\*\*63, received 9223372036854775808"),
        ([0, np.ma.masked], TypeError, "labels of 'set' must not be a masked array"),
    ):
        with pytest.raises(error, match=message):
            class_numbers(labels, "set", 2)


def test_an_item_of_another_shape_or_dtype_is_named():
    pairs = [(IMAGES[0], 0), (IMAGES[1], 1), (IMAGES[2, :, :2], 1), (IMAGES[3].astype(np.float32), 0)]
    recognized = sources.as_data_source(pairs, "train", (2, 3, 3), classes=4, device="numpy", dtype="float32")
    assert isinstance(recognized, MapSamples)
    assert (recognized.image_shape, list(recognized.classes), len(recognized)) == ((2, 3, 3), ["0", "1", "2", "3"], 4)
    images, labels = recognized.read(np.array([1, 0]))
    np.testing.assert_array_equal(images, IMAGES[[1, 0]])
    assert labels.tolist() == [1, 0]
    for at, message in ((2, r"uint8 of shape \(2, 2, 3\)"), (3, r"float32 of shape \(2, 3, 3\)")):
        with pytest.raises(ValueError, match=rf"image {at} of 'train' must be uint8 .* received {message}"):
            recognized.read(np.array([0, at]))


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
    for images in (np.load(tmp_path / "a.npy", mmap_mode="r"), IMAGES.astype(np.float32)):
        samples = sources.as_data_source((images, LABELS), classes=5, **options)
        assert (type(samples).__name__, list(samples.classes)) == ("ArraySamples", list("01234"))
        np.testing.assert_array_equal(samples.read(np.array([3, 1]))[0], IMAGES[[3, 1]])
    with pytest.raises(ValueError, match="data set 'train' is empty"):
        sources.as_data_source((np.zeros((0, 2, 3, 3), np.float32), np.zeros(0, int)), **options)


# --- the loader of samples ------------------------------------------------------------------------


def test_by_default_a_loader_has_the_threads_that_samples_and_cores_allow_up_to_eight(monkeypatch):
    for cores, allowed, requested, expected in (
        (64, 1, None, 1),
        (64, 5, None, 5),
        (64, 99, None, 8),
        (3, 99, None, 3),
        (None, 99, None, 1),
        (1, 1, 12, 12),
    ):
        monkeypatch.setattr(stream.os, "cpu_count", lambda cores=cores: cores)
        loader = StreamLoader(Numbered(4, workers=allowed), 2, normalization=Normalization([0], [1]), workers=requested)
        assert loader.workers == expected
        assert loader.over(Numbered(4, workers=1)).workers == (1 if requested is None else expected)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="workers must be at least 1"):
            StreamLoader(Numbered(4), 2, normalization=Normalization([0], [1]), workers=wrong)


def test_float_images_are_neither_normalized_nor_augmented():
    floats = of_array(IMAGES.astype(np.float32))
    for options in ({"normalization": PLAIN}, {"augmentation": Augmentation(flip=True)}):
        with pytest.raises(ValueError, match="images of 'array' are floats, taken as they are"):
            StreamLoader(floats, 2, **options)
    x, y = next(StreamLoader(floats, 4, shuffle=False, dtype="float64").epoch())
    assert (x.dtype, y.dtype, y.tolist()) == (np.float64, np.int64, LABELS[:4].tolist())
    np.testing.assert_array_equal(x, IMAGES[:4])


def test_samples_are_read_in_the_order_of_the_epoch():
    numbered = Numbered(7)
    loader = StreamLoader(numbered, 3, normalization=Normalization([0], [1]), shuffle=False)
    assert [x.ravel().tolist() for x, _ in loader.epoch(0, 1)] == [[3, 4, 5], [6]]
    assert [indices.tolist() for indices in numbered.reads] == [[3, 4, 5], [6]]
    assert len(loader) == 3
    with pytest.raises(ValueError, match="start_batch must be at most 3"):
        loader.epoch(0, 4)


# --- user-defined batches -------------------------------------------------------------------------


def batches(source, length=None, **options):
    return stream.Batches(source, "train", (2, 3, 3), length=length, device="numpy", dtype="float32", **options)


FLOATS = [(IMAGES[at : at + 1].astype(np.float32), LABELS[at : at + 1]) for at in range(6)]


def first_pixels(batches):
    return [int(x.ravel()[0]) for x, _ in batches]


EXPECTED = first_pixels(FLOATS)


def test_an_iterable_restarts_each_epoch_and_an_iterator_continues():
    iterable = batches(FLOATS, length=4)
    assert len(iterable) == 4
    assert [first_pixels(iterable.epoch(epoch)) for epoch in (0, 1)] == [EXPECTED[:4]] * 2
    assert first_pixels(iterable.epoch(2, 1)) == EXPECTED[1:4]
    iterator = batches(iter(FLOATS), length=2)
    assert [first_pixels(iterator.epoch(epoch)) for epoch in (0, 1, 2)] == [EXPECTED[:2], EXPECTED[2:4], EXPECTED[4:]]
    skipping = batches(iter(FLOATS), length=3)
    assert first_pixels(skipping.epoch(1, 1)) == EXPECTED[4:6]
    called = []
    of_function = batches(lambda: called.append(1) or iter(FLOATS), length=2)
    assert [first_pixels(of_function.epoch(epoch)) for epoch in (0, 1)] == [EXPECTED[:2]] * 2
    assert len(called) == 2  # the first batch was read to be checked, and is used in the first epoch
    without_length = batches(FLOATS)
    assert first_pixels(without_length.epoch()) == EXPECTED
    with pytest.raises(TypeError, match="the number of batches in train is unknown"):
        len(without_length)


def test_an_iterator_cannot_go_back():
    iterator = batches(iter(FLOATS), length=2)
    list(iterator.epoch(1))
    with pytest.raises(ValueError, match="train is a list_iterator, which gives each batch once; give the function"):
        list(iterator.epoch(0))


def test_uint8_batches_are_normalized_by_the_statistics_of_the_first_and_may_not_follow_floats():
    raw = [(x.astype(np.uint8), y) for x, y in FLOATS]
    measured = []
    normalized = batches(raw, normalize=lambda x: measured.append(x) or Normalization([1] * 3, [2] * 3))
    np.testing.assert_array_equal(measured[0], raw[0][0])
    assert len(measured) == 1
    np.testing.assert_allclose(next(normalized.epoch())[0], (FLOATS[0][0] - 1) / 2, rtol=1e-6)
    assert batches(FLOATS).normalization is None
    with pytest.raises(TypeError, match="the first batch of train has floats, a later one uint8"):
        list(batches([FLOATS[0], raw[1]]).epoch())


def test_an_object_with_only_indexing_gives_batches():
    class Indexed:
        """The old iteration protocol: items until an IndexError."""

        def __getitem__(self, index):
            return FLOATS[index]

    assert first_pixels(batches(Indexed()).epoch()) == EXPECTED
