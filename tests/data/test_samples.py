"""Samples outside device memory: reading, statistics and checksums."""

from __future__ import annotations

import os
import zlib

import numpy as np
import pytest

from gpuconv.data import Normalization, StreamLoader, samples, sources
from gpuconv.data.samples import MapSamples, memory_mapped
from tests.data.small_samples import IMAGES, LABELS, Numbered, of_array


def test_statistics_come_from_at_most_4096_evenly_spaced_samples():
    for count, expected in ((5, 5), (4096, 4096), (4097, 4096), (100_000, 4096)):
        numbered = Numbered(count)
        assert len(numbered.measured()) == expected
        (indices,) = numbered.reads
        assert (indices[0], indices[-1], len(np.unique(indices))) == (0, count - 1, expected)
        assert np.ptp(np.diff(indices)) <= 1  # the distances differ by at most 1
    assert samples.MEASURED == 4096
    Normalization.from_dataset(numbered)
    np.testing.assert_array_equal(numbered.reads[1], indices)


def test_samples_have_the_documented_defaults():
    bare = Numbered(1)
    assert (bare.labels, list(bare.classes), bare.workers, bare.checksum(), bare.raw) == (None, [], 1, None, True)
    assert not Numbered(1, dtype=np.dtype(np.float32)).raw


class OfFunction(Numbered):
    """Samples whose images and labels a function of the indices returns."""

    def __init__(self, read, **options):
        super().__init__(10, **{"image_shape": [2, 3, 3]} | options)
        object.__setattr__(self, "function", read)

    def read(self, indices):
        return self.function(indices)


def batches(read, normalization=None, **options):
    return [*StreamLoader(OfFunction(read, **options), 4, normalization=normalization, shuffle=False).epoch()]


def test_the_dtype_of_samples_is_given_in_any_form_and_int32_is_refused():
    for dtype in ("uint8", np.uint8, np.dtype("u1")):
        samples = OfFunction(lambda indices: (IMAGES[indices], LABELS[indices]), dtype=dtype, labels=[*LABELS])
        assert (samples.raw, samples.dtype, samples.image_shape) == (True, np.dtype(np.uint8), (2, 3, 3))
        assert len(samples.split(0.5)[0]) == 4
    assert not OfFunction(None, dtype="float32").raw
    assert OfFunction(None, dtype="bfloat16").dtype.name == "bfloat16"
    with pytest.raises(TypeError, match=r"images of 'numbered' must be uint8 .* or floats, .*; received int32"):
        OfFunction(None, dtype="int32")


def test_the_result_of_read_is_converted_to_arrays_or_refused():
    plain = Normalization([0] * 3, [1] * 3)
    x, y = batches(lambda indices: [[*IMAGES[indices]], LABELS[indices].astype(np.int32)], plain)[1]
    np.testing.assert_array_equal(x, IMAGES[4:8])
    assert (y.dtype, y.tolist()) == (np.int64, LABELS[4:8].tolist())
    floats = batches(lambda indices: (IMAGES[indices] / 2, LABELS[indices]), dtype="float32")
    np.testing.assert_array_equal(floats[2][0], IMAGES[8:] / 2)
    for read, error, message in (
        (lambda indices: None, TypeError, r"OfFunction.read must return \(images, labels\), returned NoneType"),
        (lambda indices: (1, 2, 3), TypeError, "returned 3 values"),
        (
            lambda indices: (IMAGES[indices[1:]], LABELS[indices[1:]]),
            ValueError,
            r"images of shape \(4, 2, 3, 3\) in uint8, returned \(3, 2, 3, 3\) in uint8",
        ),
        (lambda indices: (IMAGES[indices] / 2, LABELS[indices]), ValueError, "in uint8, returned .* in float64"),
        (lambda indices: (IMAGES[indices], LABELS[:3]), ValueError, r"a label for each of 4 images, .* shape \(3,\)"),
    ):
        with pytest.raises(error, match=message):
            batches(read, plain)
    with pytest.raises(TypeError, match=r"^OfFunction.read must return \(images, labels\), returned NoneType$"):
        OfFunction(lambda indices: None, dtype="float32").split(0.5)[0].first(2)
    with pytest.raises(ValueError, match=r"in floats, returned .* in uint8"):
        batches(lambda indices: (IMAGES[indices], LABELS[indices]), dtype="float32")
    with pytest.raises(ValueError, match=r"images of shape \(10, 2, 3, 3\)"):
        Normalization.from_dataset(OfFunction(lambda indices: (IMAGES[:3], LABELS[:3])))


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


def test_checksums_differ_for_other_parts_of_one_file(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    a = np.load(tmp_path / "a.npy", mmap_mode="r")
    parts = [a, a[::-1], a[:, ::-1], a[2:], a[:-2], a[1:-1], a[::2], a[:5], a[:, :1], a[:, 1:]]
    start, step = a.offset, a[0].nbytes
    parts += [np.memmap(a.filename, a.dtype, "r", start + at * step, (6, *a.shape[1:])) for at in (0, 1)]
    of_parts = [of_array(part, np.zeros(len(part), np.int64)).checksum() for part in parts]
    assert len({*of_parts}) == len(parts)


def test_a_whole_file_in_any_shape_has_the_checksum_that_older_versions_of_gpuconv_gave_it(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    a = np.load(tmp_path / "a.npy", mmap_mode="r")
    whole = f"a.npy {os.stat(a.filename).st_size} {os.stat(a.filename).st_mtime_ns}".encode()
    labels = np.zeros(len(a), np.int64)
    expected = f"{zlib.crc32(labels, zlib.crc32(whole)):08x}"
    for same in (a, a[:], a[..., None], a.transpose(0, 3, 1, 2), a.reshape(len(a), -1), np.asarray(a)):
        assert of_array(same, labels).checksum() == expected


def test_every_subset_of_samples_has_a_checksum_of_its_own():
    indices = [slice(None), slice(None, None, 2), slice(None, None, -1), slice(4), [0, 2, 4, 6], np.arange(10) > 6]
    assert len({of_array().subset(each).checksum() for each in indices}) == len(indices)
    assert of_array().subset(slice(None, None, 2)).checksum() == of_array().subset([0, 2, 4, 6, 8]).checksum()


def test_the_array_that_was_opened_from_a_file_is_found(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    array = np.load(tmp_path / "a.npy", mmap_mode="r")
    for view in (array, array[2:], array.reshape(-1), np.asarray(array)[1:]):
        assert memory_mapped(view) is array
    for other in (IMAGES, IMAGES[1:], np.array(array), [1], None):
        assert memory_mapped(other) is None


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


@pytest.mark.parametrize(
    ("item", "received"),
    [((IMAGES[1],), "1 parts"), ((IMAGES[1], 0, 0), "3 parts"), (IMAGES[1], "ndarray"), (0, "int")],
)
def test_an_item_that_is_no_pair_is_named(item, received):
    source = [(IMAGES[0], 0), item]
    samples = MapSamples(name="pairs", image_shape=(2, 3, 3), dtype=np.dtype(np.uint8), source=source)
    with pytest.raises(TypeError, match=rf"^pairs\[1\] must be \(image, label\), received {received}$"):
        samples.read(np.arange(2))


def test_the_class_names_of_samples_may_be_an_array():
    assert Numbered(3, classes=np.array(["cat", "dog"])).classes == ("cat", "dog")
    with pytest.raises(TypeError, match="classes of 'numbered' must be names, received 2"):
        Numbered(3, classes=2)


def test_samples_without_known_labels_are_split_also_if_label_0_is_ignored():
    pairs = [(image, label) for image, label in zip(IMAGES, LABELS)]
    listed = MapSamples(name="pairs", image_shape=(2, 3, 3), dtype=np.uint8, source=pairs, ignored=0)
    rest, part = listed.split(0.2)
    assert (len(rest), len(part)) == (8, 2)


def test_samples_with_float_labels_are_split_as_one_class():
    floats = of_array(labels=np.linspace(0, 1, len(IMAGES)))
    rest, part = floats.split(0.2)
    assert (len(rest), len(part)) == (8, 2)


def test_a_users_checksum_may_be_any_text():
    class Named(Numbered):
        text = "cats-v2"

        def checksum(self):
            return self.text

    checksums = set()
    for text in ("cats-v2", "cats-v3", "0123abcd"):
        Named.text = text
        part = Named(10).subset(slice(4))
        checksums.add(part.checksum())
        if text == "0123abcd":  # the rule of stored runs
            assert part.checksum() == f"{zlib.crc32(part.indices.tobytes(), 0x0123ABCD):08x}"
    assert len(checksums) == 3
