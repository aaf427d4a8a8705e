"""Philox against its published vectors, and the distributions drawn from it."""

import math

import numpy as np
import pytest

from gpuconv import ops, random
from gpuconv.random import AUGMENT, DATA, DROPOUT, INIT, SHUFFLE

ONES = 0xFFFFFFFF


def words(counter, seed):
    return " ".join(f"{int(word):08x}" for word in random.philox4x32(counter, seed=seed))


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((ONES, ONES, ONES, ONES), (ONES, ONES), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_gives_the_published_answers(counter, key, expected):
    """Random123's vectors for philox4x32-10."""
    assert words(counter, key[0] | key[1] << 32) == expected


def scalar_philox(counter, seed):
    """The paper's algorithm on Python integers, one block."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & ONES, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & ONES, p0 >> 32 ^ c3 ^ k1, p0 & ONES
        k0, k1 = (k0 + 0x9E3779B9) & ONES, (k1 + 0xBB67AE85) & ONES
    return [c0, c1, c2, c3]


@pytest.mark.parametrize("offset", [0, 5, 2**32 - 2, 2**40 + 7])
def test_bits_follow_the_documented_counter(offset):
    seed = 0x0123456789ABCDEF
    drawn = random.bits(15, seed=seed, stream=DROPOUT, substream=9, offset=offset)
    expected = []
    for block in range(offset, offset + 4):
        expected += scalar_philox((block & ONES, block >> 32, 3, 9), seed)
    assert drawn.dtype == np.uint32
    assert drawn.tolist() == expected[:15]


def test_streams_have_their_documented_numbers():
    assert [INIT, SHUFFLE, AUGMENT, DROPOUT, DATA] == [0, 1, 2, 3, 4]


def test_a_draw_from_an_offset_is_a_slice_of_the_stream():
    n = 4 * random._CHUNK + 9
    words = random.bits(n, seed=3, stream=INIT)
    part = random.bits(n - 4 * 1000, seed=3, stream=INIT, offset=1000)  # a block has 4 numbers
    np.testing.assert_array_equal(part, words[4000:])
    assert np.unique(words).size > 0.999 * n


def test_seed_stream_and_substream_each_change_the_bits():
    draws = {
        tuple(random.bits(4, seed=seed, stream=stream, substream=substream).tolist())
        for seed in (0, 1, 2**32, 2**64 - 1)
        for stream in (INIT, SHUFFLE)
        for substream in (0, 1, 2**32 - 1)
    }
    assert len(draws) == 4 * 2 * 3


def test_an_array_of_one_element_is_accepted_as_a_number():
    by_array = random.bits(5, seed=1, stream=INIT, offset=np.array([7]))
    np.testing.assert_array_equal(by_array, random.bits(5, seed=1, stream=INIT, offset=7))


def test_the_last_block_of_a_draw_is_within_the_stream():
    random.bits(4, seed=0, stream=INIT, offset=2**64 - 1)
    message = r"the last block \(offset \+ number of blocks - 1\) must be below 2\*\*64"
    with pytest.raises(ValueError, match=message):
        random.bits(8, seed=0, stream=INIT, offset=2**64 - 1)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"seed": -1}, ValueError),
        ({"seed": 2**64}, ValueError),
        ({"seed": 1.5}, TypeError),
        ({"seed": "1"}, TypeError),
        ({"stream": 2**32}, ValueError),
        ({"substream": -1}, ValueError),
        ({"offset": 2**64}, ValueError),
        ({"offset": 2**64 - 1}, ValueError),  # the second block would wrap around
        ({"n": -3}, ValueError),
    ],
)
def test_bad_scalars_are_refused(bad, error):
    arguments = {"n": 8, "seed": 0, "stream": INIT} | bad
    with pytest.raises(error, match="must be"):
        random.bits(arguments.pop("n"), **arguments)


@pytest.mark.parametrize(
    ("draw", "bad", "error", "message"),
    [
        (random.normal, {"std": -1}, ValueError, r"std must lie in \[0.0, inf\), received -1"),
        (random.normal, {"std": "wide"}, TypeError, "std must be a number, received 'wide'"),
        (random.normal, {"mean": math.nan}, ValueError, r"mean must lie in \(-inf, inf\), received nan"),
        (random.uniform, {"low": 2, "high": 1}, ValueError, "low must not exceed high, received 2.0 and 1.0"),
        (random.uniform, {"low": -1e308, "high": 1e308}, ValueError, "high - low must be finite"),
        (random.uniform, {"shape": (2, -1)}, ValueError, r"shape\[1\] must be at least 0, received -1"),
        (random.normal, {"shape": (2.0, 3)}, TypeError, r"shape\[0\] must be an integer, received 2.0"),
        (random.normal, {"shape": None}, TypeError, r"shape\[0\] must be an integer, received None"),
    ],
    ids=[
        *("negative-std", "text-as-std", "nan-as-mean", "low-above-high", "range-too-wide"),
        *("negative-size", "fraction-as-size", "no-shape"),
    ],
)
def test_impossible_parameters_of_a_distribution_are_refused(draw, bad, error, message):
    with pytest.raises(error, match=message):
        draw(**{"shape": 3, "seed": 0, "stream": INIT} | bad)


def test_draws_of_no_numbers_are_empty():
    assert random.bits(0, seed=0, stream=INIT).shape == (0,)
    assert random.normal((3, 0), seed=0, stream=INIT).shape == (3, 0)
    assert random.permutation(0, seed=0).shape == (0,)


# -- uniform ------------------------------------------------------------------------------------


def test_a_uniform_number_holds_exactly_the_upper_24_bits_of_its_word():
    u = random.uniform((7, 11), seed=5, stream=DROPOUT, substream=2)
    raw = random.bits(77, seed=5, stream=DROPOUT, substream=2).reshape(7, 11)
    assert u.dtype == np.float32
    np.testing.assert_array_equal(u.astype(np.float64) * 2**24, (raw >> 8).astype(np.float64))


def test_uniform_fills_its_range_evenly():
    u = random.uniform(200_000, low=-3, high=5, seed=1, stream=INIT, dtype="float64")
    assert u.min() >= -3
    assert u.max() < 5
    counts = np.histogram(u, bins=64, range=(-3, 5))[0]
    expected = u.size / 64
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert chi_square < 63 + 5 * np.sqrt(2 * 63)  # mean and deviation of chi-square with 63 degrees of freedom


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_draw_of_any_float_dtype_is_the_float64_draw_rounded(dtype):
    """The float64 draw is rounded to float32 first and then to a 16-bit dtype. In float16 this gives a few of 100,000
    numbers another value than direct rounding."""
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    exact = random.normal((1000, 100), seed=8, stream=INIT, std=0.3, dtype="float64")
    drawn = random.normal((1000, 100), seed=8, stream=INIT, std=0.3, dtype=dtype)
    assert drawn.dtype.name == dtype
    wider = exact if dtype == "float64" else exact.astype(np.float32)
    np.testing.assert_array_equal(drawn, wider.astype(drawn.dtype))


def test_dtypes_other_than_floats_are_refused():
    with pytest.raises(TypeError, match="float32"):
        random.uniform(3, seed=0, stream=INIT, dtype="int32")


# -- normal -------------------------------------------------------------------------------------


def test_normal_has_its_moments_and_tails():
    z = random.normal(400_000, mean=2, std=3, seed=4, stream=INIT, dtype="float64")
    z = (z - 2) / 3
    n = z.size
    # Each moment of n samples lies within 5 standard errors of its expected value.
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert abs((z**2).mean() - 1) < 5 * np.sqrt(2 / n)
    assert abs((z**3).mean()) < 5 * np.sqrt(15 / n)
    assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / n)
    assert 3.9 < np.abs(z).max() < 6.4


def test_normal_bits_are_pinned():
    """The same bits on every machine: a change here changes every stored run."""
    z = random.normal(8, seed=2026, stream=INIT, dtype="float64")
    assert [value.hex() for value in z.tolist()] == PINNED_NORMALS


PINNED_NORMALS = [
    "-0x1.6397a5171a8d6p-3",
    "0x1.cadf5afd9607ap-5",
    "0x1.0ffe620855a83p-1",
    "-0x1.119bba2f76d1fp-1",
    "0x1.22130584f465ep+1",
    "-0x1.8db6fa63a4c18p-2",
    "-0x1.40afb01aab2b3p-3",
    "0x1.d16ede776de0cp-1",
]


def test_the_random_ops_give_the_numbers_of_the_functions_uniform_and_normal():
    position = dict(seed=3, stream=2, substream=5, offset=7)
    for name, options in {"uniform": {"low": -2.0, "high": 5.0}, "normal": {"mean": 3.0, "std": 0.5}}.items():
        for chosen in (options | position, {"seed": 4, "stream": 0}):
            for dtype in ("float64", "float32"):
                y = np.full((3, 5), np.nan, dtype)
                assert getattr(ops, f"random_{name}")(y, **chosen) is y
                np.testing.assert_array_equal(y, getattr(random, name)((3, 5), dtype=dtype, **chosen))


# -- permutation --------------------------------------------------------------------------------


def test_permutation_is_a_bijection():
    for n in [*range(1, 201), 1437, 50_000, 65_536, 65_537]:
        order = random.permutation(n, seed=11, epoch=3)
        assert order.dtype == np.int64
        assert np.array_equal(np.sort(order), np.arange(n)), n


def test_the_op_fills_an_array_with_the_permutation():
    for chosen in ({"seed": 5, "epoch": 3, "stream": 2}, {"seed": 5}):
        order = np.zeros(9, np.int64)
        assert ops.random_permutation(order, **chosen) is order
        np.testing.assert_array_equal(order, random.permutation(9, **chosen))


def test_permutation_depends_on_seed_epoch_and_stream_and_nothing_else():
    chosen = [dict(seed=s, epoch=e, stream=t) for s in (0, 1, 2**63) for e in (0, 1) for t in (SHUFFLE, DATA)]
    orders = [random.permutation(100, **options) for options in chosen]
    assert len({tuple(order.tolist()) for order in orders}) == len(chosen)
    np.testing.assert_array_equal(orders, [random.permutation(100, **options) for options in chosen])
    np.testing.assert_array_equal(orders[0], random.permutation(100, seed=0))  # the defaults: epoch 0, SHUFFLE


@pytest.mark.slow
def test_every_element_takes_every_position_equally_often():
    n, epochs = 11, 800
    orders = np.array([random.permutation(n, seed=5, epoch=epoch) for epoch in range(epochs)])
    counts = np.array([np.bincount(orders[:, i], minlength=n) for i in range(n)])
    expected = epochs / n
    chi_square = ((counts - expected) ** 2 / expected).sum()
    degrees = (n - 1) ** 2
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)


def test_orders_are_uncorrelated_between_elements_and_epochs():
    """An order correlates with the identity, with its own shifts and with the next epoch's order only by chance."""
    n = 20_011
    first, second = (random.permutation(n, seed=7, epoch=epoch) for epoch in (0, 1))
    pairs = [(first, np.arange(n)), (first[1:], first[:-1]), (first[n // 2 :], first[: n - n // 2]), (first, second)]
    for a, b in pairs:
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(n)
    for step in (1, 2, 141, 142):  # the elements are laid out in 142 rows of 141
        difference = (first[step:] - first[:-step]) % n
        counts = np.histogram(difference, bins=50, range=(0, n))[0]
        expected = difference.size / 50
        assert ((counts - expected) ** 2 / expected).sum() < 49 + 5 * np.sqrt(2 * 49)
    assert (first == np.arange(n)).sum() < 10  # about one fixed point


@pytest.mark.parametrize("bad", [{"n": -1}, {"epoch": -1}, {"epoch": 2**32}, {"seed": 2**64}])
def test_permutation_arguments_are_checked(bad):
    arguments = {"n": 5, "seed": 0, "epoch": 0} | bad
    with pytest.raises(ValueError, match="must be"):
        random.permutation(arguments.pop("n"), **arguments)
