"""Crops and colors of load_batch against PyTorch's formulas, and their draws against their distributions."""

import colorsys
import math

import numpy as np
import pytest

from gpuconv import ops, random

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")


def load(images, count, **options):
    """Each image loaded `count` times and not normalized: its values are from 0 to 255."""
    c = images.shape[3]
    indices = np.repeat(np.arange(len(images)), count)
    statistics = dict(mean=np.zeros(c, np.float32), std=np.ones(c, np.float32))
    return ops.load_batch(images, np.arange(len(images)), indices, **statistics, **options)[0]


@pytest.fixture
def image():
    return random.bits(12 * 9 * 3, seed=1, stream=random.DATA).astype(np.uint8).reshape(1, 12, 9, 3)


def crop_positions(height, width, count, **options):
    """(top, left, rows, columns) of crops: the pixels of the cropped image hold their row and their column."""
    ramps = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1).astype(np.uint8)
    x = load(ramps[None], count, **options)
    first, last = x[:, 0, 0], x[:, -1, -1]  # the outermost outputs have the crop's outermost pixels
    return np.concatenate([first, last - first + 1], axis=1).T.astype(int)


# --- crops -------------------------------------------------------------------------------------


def test_a_crop_gives_the_values_computed_by_hand():
    """A row of four pixels is cropped to one or two pixels and stretched to four. Between two pixels the result is
    interpolated at quarters of their distance."""
    row = np.array([[[[10], [20], [30], [41]]]], np.uint8)
    crops = {tuple(crop) for crop in load(row, 400, resized_crop=0.08)[:, 0, :, 0].tolist()}
    pairs = {(a, 0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b, b) for a, b in ((10, 20), (20, 30), (30, 41))}
    single = {(a,) * 4 for a in (10, 20, 30, 41)}
    assert crops <= pairs | single
    assert crops & pairs
    assert crops & single


def test_a_crop_has_pytorchs_pixels(image):
    """Positions are rounded down to 1/256 of a pixel, so a value is off by up to 255 / 256 for each axis."""
    torch = pytest.importorskip("torch")
    options = dict(resized_crop=0.2, seed=2, offset=2**40)
    for place, crop in zip(crop_positions(12, 9, 50, **options).T, load(image, 50, **options), strict=True):
        top, left, rows, columns = map(int, place)
        part = torch.tensor(image[:, top : top + rows, left : left + columns]).permute(0, 3, 1, 2).double()
        expected = torch.nn.functional.interpolate(part, size=(12, 9), mode="bilinear", align_corners=False)
        np.testing.assert_allclose(crop, expected[0].permute(1, 2, 0), atol=2 * 255 / 256, rtol=0)


def test_a_crop_of_the_whole_image_changes_nothing(image):
    square = image[:, :9]
    np.testing.assert_array_equal(load(square, 5, resized_crop=1), np.repeat(square, 5, axis=0))


def pytorchs_sides(height, width, smallest, rng):
    """torchvision's RandomResizedCrop.get_params."""
    for _ in range(10):
        area = height * width * rng.uniform(smallest, 1)
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            return rows, columns
    if width / height < 3 / 4:
        return round(width / (3 / 4)), width
    return (height, round(height * 4 / 3)) if width / height > 4 / 3 else (height, width)


@pytest.fixture
def count(request):
    """The number of draws. The oracle draws one by one, so it gets fewer. Its bits are those of the fast code."""
    return 100 if request.node.callspec.params["oracle_and_numpy"] == "oracle" else 1000


@pytest.mark.parametrize(("height", "width", "smallest"), [(30, 30, 0.08), (30, 30, 0.9), (20, 50, 0.3), (50, 11, 0.9)])
def test_crops_are_distributed_as_in_pytorch(height, width, smallest, count):
    rng = np.random.default_rng(3)
    top, left, rows, columns = crop_positions(height, width, count, resized_crop=smallest)
    expected = np.array([pytorchs_sides(height, width, smallest, rng) for _ in range(count)]).T
    for measure in (lambda r, c: r * c, lambda r, c: np.log(r / c), lambda r, c: r):
        drawn, theirs = measure(rows, columns), measure(*expected)
        error = np.hypot(drawn.std(), theirs.std()) / math.sqrt(count)
        assert abs(drawn.mean() - theirs.mean()) <= 4 * error + 1e-12
        assert abs(drawn.std() - theirs.std()) <= 4 * error + 1e-12
    for start, length, size in ((top, rows, height), (left, columns, width)):
        free = size - length
        assert (start >= 0).all()
        assert (start <= free).all()
        deviation = math.sqrt((free * (free + 2)).sum() / 12)  # of a sum of uniform numbers from 0 to `free`
        central = len(free) / 2 if height > width else 0  # all crops of 50 x 11 are centered, rounded down
        assert abs(start.sum() - free.sum() / 2) <= 4 * deviation + central


# --- colors -----------------------------------------------------------------------------------


def factors(strengths, count, seed, offset):
    """The factors f that the docstring of load_batch defines, (count, 3), in float64."""
    words = random.bits(4 * count, seed=seed, stream=random.AUGMENT, substream=2, offset=offset).reshape(count, 4)
    low = np.maximum(0, 1 - np.array(strengths))
    return low + (1 + np.array(strengths) - low) * (words[:, :3] >> 8) / 2**24


@pytest.mark.parametrize(
    "strengths",
    [(0.4, 0, 0), (0, 0.4, 0), (0, 0, 0.4), (2.5, 1.5, 3)],
    ids=["brightness", "contrast", "saturation", "all"],
)
def test_colors_are_pytorchs_color_jitter(image, strengths):
    """The expected pixels are those of torchvision's adjust_brightness, adjust_contrast and adjust_saturation, for
    floats from 0 to 1."""
    options = dict(zip(("brightness", "contrast", "saturation"), strengths))
    jittered = load(image, 20, **options, seed=7, offset=2**33)

    def blend(one, other, factor):
        return (factor * one + (1 - factor) * other).clip(0, 1)

    def gray(pixels):
        return (pixels @ [0.2989, 0.587, 0.114])[..., None]

    for x, (brightness, contrast, saturation) in zip(jittered, factors(strengths, 20, 7, 2**33), strict=True):
        expected = blend(image[0] / 255, 0, brightness)
        expected = blend(expected, gray(expected).mean(), contrast)
        expected = blend(expected, gray(expected), saturation)
        np.testing.assert_allclose(x, 255 * expected, atol=255 * 1e-6)


@pytest.mark.parametrize("saturation", [0, 0.4])
def test_hue_is_that_of_hsv(saturation):
    """Python's colorsys turns the hue of the expected pixels, in the same way as torchvision's adjust_hue."""
    rng = np.random.default_rng(4)
    image = rng.integers(0, 256, (1, 6, 7, 3)).astype(np.uint8)
    image[0, 0] = [[0, 0, 0], [255, 255, 255], [9, 9, 9], [255, 0, 0], [7, 7, 200], [7, 200, 200], [200, 7, 200]]
    words = random.bits(80, seed=7, stream=random.AUGMENT, substream=2, offset=0).reshape(20, 4)[:, 3]
    turns = 0.5 * (2 * (words >> 8) / 2**24 - 1)
    assert (turns.min() < -0.3) & (turns.max() > 0.3)
    before = load(image, 20, saturation=saturation, seed=7)
    for turned, plain, turn in zip(load(image, 20, saturation=saturation, hue=0.5, seed=7), before, turns, strict=True):
        for pixel, was in zip(turned.reshape(-1, 3), plain.reshape(-1, 3).astype(float) / 255):
            hue, rest, value = colorsys.rgb_to_hsv(*was)
            expected = colorsys.hsv_to_rgb((hue + turn) % 1, rest, value)
            np.testing.assert_allclose(pixel, 255 * np.array(expected), atol=255 * 4e-6)


def test_an_image_of_one_channel_has_no_hue():
    image = np.arange(12, dtype=np.uint8).reshape(1, 3, 4, 1)
    np.testing.assert_array_equal(load(image, 5, hue=0.5), load(image, 5))


def test_contrast_of_a_gray_image_gives_the_values_computed_by_hand():
    """A factor from 0 to 2 moves the pixels 10 and 30 by the same amount around their mean 20."""
    image = np.array([10, 30], np.uint8).reshape(1, 1, 2, 1)
    low, high = load(image, 50, contrast=1)[:, 0, :, 0].T
    np.testing.assert_allclose(low + high, 40, rtol=1e-6)
    np.testing.assert_allclose(high, 20 + 10 * factors((0, 1, 0), 50, 0, 0)[:, 1], rtol=1e-6)


@pytest.mark.parametrize(("strength", "low", "high"), [(0.4, 0.6, 1.4), (1.5, 0, 2.5)])
def test_factors_are_uniform(strength, low, high, count):
    image = np.full((1, 1, 1, 1), 100, np.uint8)
    drawn = np.sort(load(image, count, brightness=strength).ravel() / 100)
    assert abs(drawn - np.linspace(low, high, count)).max() < 2 * (high - low) / math.sqrt(count)  # Kolmogorov-Smirnov


def test_a_sample_depends_on_its_position_not_on_its_batch(image):
    images = np.concatenate([image, 255 - image])
    options = dict(resized_crop=0.2, brightness=0.4, contrast=0.4, saturation=0.4, flip=True, shift=2, cutout=2, seed=9)
    statistics = dict(mean=np.full(3, 100, np.float32), std=np.full(3, 60, np.float32))
    arrays, indices = (images, np.arange(2)), np.arange(12) % 2
    full_batch, _ = ops.load_batch(*arrays, indices, offset=100, **statistics, **options)
    parts = [
        ops.load_batch(*arrays, indices[i : i + 5], offset=100 + i, **statistics, **options)[0] for i in (0, 5, 10)
    ]
    np.testing.assert_array_equal(full_batch, np.concatenate(parts))
    assert len(np.unique(full_batch[::2].reshape(6, -1), axis=0)) == 6
