"""Samples outside device memory: reading, statistics and checksums."""

from __future__ import annotations

import os

import numpy as np
import pytest

from gpuconv.data import Normalization, samples, sources
from gpuconv.data.samples import MapSamples, memory_mapped_file
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


def test_every_subset_of_samples_has_a_checksum_of_its_own():
    indices = [slice(None), slice(None, None, 2), slice(None, None, -1), slice(4), [0, 2, 4, 6], np.arange(10) > 6]
    assert len({of_array().subset(each).checksum() for each in indices}) == len(indices)
    assert of_array().subset(slice(None, None, 2)).checksum() == of_array().subset([0, 2, 4, 6, 8]).checksum()


def test_the_file_of_a_memory_mapped_array_is_found(tmp_path):
    np.save(tmp_path / "a.npy", IMAGES)
    array = np.load(tmp_path / "a.npy", mmap_mode="r")
    for view in (array, array[2:], array.reshape(-1), np.asarray(array)[1:]):
        assert memory_mapped_file(view) == str(tmp_path / "a.npy")
    for other in (IMAGES, IMAGES[1:], np.array(array), [1], None):
        assert memory_mapped_file(other) is None


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
