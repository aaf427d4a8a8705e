"""The batches of a loader: order, augmentation, resuming, and the thread that prepares them."""

import threading
import time

import numpy as np
import pytest

from gpuconv import random
from gpuconv.data import Augmentation, Dataset, Loader, Normalization, loader
from gpuconv.data.samples import ArraySamples
from gpuconv.data.stream_loader import StreamLoader

N, H, W, C = 53, 6, 5, 2
PLAIN = Normalization(np.zeros(C), np.ones(C))
EVERYTHING = Augmentation(flip=True, shift=2, cutout=3, resized_crop=0.3)


@pytest.fixture
def dataset():
    pixels = random.bits(N * H * W * C, seed=1, stream=random.DATA).astype(np.uint8)
    return Dataset(pixels.reshape(N, H, W, C), np.arange(N), [str(i) for i in range(N)])


def make_loader(dataset, batch_size=8, **options):
    return Loader(dataset, batch_size, **({"normalization": PLAIN, "seed": 3} | options))


def test_evaluation_goes_through_the_images_in_order(dataset):
    normalization = Normalization.from_dataset(dataset)
    batches = list(make_loader(dataset, normalization=normalization, shuffle=False).epoch())
    assert [len(x) for x, _ in batches] == [8] * 6 + [5]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), normalization(dataset.images))
    np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), dataset.labels)


def test_an_epoch_is_the_permutation_of_its_seed(dataset):
    for epoch in (0, 7):
        batches = list(make_loader(dataset).epoch(epoch))
        order = random.permutation(N, seed=3, epoch=epoch)
        np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), order)
        np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), dataset.images[order])


def test_augmentation_depends_only_on_the_position_in_the_run(dataset):
    def images(batch_size, epoch):
        batches = make_loader(dataset, batch_size, augmentation=EVERYTHING, shuffle=False).epoch(epoch)
        return np.concatenate([x for x, _ in batches])

    np.testing.assert_array_equal(images(8, 2), images(11, 2))
    assert not np.array_equal(images(8, 2), images(8, 3))


@pytest.mark.parametrize("augmentation", [EVERYTHING, Augmentation(mixup=0.4), Augmentation(cutmix=1)])
@pytest.mark.parametrize("start", [0, 1, 4, 6, 7])
def test_an_epoch_resumed_anywhere_gives_the_same_bits(dataset, start, augmentation):
    complete = list(make_loader(dataset, augmentation=augmentation).epoch(5))
    resumed = list(make_loader(dataset, augmentation=augmentation).epoch(5, start_batch=start))
    assert len(resumed) == 7 - start
    for (x, y), (expected_x, expected_y) in zip(resumed, complete[start:], strict=True):
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_array_equal(y, expected_y)


def test_factors_of_mixup_are_drawn_for_each_batch_from_their_distribution(dataset):
    """For alpha 1 the distribution is uniform. The bound is that of the Kolmogorov-Smirnov test."""
    mixed = make_loader(dataset, augmentation=Augmentation(mixup=1), shuffle=False)
    factors = []
    for epoch in range(40):
        for number, (_, targets) in enumerate(mixed.epoch(epoch)):
            factors.append(targets[1, 8 * number + 1])  # the share of the batch's second image in its own mixture
    factors = np.sort(factors)
    assert len(factors) == 280
    assert abs(factors - np.linspace(0, 1, len(factors))).max() < 2 / np.sqrt(len(factors))


def test_mixup_mixes_each_image_with_the_one_before_it_in_the_batch(dataset):
    plain, mixed = (make_loader(dataset, augmentation=chosen) for chosen in (Augmentation(), Augmentation(mixup=1)))
    for (x, labels), (mixed_x, targets) in zip(plain.epoch(1), mixed.epoch(1), strict=True):
        assert targets.shape == (len(x), N)
        factor = targets[0, labels[0]]
        np.testing.assert_allclose(mixed_x, factor * x + (1 - factor) * np.roll(x, 1, axis=0), rtol=1e-6)
        mixed_classes = np.sort(targets.argsort(axis=1)[:, -2:])  # the two with the largest shares
        np.testing.assert_array_equal(mixed_classes, np.sort(np.stack([labels, np.roll(labels, 1)], axis=1)))


def test_mixing_images_without_known_classes_is_refused(dataset):
    arrays = dict(images=dataset.images, labels=dataset.labels)
    unknown = ArraySamples(**arrays, name="unknown", image_shape=(H, W, C), dtype=np.dtype(np.uint8))
    with pytest.raises(
        ValueError, match="cutmix mixes labels that are numbers of known classes, and those of 'unknown'"
    ):
        StreamLoader(unknown, 8, normalization=PLAIN, augmentation=Augmentation(cutmix=1))


@pytest.mark.parametrize(
    ("batch_size", "drop_last", "count"), [(8, False, 7), (8, True, 6), (53, True, 1), (99, False, 1)]
)
def test_the_length_is_the_number_of_batches(dataset, batch_size, drop_last, count):
    tested = make_loader(dataset, batch_size, drop_last=drop_last)
    assert len(tested) == count
    assert len(list(tested.epoch())) == count


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_batches_have_the_requested_dtype(dataset, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    x, y = next(make_loader(dataset, dtype=dtype).epoch())
    assert x.dtype.name == dtype
    assert y.dtype == np.int64


def test_different_seeds_give_different_orders(dataset):
    labels = [np.concatenate([y for _, y in make_loader(dataset, seed=seed).epoch()]) for seed in (0, 1)]
    assert not np.array_equal(*labels)


# -- the background thread ----------------------------------------------------------------------


def workers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("gpuconv-loader")]


def test_only_a_few_batches_are_prepared_ahead(dataset, monkeypatch):
    threads = []
    load_batch = loader.ops.load_batch

    def recorded(*arrays, **options):
        threads.append(threading.current_thread().name)
        return load_batch(*arrays, **options)

    monkeypatch.setattr(loader.ops, "load_batch", recorded)
    batches = make_loader(dataset).epoch()
    next(batches)
    deadline = time.monotonic() + 5
    while len(threads) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(threads) == 3  # the batch in use, and two ahead
    assert all(name.startswith("gpuconv-loader") for name in threads)
    batches.close()


@pytest.mark.parametrize("leave", ["exhausted", "closed", "break", "error", "never started"])
def test_the_thread_ends_however_the_epoch_ends(dataset, leave):
    batches = make_loader(dataset).epoch()
    if leave == "exhausted":
        list(batches)
    elif leave == "closed":
        next(batches)
        assert len(workers()) == 1
        batches.close()
    elif leave == "break":
        for _ in make_loader(dataset).epoch():
            break
    elif leave == "error":

        def train():
            for _ in make_loader(dataset).epoch():
                raise RuntimeError("the step failed")

        with pytest.raises(RuntimeError, match="the step failed"):
            train()
    assert workers() == []


def test_an_error_in_the_thread_is_raised_at_its_batch(dataset, monkeypatch):
    load_batch = loader.ops.load_batch

    def fails_at_16(images, labels, indices, *, offset, **options):
        if offset == 16:
            raise MemoryError("no room for batch 2")
        return load_batch(images, labels, indices, offset=offset, **options)

    monkeypatch.setattr(loader.ops, "load_batch", fails_at_16)
    batches = make_loader(dataset).epoch()
    next(batches)
    next(batches)
    with pytest.raises(MemoryError, match="batch 2"):
        next(batches)
    assert workers() == []


# -- bad arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer"),
        ({"seed": -1}, ValueError, "seed"),
        ({"batch_size": 54, "drop_last": True}, ValueError, "53 images, batch_size 54"),
        ({"normalization": Normalization([0], [1])}, ValueError, r"mean has shape \(1,\)"),
        ({"normalization": Normalization(np.zeros((W, H, C)), [1, 1])}, ValueError, "for other images"),
        ({"augmentation": Augmentation(shift=5)}, ValueError, r"shift must be smaller than the image \(6 x 5\)"),
        ({"dtype": "int32"}, TypeError, "float32"),
        ({"dtype": None}, TypeError, "dtype must be one of float64, float32, .*, received None"),
        ({"device": "numpi"}, ValueError, "did you mean 'numpy'"),
    ],
    ids=[
        *("batch_size 0", "batch_size 2.5", "seed -1", "batch_size beyond the images", "channels of the mean"),
        *("size of the mean image", "shift", "dtype", "no dtype", "device"),
    ],
)
def test_bad_arguments_are_refused(dataset, bad, error, message):
    with pytest.raises(error, match=message):
        make_loader(dataset, **bad)


@pytest.mark.parametrize("bad", [{"epoch": -1}, {"start_batch": 8}, {"start_batch": -1}])
def test_bad_positions_are_refused(dataset, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        make_loader(dataset).epoch(**bad)  # this call raises, not the first `next` after it


def test_color_augmentation_of_images_that_are_not_gray_or_rgb_is_refused(dataset):
    with pytest.raises(ValueError, match="change images of 1 or 3 channels, received 2 channels"):
        make_loader(dataset, augmentation=Augmentation(saturation=0.4))


def test_a_loader_accepts_the_largest_values_of_its_settings():
    data = Dataset(np.zeros((6, 5, 4, 1), np.uint8), np.zeros(6, int), ["a"])
    options = {"normalization": Normalization([0], [1])}
    assert len(Loader(data, 6, drop_last=True, **options)) == 1
    assert Loader(data, 2, augmentation=Augmentation(shift=3), **options).augmentation.shift == 3
    with pytest.raises(ValueError, match=r"smaller than the image \(5 x 4\), received 4"):
        Loader(data, 2, augmentation=Augmentation(shift=4), **options)
    image = Normalization(np.zeros((5, 4, 1)), [1])
    assert len(list(Loader(data, 4, normalization=image).epoch())) == 2
    assert list(Loader(data, 4, **options).epoch(0, 2)) == []
