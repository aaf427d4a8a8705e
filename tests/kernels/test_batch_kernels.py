"""The kernels that load and mix batches, against the oracle."""

from types import SimpleNamespace

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.ops import batch as launchers
from gpuconv.backends.cuda.ops.batch import load_batch, mix_batch
from gpuconv.backends.cuda.runtime.grids import THREADS
from gpuconv.batch_augmentation import batch_augmentation
from gpuconv.dtypes import FLOAT_NAMES, as_dtype
from tests.kernels.agreement import ORACLE

AUGMENTATIONS = {
    "none": {},
    "flip": dict(flip=True),
    "shift": dict(shift=2),
    "cutout": dict(cutout=3),
    "flip, shift and cutout": dict(flip=True, shift=3, cutout=4),
    "alternating": dict(flip="alternating", shift=3, border="reflect"),
    "crop": dict(resized_crop=0.08),
    "colors": dict(brightness=0.4, contrast=1.5, saturation=0.7),
    "hue": dict(hue=0.5),
    "all colors": dict(brightness=0.4, contrast=0.5, saturation=0.7, hue=0.1),
    "crop and colors": dict(flip=True, shift=2, cutout=3, resized_crop=0.5, brightness=0.1, contrast=0.4),
}


def batch(device, rng, size, shape, pixelwise=False, **options):
    """A batch of `size` random images and labels, loaded on a device from a data set of seven."""
    images = rng.integers(0, 256, (7, *shape), np.uint8)
    labels, indices = rng.integers(0, 10, 7), rng.integers(0, 7, size)
    mean = rng.uniform(0, 255, shape if pixelwise else shape[-1:]).astype(np.float32)
    std = rng.uniform(1, 80, shape if pixelwise else shape[-1:]).astype(np.float32)
    arrays = [asarray(a, device) for a in (images, labels, indices)]
    statistics = dict(mean=asarray(mean, device), std=asarray(std, device))
    return [to_numpy(a) for a in ops.load_batch(*arrays, **statistics, **options)]


@pytest.mark.parametrize("augmentation", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize("shape", [(8, 8, 1), (11, 7, 3), (40, 40, 3)])
def test_batches_have_the_oracles_bits(device, shape, dtype, augmentation):
    options = augmentation | dict(dtype=dtype, seed=5, offset=123, pixelwise=shape[2] == 3)
    x, labels = batch(device, np.random.default_rng(1), 9, shape, **options)
    x_expected, labels_expected = batch(ORACLE, np.random.default_rng(1), 9, shape, **options)
    np.testing.assert_array_equal(x.astype(np.float64), x_expected.astype(np.float64))
    np.testing.assert_array_equal(labels, labels_expected)
    assert x.dtype == as_dtype(dtype)


def test_an_empty_batch_gives_empty_arrays(device, rng):
    x, labels = batch(device, rng, 0, (8, 8, 3))
    assert x.shape == (0, 8, 8, 3)
    assert labels.shape == (0,)


def test_an_image_too_large_for_32_bit_indices_is_refused():
    images = SimpleNamespace(shape=(1, 2**16, 2**14, 2))
    indices = mean = std = np.zeros(1)
    augmentation = batch_augmentation(False, 0, "zero", 0, 0, (0, 0, 0))
    options = dict(seed=0, offset=0, start=0, count=1, dtype="float32", out=None)
    with pytest.raises(ValueError, match=f"at most {2**31 - 2**27 - 1} numbers, received 65536 x 16384 x 2"):
        load_batch(images, None, indices, mean, std, augmentation, **options)


def test_loop_indices_fit_into_32_bits_even_past_the_end_of_the_largest_image():
    largest = launchers._MOST_ELEMENTS - 1
    assert largest - 1 + launchers._blocks(1, 1, largest) * THREADS < 2**31


def test_an_index_outside_the_data_set_gives_nan(device, rng):
    images, labels = rng.integers(0, 256, (4, 3, 3, 1), np.uint8), np.arange(4)
    indices = np.array([1, 4, -1])
    ones = asarray(np.ones(1, np.float32), device)
    arrays = [asarray(a, device) for a in (images, labels, indices)]
    with emulator.device_only():  # a host that can read the indices refuses them
        batch = ops.load_batch(*arrays, mean=ones, std=ones)
    x, picked = map(to_numpy, batch)
    assert np.isnan(x).all(axis=(1, 2, 3)).tolist() == [False, True, True]
    assert picked.tolist() == [1, -1, -1]


def test_the_position_may_come_from_device_memory(device):
    """The step counters hold the index of a batch's first sample. Past the end of the epoch's order, images are NaN and
    labels -1."""
    rng = np.random.default_rng(2)
    images, labels, order = rng.integers(0, 256, (9, 4, 5, 3), np.uint8), np.arange(9), rng.permutation(9)
    ones = np.ones(3, np.float32)
    host = dict(mean=ones, std=ones, seed=5, shift=1, flip=True)
    on_device = host | dict(mean=asarray(ones, device), std=asarray(ones, device))
    arrays = [asarray(a, device) for a in (images, labels, order)]
    counters, lr = asarray(np.array([0, 0, 4, 40]), device), asarray(np.zeros(1, np.float32), device)
    rates = asarray(np.array([[0.5], [0.25]], np.float32), device)
    for step, (start, rate) in enumerate(((4, 0.5), (7, 0.25), (10, np.nan))):
        position = dict(start=counters[2:3], offset=counters[3:4], count=3)
        with emulator.device_only():
            batch = ops.load_batch(*arrays, **on_device, **position)
        x, picked = map(to_numpy, batch)
        inside = max(0, min(3, 9 - start))
        expected = ops.load_batch(
            images, labels, order, **host, start=min(start, 9), count=inside, offset=40 + 3 * step
        )
        np.testing.assert_array_equal(x[:inside], expected[0])
        np.testing.assert_array_equal(picked, [*expected[1], *[-1] * (3 - inside)])
        assert np.isnan(x[inside:]).all()
        ops.advance_step_counter(counters, lr, rates, batch_size=3)
        np.testing.assert_array_equal(to_numpy(lr), np.float32([rate]))
    np.testing.assert_array_equal(to_numpy(counters), [3, 3, 13, 49])


@pytest.mark.parametrize("cut", [False, True], ids=["mixup", "cutmix"])
@pytest.mark.parametrize("dtype", FLOAT_NAMES)
@pytest.mark.parametrize("shape", [(1, 3, 2, 1), (6, 11, 7, 3), (3, 40, 40, 3)])
def test_mixed_batches_have_the_oracles_bits(device, rng, shape, dtype, cut):
    """An image of the last shape has more elements than one thread block processes."""
    x = rng.standard_normal(shape).astype(as_dtype(dtype))
    labels, table = rng.integers(0, 300, shape[0]), rng.random(37).astype(np.float32)
    options = dict(classes=300, cut=cut, seed=5)
    for offset in (0, 7, 2**33 + 1):
        expected = ops.mix_batch(x, labels, table, **options, offset=offset)
        arrays = [asarray(a, device) for a in (x, labels, table)]
        out = asarray(np.zeros_like(x), device)
        for position in (offset, asarray(np.array([offset]), device)):
            mixed = ops.mix_batch(*arrays, **options, offset=position, out=out)
            assert mixed[0] is out
            for a, b in zip(mixed, expected, strict=True):
                np.testing.assert_array_equal(to_numpy(a), b)


def test_a_label_outside_the_classes_gives_nan_targets(device, rng):
    x, table = rng.standard_normal((4, 2, 2, 1)).astype(np.float32), np.full(1, 0.5, np.float32)
    arrays = [asarray(a, device) for a in (x, np.array([0, 2, 1, 1]), table)]
    with emulator.device_only():
        _, targets = ops.mix_batch(*arrays, classes=2)
    assert np.isnan(to_numpy(targets)).all(axis=1).tolist() == [False, True, True, False]


def test_a_mixed_image_too_large_for_32_bit_indices_is_refused():
    x, table = SimpleNamespace(shape=(1, 2**16, 2**14, 2)), SimpleNamespace(shape=(1,))
    with pytest.raises(ValueError, match=f"at most {2**31 - 2**27 - 1} numbers, received 65536 x 16384 x 2"):
        mix_batch(x, None, table, classes=2, cut=False, seed=0, offset=0, out=None)
