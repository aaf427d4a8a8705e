"""mix_batch by hand, and its draws against their distributions."""

import math

import numpy as np
import pytest

from gpuconv import ops, random

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")


def table(*factors):
    return np.array(factors, np.float32)


def test_mixup_gives_the_values_computed_by_hand():
    x = np.array([8, 16, 4], np.float32).reshape(3, 1, 1, 1)
    mixed, targets = ops.mix_batch(x, np.array([1, 0, 1]), table(0.75), classes=3)
    assert mixed.ravel().tolist() == [7, 14, 7]  # 6 + 1, 12 + 2, 3 + 4
    assert targets.tolist() == [[0, 1, 0], [0.75, 0.25, 0], [0.25, 0.75, 0]]
    assert targets.dtype == np.float32


@pytest.mark.parametrize("cut", [False, True], ids=["mixup", "cutmix"])
def test_a_factor_of_1_keeps_the_images_and_0_takes_the_others(cut):
    """For cutmix the other image may fill only a part, because the rectangle may be clipped at the border."""
    x, labels = np.arange(24, dtype=np.float32).reshape(2, 3, 4, 1), np.array([0, 1])
    mixed, targets = ops.mix_batch(x, labels, table(1), classes=2, cut=cut)
    np.testing.assert_array_equal(mixed, x)
    assert targets.tolist() == [[1, 0], [0, 1]]
    mixed, targets = ops.mix_batch(x, labels, table(0), classes=2, cut=cut)
    others = (mixed == x[::-1]).mean(dtype=np.float32)
    assert others == 1 if not cut else others > 0.1
    assert targets.tolist() == [[1 - others, others], [others, 1 - others]]


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_each_operation_is_rounded(dtype):
    x = random.uniform((2, 3, 5, 2), seed=1, stream=random.DATA, dtype=dtype)
    mixed, _ = ops.mix_batch(x, np.array([0, 1]), table(0.3), classes=2)
    wide, factor = x.astype(np.float64 if dtype == "float64" else np.float32), np.float32(0.3)
    expected = (factor * wide + (np.float32(1) - factor) * wide[::-1]).astype(x.dtype)
    assert mixed.dtype == x.dtype
    np.testing.assert_array_equal(mixed, expected)


def rectangle(height, width, factor, offset):
    """The rows and columns of the rectangle, and the target at the image's own label."""
    x = np.zeros((2, height, width, 1), np.float32)
    x[1] = 1
    mixed, targets = ops.mix_batch(x, np.array([0, 1]), table(factor), classes=2, cut=True, offset=offset)
    np.testing.assert_array_equal(mixed[1], 1 - mixed[0])
    inside = mixed[0, :, :, 0] == 1
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    np.testing.assert_array_equal(inside, inside.any(axis=1)[:, None] & inside.any(axis=0))
    return rows, columns, targets[0, 0]


def test_rectangles_follow_the_formula_of_torchvision():
    """As in torchvision.transforms.v2.CutMix, a rectangle is clipped at the border before its area is computed."""
    height, width, factor, unclipped = 24, 40, 0.6, 0
    words = random.bits(4 * 60, seed=0, stream=random.AUGMENT, substream=3).reshape(60, 4).astype(int)
    for offset, (_, down, right, _) in enumerate(words):
        rows, columns, own = rectangle(height, width, factor, offset)
        row, column, share = down * height >> 32, right * width >> 32, 0.5 * math.sqrt(1 - factor)
        half_height, half_width = int(share * height), int(share * width)
        assert [rows[0], rows[-1] + 1] == [max(0, row - half_height), min(height, row + half_height)]
        assert [columns[0], columns[-1] + 1] == [max(0, column - half_width), min(width, column + half_width)]
        area = len(rows) * len(columns)
        assert own == np.float32(1) - np.float32(area) / np.float32(height * width)
        unclipped += area == 4 * half_height * half_width
    assert 0 < unclipped < 60


@pytest.mark.parametrize("count", [1, 2, 1000], ids="of {}".format)
def test_the_entries_of_the_table_are_equally_likely(count):
    x, draws = np.array([0, 1], np.float32).reshape(2, 1, 1, 1), 400
    factors = np.arange(count, dtype=np.float32) / 1024
    numbers = [
        ops.mix_batch(x, np.array([0, 1]), factors, classes=2, offset=i)[0][1].item() * 1024 for i in range(draws)
    ]
    assert {*numbers} <= {*range(count)}
    deviation = math.sqrt((count**2 - 1) / 12)
    assert abs(np.mean(numbers) - (count - 1) / 2) <= 4 * deviation / math.sqrt(draws)
    assert abs(np.std(numbers) - deviation) <= 4 * deviation / math.sqrt(draws)


def test_a_draw_depends_on_the_seed_and_the_offset_alone():
    x, labels = np.eye(4, dtype=np.float32).reshape(4, 2, 2, 1), np.arange(4)
    factors = np.linspace(0, 1, 64, dtype=np.float32)

    def draw(seed, offset, size=4):
        return ops.mix_batch(x[:size], labels[:size], factors, classes=4, seed=seed, offset=offset)[1][0, 0]

    assert draw(1, 2**40) == draw(1, np.array([2**40])) == draw(1, 2**40, size=2)
    assert len({draw(seed, offset) for seed in range(4) for offset in (0, 1, 2**32, 2**40)}) > 8


@pytest.mark.parametrize("cut", [False, True], ids=["mixup", "cutmix"])
def test_one_image_is_mixed_with_itself_and_an_empty_batch_is_empty(cut):
    x = np.full((1, 3, 3, 1), 0.5, np.float32)
    mixed, targets = ops.mix_batch(x, np.array([1]), table(0.25), classes=2, cut=cut)
    np.testing.assert_array_equal(mixed, x)
    assert targets.tolist() == [[0, 1]]
    mixed, targets = ops.mix_batch(x[:0], np.zeros(0, np.int64), table(0.25), classes=2, cut=cut)
    assert (mixed.shape, targets.shape) == ((0, 3, 3, 1), (0, 2))
