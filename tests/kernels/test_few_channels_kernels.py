"""The kernels for convolutions of few channels: patches of every shape, every epilogue, which problems use these
kernels, and that a patch fits in shared memory."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpuconv import algorithms, asarray, ops, to_numpy
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.gemm import plan
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.backends.cuda.ops.conv import chosen_algorithms
from gpuconv.dtypes import as_dtype
from gpuconv.few_channels import PIXELS, few_channels_smem_bytes
from gpuconv.layers import Conv2D, Flatten, Input, Linear, ReLU, Sequential
from gpuconv.problems import PLAIN, Conv2dProblem
from gpuconv.profiling.launches import record_launches
from gpuconv.verify.cases.convolutions import FEW_CHANNELS_256X64
from gpuconv.verify.conv_problems import conv, random_arrays
from gpuconv.verify.oracle import expected_results
from tests.kernels.agreement import assert_same_bits, on_device, varied
from tests.tolerance import assert_within

TILE_PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
precisions = pytest.mark.parametrize("precision", TILE_PRECISIONS)
# Rows of x consist of whole 16-byte chunks; the filters take two tiles.
WHOLE_CHUNKS = conv(2, 9, 16, 3, 72, (3, 3), padding=((1, 1), (1, 1)))
UNEVEN = conv(2, 19, 17, 3, 13, (4, 3), stride=(3, 2), padding=((2, 1), (0, 3)), dilation=(2, 3))
CASES = {
    "whole chunks": WHOLE_CHUNKS,
    "uneven": UNEVEN,
    "large filters": conv(1, 29, 32, 3, 40, (7, 7), stride=(2, 2), padding=((3, 3), (3, 3))),
    "images within a tile": conv(45, 3, 3, 2, 5, (2, 2)),
    "images larger than a tile": conv(2, 23, 27, 4, 8, (3, 2), padding=((0, 1), (1, 0))),
    "one channel": conv(3, 11, 9, 1, 8, (5, 5)),
    "one pixel": conv(1, 1, 1, 3, 3, (3, 3), padding=((1, 1), (1, 1))),
    "more padding than filter": conv(2, 4, 5, 3, 10, (2, 3), padding=((3, 2), (11, 6))),
    "windows cut by the border": varied(UNEVEN, fit="cover"),
    "an empty batch": varied(WHOLE_CHUNKS, n=0),
}


def arguments(case: Conv2dProblem, precision: str):
    x, w, bias, _ = random_arrays(case, as_dtype("float32" if precision == "tf32" else precision))
    return [x, w, bias], case.window | dict(tf32=precision == "tf32", algo=FEW_CHANNELS_256X64)


def assert_right(device: str, case: Conv2dProblem, precision: str, op: str = "conv2d", **more):
    arrays, options = arguments(case, precision)
    expected = expected_results(op, arrays, options | more)
    with record_launches() as launches:
        results = on_device(op, device, *arrays, **options | more)
    assert case.n == 0 or [launch.kernel.name for launch in launches] == ["conv2d_fprop_few_channels"]
    for exact, result in zip(expected, results if isinstance(results, tuple) else (results,)):
        assert_within(result, exact.value, exact.bound, f"{op} {case} {precision}")


@precisions
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_shape_agrees_with_the_oracle(device, case, precision):
    assert_right(device, case, precision, activation="silu")


@pytest.fixture
def one_multiprocessor(monkeypatch):
    """The plan has as many blocks as one multiprocessor holds (two; three with the tile 256x32), or one per tile of
    filters if that is more."""
    monkeypatch.setattr(plan, "_MULTIPROCESSORS", 1)
    plan.plan.cache_clear()
    yield
    plan.plan.cache_clear()


def planned(m, n, k, dtype, smem_bytes):
    """The plan of the algorithm for few channels."""
    return plan.plan(
        Product("conv2d_fprop", m, n, k, 1, dtype, few_channels_smem_bytes=smem_bytes), FEW_CHANNELS_256X64
    )


SEVERAL_TILES = varied(WHOLE_CHUNKS, n=8), varied(CASES["images larger than a tile"], k=150), varied(UNEVEN, n=30)


@precisions
def test_a_block_processes_several_tiles(device, one_multiprocessor, precision):
    for case in SEVERAL_TILES:
        chosen_plan = planned(math.prod(case.y_shape[:3]), case.k, 1, np.dtype(np.float32), 1)
        assert chosen_plan.tiles >= 2 * chosen_plan.blocks
        assert chosen_plan.blocks == (3 if case.k == 150 else 2)
        assert_right(device, case, precision)
    assert_right(device, SEVERAL_TILES[0], precision, "conv2d_relu", pool=2)
    arrays, options = arguments(SEVERAL_TILES[0], precision)
    assert_same_bits("conv2d", device, *arrays, **options)


@pytest.mark.parametrize(
    ("algo", "dtype"),
    [(FEW_CHANNELS_256X64, "float32"), (FEW_CHANNELS_256X64, "bfloat16"), ("few_channels-256x32", "float16")],
)
def test_the_moments_include_every_tile(device, one_multiprocessor, algo, dtype):
    x, w, bias, _ = random_arrays(SEVERAL_TILES[0], as_dtype(dtype))
    vectors = [np.random.default_rng(i).random(w.shape[0]).astype(np.float32) for i in range(4)]
    options = SEVERAL_TILES[0].window | dict(algo=algo, activation="relu")
    expected = expected_results("conv2d_batch_norm", [x, w, bias, *vectors], options)
    for exact, result in zip(expected, on_device("conv2d_batch_norm", device, x, w, bias, *vectors, **options)):
        assert_within(result, exact.value, exact.bound, exact.name)


@precisions
@pytest.mark.parametrize("pool", [1, 2])
def test_relu_pool_and_mask_agree_with_the_oracle(device, precision, pool):
    for name in ("whole chunks", "uneven", "images within a tile"):
        assert_right(device, CASES[name], precision, "conv2d_relu", pool=pool)


def test_the_tile_for_few_filters_agrees_with_the_oracle(device, one_multiprocessor):
    for case in (*CASES.values(), *SEVERAL_TILES):
        assert_right(device, case, "bfloat16", algo="few_channels-256x32")
    assert_right(device, SEVERAL_TILES[0], "float16", "conv2d_relu", pool=2, algo="few_channels-256x32")


def test_values_past_the_depth_are_ignored(device):
    """The values are infinite. If they were multiplied by the zeros past the end of a filter, they would give NaN."""
    x, w = np.ones((2, 5, 8, 3), np.float32), np.ones((8, 3, 3, 3), np.float32)
    x[:, 2, 3] = np.inf
    for dtype in map(as_dtype, ("float32", "bfloat16")):
        options = dict(algo=FEW_CHANNELS_256X64, tf32=dtype == np.float32)
        y = on_device("conv2d", device, x.astype(dtype), w.astype(dtype), **options)
        np.testing.assert_array_equal(y, ops.conv2d(x, w))


def test_tf32_rounds_both_factors(device):
    assert_right(device, WHOLE_CHUNKS, "tf32")  # with one factor unrounded, the result would be out of its bound
    (x, w, _), options = arguments(WHOLE_CHUNKS, "float32")
    exact, rounded = (on_device("conv2d", device, x, w, **options | dict(tf32=tf32)) for tf32 in (False, True))
    assert np.abs(exact - rounded).max() > 1e-4


@precisions
def test_thread_orders_and_unaligned_arrays_give_the_same_bits(device, precision):
    arrays, options = arguments(WHOLE_CHUNKS, precision)
    assert_same_bits("conv2d", device, *arrays, **options)
    unaligned = [asarray(np.concatenate([a.ravel()[:1], a.ravel()]), device)[1:].reshape(a.shape) for a in arrays]
    np.testing.assert_array_equal(
        to_numpy(ops.conv2d(*unaligned, **options)), on_device("conv2d", device, *arrays, **options)
    )


def test_float32_gives_the_bits_of_a_simt_tile(device):
    (x, w, bias), options = arguments(UNEVEN, "float32")
    few, simt = (
        on_device("conv2d", device, x, w, bias, **options | dict(algo=algo))
        for algo in (FEW_CHANNELS_256X64, "simt-64x64")
    )
    np.testing.assert_array_equal(few, simt)


@precisions
def test_memory_accesses_stay_within_bounds(one_multiprocessor, precision):
    with emulator.configure(sanitize="checked", seed=7):
        assert_right("emulated", varied(WHOLE_CHUNKS, n=4, k=5), precision)
        for name in ("uneven", "images within a tile", "one pixel"):
            assert_right("emulated", varied(CASES[name], k=5), precision)
        assert_right("emulated", varied(WHOLE_CHUNKS, n=1, k=8), precision, "conv2d_relu", pool=2)


def test_filters_are_read_without_bank_conflicts():
    """The output has one pixel, so all lanes read the same value of x. Only reads of filters could conflict."""
    for precision in TILE_PRECISIONS:
        arrays, options = arguments(conv(1, 4, 4, 3, 64, (4, 4)), precision)
        with emulator.bank_conflicts() as counts:
            on_device("conv2d", "emulated", *arrays, **options)
        accesses, conflicts = counts("conv2d_fprop_few_channels")
        assert accesses > 100
        assert conflicts == 0


# --- which problems use the algorithm ----------------------------------------------------------

OPTIONS = dict(stride=1, padding=1, algo=FEW_CHANNELS_256X64)


def test_the_algorithm_is_refused_for_many_channels():
    x, w = np.ones((1, 4, 4, 3), np.float32), np.ones((6, 3, 3, 3), np.float32)
    np.testing.assert_array_equal(ops.conv2d(x, w, **OPTIONS), ops.conv2d(x, w, padding=1))
    wide, grouped = np.ones((1, 4, 4, 5), np.float32), np.ones((1, 4, 4, 2), np.float32)
    match = "'few_channels-256x64' serves convolutions in one group of at most 4 channels, by filters larger than 1 x 1"
    for refused in (
        lambda: ops.conv2d(wide, np.ones((6, 3, 3, 5), np.float32), **OPTIONS),
        lambda: ops.conv2d(grouped, np.ones((6, 3, 3, 1), np.float32), groups=2, **OPTIONS),
        lambda: ops.conv2d(x, np.ones((6, 1, 1, 3), np.float32), algo=FEW_CHANNELS_256X64),
        lambda: ops.conv2d(np.ones((1, 3, 9000, 3), np.float32), w, **OPTIONS),  # lines of 108 KB
        lambda: ops.conv2d_dgrad(wide, np.ones((5, 3, 3, 5), np.float32), input_shape=wide.shape, **OPTIONS),
        lambda: ops.linear(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), algo=FEW_CHANNELS_256X64),
    ):
        with pytest.raises(ValueError, match=match):
            refused()
    match = "'few_channels-256x64' does not serve float64; those that do: auto, simt-64x32"
    with pytest.raises(ValueError, match=match):
        ops.conv2d(x.astype(float), w.astype(float), **OPTIONS)
    with pytest.raises(ValueError, match="'few_channels-256x64' does not serve float64"):
        ops.conv2d_wgrad(np.ones((1, 4, 4, 6)), x.astype(float), kernel_size=3, **OPTIONS)


def test_a_layer_uses_the_algorithm_forward_and_the_automatic_choice_for_gradients():
    layers = [Input((8, 8, 3)), Conv2D(8, 3, padding=1, algo=FEW_CHANNELS_256X64), ReLU(), Flatten(), Linear(5)]
    for net in (Sequential(layers, device="emulated"), Sequential(layers, device="emulated").fuse()):
        x = asarray(np.ones((2, 8, 8, 3), np.float32), "emulated")
        with record_launches() as launches:
            net.backward(net.forward(x, training=True))
        layer_with_algorithms = next(layer for layer in net.walk() if layer.algorithms(2))
        algorithms_used = layer_with_algorithms.algorithms(2)
        assert algorithms_used["fprop"] == FEW_CHANNELS_256X64
        assert not {algorithms_used["dgrad"], algorithms_used["wgrad"]} & {FEW_CHANNELS_256X64, "auto"}
        ran = [launch.kernel.name for launch in launches]
        assert ran.count("conv2d_fprop_few_channels") == 1
        assert {"conv2d_dgrad_simt", "conv2d_wgrad_simt"} <= set(ran)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_auto_chooses_the_algorithm_forward_for_large_layers_with_few_channels(dtype):
    def chosen_for(n, c, k=64, groups=1):
        problem = Conv2dProblem.of((n, 32, 32, c), (k, 3, 3, c // groups), padding=1, groups=groups)
        return chosen_algorithms("emulated", problem, PLAIN, as_dtype(dtype))

    assert chosen_for(128, 3)["fprop"] == FEW_CHANNELS_256X64
    assert chosen_for(2000, 3, 24)["fprop"] == ("few_channels-256x32" if dtype == "bfloat16" else "simt-64x32")
    assert FEW_CHANNELS_256X64 not in (chosen_for(128, 3)["dgrad"], chosen_for(128, 3)["wgrad"])
    assert FEW_CHANNELS_256X64 not in (
        chosen_for(1, 3, 8)["fprop"],
        chosen_for(128, 5)["fprop"],
        chosen_for(128, 2, groups=2)["fprop"],
    )
    chosen_plan = planned(128 * 32 * 32, 64, 27, as_dtype(dtype), 1000)
    assert (chosen_plan.split_k, chosen_plan.tiles, chosen_plan.smem_bytes) == (1, 512, 1000)
    assert chosen_plan.blocks == 2 * 132  # two blocks on each multiprocessor


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_patch_fits_in_shared_memory(rng, precision):
    """The launcher reserves at least the size that the largest tile needs. The test computes the size that each
    tile needs."""
    chunk, exact_sizes = 4 if precision == "float32" else 8, 0
    for _ in range(400):
        p, q, n, c = (int(rng.integers(1, high)) for high in (40, 40, 9, 5))
        r, s, sh, sw, dh, dw = (int(rng.integers(1, 4)) for _ in range(6))
        left, pool = (int(rng.integers(1, high)) for high in (9, 3))
        problem = Conv2dProblem(
            n, 1, 1, c, 1, r, s, p * pool, q * pool, (sh, sw), ((0, 0), (left, 0)), (dh, dw), 1, "floor"
        )
        reserved = few_channels_smem_bytes(problem, pool, precision)
        if reserved == 0:
            continue
        reach, windows, most_rows = (r - 1) * dh + 1, PIXELS // pool**2, 0
        image_rows = (p * pool - 1) * sh + reach
        first_rows = [image * image_rows + row * pool * sh for image in range(n) for row in range(p) for _ in range(q)]
        for first in range(0, n * p * q, windows):
            last = min(first + windows, n * p * q) - 1
            most_rows = max(most_rows, first_rows[last] + (pool - 1) * sh + reach - first_rows[first])
        across = ((q * pool - 1) * sw + (s - 1) * dw + 1) * c
        pitch = math.ceil((-left * c % chunk + across) / chunk) * chunk
        depth = r * s * c if precision == "float32" else math.ceil(r * s * c / 16) * 16
        filter_bytes = depth * 72 * 4 if precision == "float32" else 64 * depth * 2
        needed = 256 + math.ceil(depth / 4) * 16 + filter_bytes + 2 * most_rows * pitch * 16 // chunk
        assert needed <= reserved
        exact_sizes += needed == reserved
    assert exact_sizes > 100  # often the launcher reserves exactly what is needed


def test_every_precision_but_float64_has_a_tile():
    assert {precision for algorithm in algorithms.FEW_CHANNELS for precision in algorithm.precisions} == {
        *TILE_PRECISIONS
    }
