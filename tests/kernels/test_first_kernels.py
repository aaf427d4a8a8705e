"""First layers: patches of every shape, every finish, which problems get them, and that the patch fits its memory."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from gpuconv import algorithms, asarray, ops, to_numpy
from gpuconv.algorithms import FIRST_PIXELS, first_bytes
from gpuconv.backends.cuda import conv, emulator, gemm
from gpuconv.cases import ConvCase
from gpuconv.dtypes import as_dtype
from gpuconv.layers import Conv2D, Flatten, Input, Linear, ReLU, Sequential
from gpuconv.profiling.launches import recorded
from gpuconv.verify.oracle import expect
from tests.kernels.agreement import assert_same_bits, on_device
from tests.tolerance import assert_within

FIRST = "first-256x64"
ARITHMETICS = ("float32", "tf32", "float16", "bfloat16")
arithmetics = pytest.mark.parametrize("arithmetic", ARITHMETICS)
WHOLE = ConvCase(2, 9, 16, 3, 72, (3, 3), padding=((1, 1), (1, 1)))  # lines of 16-byte chunks; two tiles of filters
UNEVEN = ConvCase(2, 19, 17, 3, 13, (4, 3), (3, 2), ((2, 1), (0, 3)), (2, 3))
CASES = {
    "whole chunks": WHOLE,
    "uneven": UNEVEN,
    "large filters": ConvCase(1, 29, 32, 3, 40, (7, 7), (2, 2), ((3, 3), (3, 3))),
    "images within a tile": ConvCase(45, 3, 3, 2, 5, (2, 2)),
    "images larger than a tile": ConvCase(2, 23, 27, 4, 8, (3, 2), padding=((0, 1), (1, 0))),
    "one channel": ConvCase(3, 11, 9, 1, 8, (5, 5)),
    "one pixel": ConvCase(1, 1, 1, 3, 3, (3, 3), padding=((1, 1), (1, 1))),
    "more padding than filter": ConvCase(2, 4, 5, 3, 10, (2, 3), padding=((3, 2), (11, 6))),
    "cut windows": replace(UNEVEN, fit="cover"),
    "an empty batch": replace(WHOLE, n=0),
}


def arguments(case: ConvCase, arithmetic: str):
    x, w, bias, _ = case.arrays(as_dtype("float32" if arithmetic == "tf32" else arithmetic))
    return [x, w, bias], case.options | dict(tf32=arithmetic == "tf32", algo=FIRST)


def assert_right(device: str, case: ConvCase, arithmetic: str, op: str = "conv2d", **more):
    arrays, options = arguments(case, arithmetic)
    wanted = expect(op, arrays, options | more)
    with recorded() as launches:
        found = on_device(op, device, *arrays, **options | more)
    assert case.n == 0 or [launch.kernel.name for launch in launches] == ["conv2d_fprop_first"]
    for want, result in zip(wanted, found if isinstance(found, tuple) else (found,)):
        assert_within(result, want.value, want.bound, f"{op} {case} {arithmetic}")


@arithmetics
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_shape(device, case, arithmetic):
    assert_right(device, case, arithmetic, activation="silu")


@pytest.fixture
def one_multiprocessor(monkeypatch):
    """Two blocks, or one for each tile of filters, have all tiles."""
    monkeypatch.setattr(gemm, "_MULTIPROCESSORS", 1)
    gemm.plan.cache_clear()
    yield
    gemm.plan.cache_clear()


SEVERAL_TILES = replace(WHOLE, n=8), replace(CASES["images larger than a tile"], k=150), replace(UNEVEN, n=30)


@arithmetics
def test_a_block_takes_tile_after_tile(device, one_multiprocessor, arithmetic):
    for case in SEVERAL_TILES:
        plan = gemm.plan(case.n * math.prod(case.y_shape[1:3]), case.k, 1, 1, np.dtype(np.float32), FIRST, first=1)
        assert plan.tiles >= 2 * plan.blocks
        assert plan.blocks == (3 if case.k == 150 else 2)
        assert_right(device, case, arithmetic)
    assert_right(device, SEVERAL_TILES[0], arithmetic, "conv2d_relu", pool=2)
    arrays, options = arguments(SEVERAL_TILES[0], arithmetic)
    assert_same_bits("conv2d", device, *arrays, **options)


@pytest.mark.parametrize(("algo", "dtype"), [(FIRST, "float32"), (FIRST, "bfloat16"), ("first-256x32", "float16")])
def test_the_moments_of_every_tile(device, one_multiprocessor, algo, dtype):
    x, w, bias, _ = SEVERAL_TILES[0].arrays(as_dtype(dtype))
    vectors = [np.random.default_rng(i).random(w.shape[0]).astype(np.float32) for i in range(4)]
    options = SEVERAL_TILES[0].options | dict(algo=algo, activation="relu")
    wanted = expect("conv2d_batch_norm", [x, w, bias, *vectors], options)
    for want, result in zip(wanted, on_device("conv2d_batch_norm", device, x, w, bias, *vectors, **options)):
        assert_within(result, want.value, want.bound, want.name)


@arithmetics
@pytest.mark.parametrize("pool", [1, 2])
def test_under_a_mask(device, arithmetic, pool):
    for name in ("whole chunks", "uneven", "images within a tile"):
        assert_right(device, CASES[name], arithmetic, "conv2d_relu", pool=pool)


def test_the_tile_of_few_filters(device, one_multiprocessor):
    for case in (*CASES.values(), *SEVERAL_TILES):
        assert_right(device, case, "bfloat16", algo="first-256x32")
    assert_right(device, SEVERAL_TILES[0], "float16", "conv2d_relu", pool=2, algo="first-256x32")


def test_what_lies_past_the_depth_does_not_count(device):
    """Infinities, which a filter's zero would not silence."""
    x, w = np.ones((2, 5, 8, 3), np.float32), np.ones((8, 3, 3, 3), np.float32)
    x[:, 2, 3] = np.inf
    for dtype in map(as_dtype, ("float32", "bfloat16")):
        found = on_device("conv2d", device, x.astype(dtype), w.astype(dtype), algo=FIRST, tf32=dtype == np.float32)
        np.testing.assert_array_equal(found, ops.conv2d(x, w))


def test_tf32_rounds_both_factors(device):
    (x, w, _), options = arguments(WHOLE, "float32")
    exact, rounded = (on_device("conv2d", device, x, w, **options | dict(tf32=tf32)) for tf32 in (False, True))
    assert np.abs(exact - rounded).max() > 1e-4


@arithmetics
def test_thread_orders_and_unaligned_arrays_give_the_same_bits(device, arithmetic):
    arrays, options = arguments(WHOLE, arithmetic)
    assert_same_bits("conv2d", device, *arrays, **options)
    unaligned = [asarray(np.concatenate([a.ravel()[:1], a.ravel()]), device)[1:].reshape(a.shape) for a in arrays]
    np.testing.assert_array_equal(
        to_numpy(ops.conv2d(*unaligned, **options)), on_device("conv2d", device, *arrays, **options)
    )


def test_float32_gives_the_bits_of_every_other_tile(device):
    (x, w, bias), options = arguments(UNEVEN, "float32")
    first, simt = (on_device("conv2d", device, x, w, bias, **options | dict(algo=a)) for a in (FIRST, "simt-64x64"))
    np.testing.assert_array_equal(first, simt)


@arithmetics
def test_nothing_is_read_or_written_that_must_not_be(one_multiprocessor, arithmetic):
    with emulator.configure(sanitize="checked", seed=7):
        assert_right("emulated", replace(WHOLE, n=4, k=5), arithmetic)
        for name in ("uneven", "images within a tile", "one pixel"):
            assert_right("emulated", replace(CASES[name], k=5), arithmetic)
        assert_right("emulated", replace(WHOLE, n=1, k=8), arithmetic, "conv2d_relu", pool=2)


def test_filters_without_bank_conflicts():
    """Of one pixel: all lanes read the same of x."""
    for arithmetic in ARITHMETICS:
        arrays, options = arguments(ConvCase(1, 4, 4, 3, 64, (4, 4)), arithmetic)
        with emulator.bank_conflicts() as of:
            on_device("conv2d", "emulated", *arrays, **options)
        accesses, conflicts = of("conv2d_fprop_first")
        assert accesses > 100
        assert conflicts == 0


# --- which problems get it ---------------------------------------------------------------------

ASKED = dict(stride=1, padding=1, algo=FIRST)


def test_the_name_serves_first_layers_alone():
    x, w = np.ones((1, 4, 4, 3), np.float32), np.ones((6, 3, 3, 3), np.float32)
    np.testing.assert_array_equal(ops.conv2d(x, w, **ASKED), ops.conv2d(x, w, padding=1))
    wide, grouped = np.ones((1, 4, 4, 5), np.float32), np.ones((1, 4, 4, 2), np.float32)
    match = "'first-256x64' serves convolutions in one group of at most 4 channels, by filters larger than 1 x 1"
    for refused in (
        lambda: ops.conv2d(wide, np.ones((6, 3, 3, 5), np.float32), **ASKED),
        lambda: ops.conv2d(grouped, np.ones((6, 3, 3, 1), np.float32), groups=2, **ASKED),
        lambda: ops.conv2d(x, np.ones((6, 1, 1, 3), np.float32), algo=FIRST),
        lambda: ops.conv2d(np.ones((1, 3, 9000, 3), np.float32), w, **ASKED),  # lines of 108 KB
        lambda: ops.conv2d_dgrad(wide, np.ones((5, 3, 3, 5), np.float32), input_shape=wide.shape, **ASKED),
        lambda: ops.linear(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), algo=FIRST),
    ):
        with pytest.raises(ValueError, match=match):
            refused()
    with pytest.raises(ValueError, match="'first-256x64' does not serve float64; those that do: auto, simt-64x32"):
        ops.conv2d(x.astype(float), w.astype(float), **ASKED)
    with pytest.raises(ValueError, match="'first-256x64' does not serve float64"):
        ops.conv2d_wgrad(np.ones((1, 4, 4, 6)), x.astype(float), kernel_size=3, **ASKED)


def test_a_layer_names_it_and_its_gradients_take_what_auto_takes():
    layers = [Input((8, 8, 3)), Conv2D(8, 3, padding=1, algo=FIRST), ReLU(), Flatten(), Linear(5)]
    for net in (Sequential(layers, device="emulated"), Sequential(layers, device="emulated").fuse()):
        x = asarray(np.ones((2, 8, 8, 3), np.float32), "emulated")
        with recorded() as launches:
            net.backward(net.forward(x, training=True))
        conv_net = next(layer for layer in net.walk() if layer.algorithms(2))
        taken = conv_net.algorithms(2)
        assert taken["fprop"] == FIRST
        assert not {taken["dgrad"], taken["wgrad"]} & {FIRST, "auto"}
        ran = [launch.kernel.name for launch in launches]
        assert ran.count("conv2d_fprop_first") == 1
        assert {"conv2d_dgrad_simt", "conv2d_wgrad_simt"} <= set(ran)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_auto_takes_it_for_large_first_layers_forward(dtype):
    def taken(n, c, k=64, groups=1):
        window = dict(stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=groups, fit="floor")
        return conv.chosen("emulated", (n, 32, 32, c), k, (3, 3), dtype=as_dtype(dtype), **window)

    assert taken(128, 3)["fprop"] == FIRST
    assert taken(2000, 3, 24)["fprop"] == ("first-256x32" if dtype == "bfloat16" else "simt-64x32")
    assert FIRST not in (taken(128, 3)["dgrad"], taken(128, 3)["wgrad"])
    assert FIRST not in (taken(1, 3, 8)["fprop"], taken(128, 5)["fprop"], taken(128, 2, groups=2)["fprop"])
    plan = gemm.plan(128 * 32 * 32, 64, 27, 1, as_dtype(dtype), FIRST, first=1000)
    assert (plan.splits, plan.tiles, plan.blocks, plan.shared) == (1, 512, 264, 1000)


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_the_patch_fits_its_memory(rng, arithmetic):
    """The launcher's bytes are those of the tile that needs most, counted tile by tile."""
    chunk, met = 4 if arithmetic == "float32" else 8, 0
    for _ in range(400):
        p, q, n, c, r, s, sh, sw, dh, dw, left = (int(rng.integers(1, high)) for high in (40, 40, 9, 5, *[4] * 6, 9))
        pool = int(rng.integers(1, 3))
        padding = ((0, 0), (left, 0))
        found = first_bytes((n, 1, 1, c), (r, s), (sh, sw), padding, (dh, dw), 1, (p, q), pool, arithmetic)
        if found == 0:
            continue
        reach, windows, most = (r - 1) * dh + 1, FIRST_PIXELS // pool**2, 0
        for first in range(0, n * p * q, windows):
            last = min(first + windows, n * p * q) - 1
            begin, end = ((i // (p * q) * ((p * pool - 1) * sh + reach) + i % (p * q) // q * pool * sh)
                          for i in (first, last))  # fmt: skip
            most = max(most, end + (pool - 1) * sh + reach - begin)
        across = ((q * pool - 1) * sw + (s - 1) * dw + 1) * c
        pitch = math.ceil((-left * c % chunk + across) / chunk) * chunk
        depth = r * s * c if arithmetic == "float32" else math.ceil(r * s * c / 16) * 16
        bank = depth * 72 * 4 if arithmetic == "float32" else 64 * depth * 2
        needed = 256 + math.ceil(depth / 4) * 16 + bank + 2 * most * pitch * 16 // chunk
        assert needed <= found
        met += needed == found
    assert met > 100  # no more than that


def test_every_arithmetic_but_float64():
    assert {a for each in algorithms.FIRST for a in each.arithmetics} == {*ARITHMETICS}
