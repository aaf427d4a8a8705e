"""load_batch against a pixel-by-pixel version, and its random draws against their distributions."""

import numpy as np
import pytest

from gpuconv import ops, random

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")

M, H, W, C = 23, 7, 5, 3
MEAN = np.array([100.5, 120.25, 90.125], np.float32)
STD = np.array([50.0, 61.0, 70.0], np.float32)


@pytest.fixture
def images():
    return random.bits(M * H * W * C, seed=1, stream=random.DATA).astype(np.uint8).reshape(M, H, W, C)


@pytest.fixture
def labels():
    return np.arange(M) * 7 % 10


def pixel_by_pixel(images, indices, mean, std, *, flip=False, shift=0, border="zero", cutout=0, seed=0, offset=0):
    mean, std = np.broadcast_to(mean, (H, W, C)), np.broadcast_to(std, (H, W, C))
    x = np.zeros((len(indices), H, W, C), np.float32)
    for n, index in enumerate(indices):
        words = random.bits(4, seed=seed, stream=random.AUGMENT, offset=offset + n).tolist()
        image = images[index]
        flipped = flip and words[0] >> 31
        if flip == "alternating":
            own = random.bits(4, seed=seed, stream=random.AUGMENT, substream=1, offset=int(index))[0] >> 31
            flipped = own != (offset + n) // M % 2
        if flipped:
            image = image[:, ::-1]
        if border == "reflect":
            image = np.pad(image, [(H - 1, H - 1), (W - 1, W - 1), (0, 0)], mode="reflect")
        dy, dx = ((word * (2 * shift + 1) >> 32) - shift for word in words[1:3])
        top = ((words[3] >> 16) * H >> 16) - cutout // 2
        left = ((words[3] & 0xFFFF) * W >> 16) - cutout // 2
        for h in range(H):
            for w in range(W):
                row, column = h + dy, w + dx
                inside = border == "reflect" or (0 <= row < H and 0 <= column < W)
                if border == "reflect":
                    row, column = row + H - 1, column + W - 1
                cut = top <= h < top + cutout and left <= w < left + cutout
                if inside and not cut:
                    for c in range(C):
                        pixel = np.float32(image[row, column, c])
                        x[n, h, w, c] = (pixel - mean[h, w, c]) * (np.float32(1) / std[h, w, c])
    return x


@pytest.mark.parametrize(
    "augment",
    [
        {},
        {"flip": True},
        {"shift": 2},
        {"shift": 4},
        {"cutout": 1},
        {"cutout": 4},
        {"cutout": 100},
        {"flip": True, "shift": 3, "cutout": 3},
        {"flip": "alternating"},
        {"flip": "alternating", "shift": 4, "border": "reflect", "cutout": 2},
    ],
)
@pytest.mark.parametrize("kind", ["channel", "image"])
@pytest.mark.parametrize("offset", [2**32 - 4, M - 5], ids=["beyond 32 bits", "into the second epoch"])
def test_bits_equal_the_pixel_by_pixel_version(images, labels, augment, kind, offset):
    indices = np.array([3, 22, 0, 3, 14, 9, 9, 1, 20, 5, 6])
    mean, std = MEAN, STD
    if kind == "image":
        mean = images.mean(axis=0, dtype=np.float32)
        std = (40 + np.arange(H * W * C, dtype=np.float32)).reshape(H, W, C)
    seed = 2**63 + 5
    x, y = ops.load_batch(images, labels, indices, mean=mean, std=std, seed=seed, offset=offset, **augment)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, pixel_by_pixel(images, indices, mean, std, seed=seed, offset=offset, **augment))
    np.testing.assert_array_equal(y, labels[indices])


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_other_dtypes_are_the_float32_result_rounded(images, labels, dtype):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    indices = np.arange(6)
    options = {"mean": MEAN, "std": STD, "flip": True, "shift": 1, "seed": 3}
    exact, _ = ops.load_batch(images, labels, indices, **options)
    x, _ = ops.load_batch(images, labels, indices, dtype=dtype, **options)
    assert x.dtype.name == dtype
    np.testing.assert_array_equal(x, exact.astype(x.dtype))


def test_out_is_written_and_returned(images, labels):
    indices = np.array([4, 1])
    out = np.full((2, H, W, C), np.nan, np.float32)
    x, _ = ops.load_batch(images, labels, indices, mean=MEAN, std=STD, shift=4, out=out)
    assert x is out
    np.testing.assert_array_equal(out, pixel_by_pixel(images, indices, MEAN, STD, shift=4))


def test_a_sample_depends_on_its_position_not_on_its_batch(images, labels):
    indices = np.arange(12)
    options = {"mean": MEAN, "std": STD, "flip": True, "shift": 2, "cutout": 2, "seed": 9}
    full_batch, _ = ops.load_batch(images, labels, indices, offset=100, **options)
    parts = [ops.load_batch(images, labels, indices[i : i + 5], offset=100 + i, **options)[0] for i in (0, 5, 10)]
    np.testing.assert_array_equal(full_batch, np.concatenate(parts))


def test_an_offset_may_be_an_array_of_one_element(images, labels):
    indices = np.arange(5)
    options = {"mean": MEAN, "std": STD, "shift": 2}
    by_array, _ = ops.load_batch(images, labels, indices, offset=np.array([77]), **options)
    np.testing.assert_array_equal(by_array, ops.load_batch(images, labels, indices, offset=77, **options)[0])


def test_alternating_flips_show_every_image_both_ways(images, labels):
    """Each image is flipped in every other epoch, whatever the order of the images. In the first epoch, about half of
    the images are flipped."""

    def epoch(number):
        order = random.permutation(M, seed=4, epoch=number)
        x, _ = ops.load_batch(images, labels, order, mean=MEAN, std=STD, flip="alternating", offset=number * M, seed=8)
        return x[np.argsort(order)]

    plain, _ = ops.load_batch(images, labels, np.arange(M), mean=MEAN, std=STD)
    first, second = epoch(0), epoch(1)
    flipped = [not np.array_equal(one, other) for one, other in zip(first, plain)]
    assert 0.25 < np.mean(flipped) < 0.75
    np.testing.assert_array_equal(second, first[:, :, ::-1])
    np.testing.assert_array_equal(epoch(2), first)


def test_draws_are_uniform():
    """One bright pixel, left of the middle and never shifted out, shows which flip and shift an image got."""
    n, shift = 6000, 2
    image = np.zeros((1, 11, 13, 1), np.uint8)
    image[0, 5, 2, 0] = 255
    x, _ = ops.load_batch(
        image,
        np.zeros(1, np.int64),
        np.zeros(n, np.int64),
        mean=np.zeros(1, np.float32),
        std=np.ones(1, np.float32),
        flip=True,
        shift=shift,
    )
    _, rows, columns, _ = np.nonzero(x)
    flipped = columns > 6  # the pixel stands at column 2 or, flipped, 10; a shift moves it by at most 2
    dy = 5 - rows
    dx = np.where(flipped, 10, 2) - columns
    counts = np.zeros((2, 5, 5))
    np.add.at(counts, (flipped.astype(int), dy + shift, dx + shift), 1)
    expected = n / counts.size
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert counts.sum() == n
    assert chi_square < 49 + 5 * np.sqrt(2 * 49)


def test_cutout_blanks_its_square():
    image = np.full((1, 16, 16, 1), 200, np.uint8)
    n = 3000
    x, _ = ops.load_batch(
        image,
        np.zeros(1, np.int64),
        np.zeros(n, np.int64),
        mean=np.zeros(1, np.float32),
        std=np.ones(1, np.float32),
        cutout=4,
    )
    covered = (x == 0).sum(axis=(1, 2, 3))
    assert covered.max() == 16  # a whole square
    assert covered.min() == 4  # one clipped in a corner: two rows of two
    interior = (x == 0)[:, 3:13, 3:13, 0].mean(axis=0)  # 16 of the 256 possible squares cover an inner pixel
    assert abs(interior - 1 / 16).max() < 5 * np.sqrt(1 / 16 / n)


def test_an_empty_batch_has_its_shape(images, labels):
    x, y = ops.load_batch(images, labels, np.zeros(0, np.int64), mean=MEAN, std=STD, flip=True, shift=1)
    assert x.shape == (0, H, W, C)
    assert y.shape == (0,)
