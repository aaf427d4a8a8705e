"""Batches of a user's iterable."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv.data import Batches, Normalization
from tests.data.small_samples import IMAGES, LABELS


def batches(source, length=None, **options):
    return Batches(source, "train", (2, 3, 3), length=length, device="numpy", dtype="float32", **options)


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
    for _ in range(2):
        with pytest.raises(
            ValueError, match="train is a list_iterator, which gives each batch once; give the function"
        ):
            list(iterator.epoch(0))
    assert first_pixels(iterator.epoch(2)) == EXPECTED[4:6]  # the refused calls did not advance the iterator


def test_uint8_batches_are_normalized_by_the_statistics_of_the_first_batch_and_are_not_mixed_with_floats():
    raw = [(x.astype(np.uint8), y) for x, y in FLOATS]
    measured = []
    normalized = batches(raw, normalize=lambda x: measured.append(x) or Normalization([1] * 3, [2] * 3))
    np.testing.assert_array_equal(measured[0], raw[0][0])
    assert len(measured) == 1
    np.testing.assert_allclose(next(normalized.epoch())[0], (FLOATS[0][0] - 1) / 2, rtol=1e-6)
    assert batches(FLOATS).normalization is None
    with pytest.raises(TypeError, match="the first batch of train has floats, and a later one has uint8"):
        list(batches([FLOATS[0], raw[1]]).epoch())
    with pytest.raises(TypeError, match="has uint8, which is normalized, and a later one has floats"):
        list(batches([raw[0], FLOATS[1]]).epoch())


def test_a_function_that_returns_no_batches_or_takes_arguments_is_refused():
    with pytest.raises(TypeError, match="the function train must return batches, received NoneType"):
        batches(lambda: None)
    with pytest.raises(TypeError, match=r"the function train is called with \(\), but takes \(epoch\)"):
        batches(lambda epoch: FLOATS)


def test_an_object_with_only_indexing_gives_batches():
    class Indexed:
        """The old iteration protocol: items until an IndexError."""

        def __getitem__(self, index):
            return FLOATS[index]

    assert first_pixels(batches(Indexed()).epoch()) == EXPECTED
