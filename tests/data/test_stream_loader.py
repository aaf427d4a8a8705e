"""The loader of samples: its threads, its order, float images, and batches equal to those of a loader in memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import backends
from gpuconv.backends.cpu import parallel
from gpuconv.data import Augmentation, Dataset, Loader, Normalization, StreamLoader, stream_loader
from tests.data.small_samples import IMAGES, LABELS, Numbered, of_array

PLAIN = Normalization([0] * 3, [1] * 3)


def test_the_default_number_of_workers_is_that_of_the_samples_but_at_most_the_cores_and_at_most_8(monkeypatch):
    for cores, allowed, requested, expected in (
        (64, 1, None, 1),
        (64, 5, None, 5),
        (64, 99, None, 8),
        (3, 99, None, 3),
        (1, 1, 12, 12),
    ):
        monkeypatch.setattr(stream_loader, "available_cores", lambda cores=cores: cores)
        loader = StreamLoader(Numbered(4, workers=allowed), 2, normalization=Normalization([0], [1]), workers=requested)
        assert loader.workers == expected
        assert loader.over(Numbered(4, workers=1)).workers == (1 if requested is None else expected)
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="workers must be at least 1"):
            StreamLoader(Numbered(4), 2, normalization=Normalization([0], [1]), workers=wrong)


def test_batches_have_the_same_bits_as_those_of_a_loader_in_memory():
    pixels = np.random.default_rng(0).integers(0, 256, (22, 6, 5, 1)).astype(np.uint8)
    labels = np.arange(22) % 3
    for augment in ("flip,shift:2,cutout:2", "alternating-flip,shift:1,reflect", "none"):
        options = {"normalization": Normalization([99], [50]), "augmentation": Augmentation.parse(augment), "seed": 4}
        for epoch in (0, 1):
            in_memory = Loader(Dataset(pixels, labels, "abc"), 4, **options)
            for device in ("numpy", "emulated"):
                streamed = StreamLoader(of_array(pixels, labels), 4, workers=3, device=device, **options)
                batches = zip(streamed.epoch(epoch, start_batch=1), in_memory.epoch(epoch, start_batch=1), strict=True)
                for (x, y), (expected_x, expected_y) in batches:
                    assert gc.device_of(x) == gc.device_of(y) == device
                    np.testing.assert_array_equal(gc.to_numpy(x), expected_x)
                    np.testing.assert_array_equal(gc.to_numpy(y), expected_y)


def test_float_images_are_neither_normalized_nor_augmented():
    floats = of_array(IMAGES.astype(np.float32))
    for options in ({"normalization": PLAIN}, {"augmentation": Augmentation(flip=True)}):
        with pytest.raises(ValueError, match="images of 'array' are floats, which are only converted to a dtype"):
            StreamLoader(floats, 2, **options)
    with pytest.raises(TypeError, match="normalization of float images must be None, received int"):
        StreamLoader(floats, 2, normalization=3)
    with pytest.raises(TypeError, match=r"of uint8 images must be a gpuconv.data.Normalization, received int; Norm"):
        StreamLoader(of_array(IMAGES), 2, normalization=3)
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


def test_a_normalization_is_refused_for_samples_that_are_no_images():
    for dtype in (np.uint8, np.float32):
        with pytest.raises(ValueError, match=r"a normalization is for images \(H, W, C\), received .* shape \(7,\)"):
            StreamLoader(of_array(np.zeros((10, 7), dtype)), 2, normalization=PLAIN)


class Pooled(Numbered):
    """Samples whose reading calls an op that computes in parts."""

    def read(self, indices):
        images, labels = super().read(indices)
        return gc.ops.avg_pool2d(images.astype(np.float32), 1), labels


class ImpatientLock:
    """A lock that is waited for in vain for at most ten seconds."""

    def __init__(self):
        self.lock = threading.Lock()

    def __enter__(self):
        if not self.lock.acquire(timeout=10):
            raise TimeoutError("the lock is held by another thread")

    def __exit__(self, *_):
        self.lock.release()


@pytest.mark.parametrize("workers", [1, 3])
def test_reading_may_call_ops_where_the_caller_wants_the_same_bits(monkeypatch, workers):
    """The caller waits for the reading threads, so these must not wait for the caller."""
    monkeypatch.setattr(parallel, "_blas_lock", ImpatientLock())
    loader = StreamLoader(Pooled(30, dtype=np.dtype(np.float32)), 4, shuffle=False, workers=workers)
    outside = [x for x, _ in loader.epoch()]
    with backends.same_bits("numpy"):
        inside = [x for x, _ in loader.epoch()]
    np.testing.assert_array_equal(np.concatenate(inside).ravel(), np.arange(30))
    np.testing.assert_array_equal(np.concatenate(inside), np.concatenate(outside))
