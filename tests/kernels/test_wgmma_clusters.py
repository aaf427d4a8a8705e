"""Convolutions by wgmma in clusters of two blocks. Both blocks need the same filters, or in wgrad the same dy, and each
block loads a share for both (multicast_iterator.cuh). No GPU has run these kernels, so the emulated device runs them.
test_wgmma_machine_code.py checks their machine code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.algorithms import ALGORITHMS, UnservedError, find
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.gemm import plan as plans
from gpuconv.backends.cuda.gemm.plan import plan, tiles_of, unproved_plans
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.backends.cuda.gemm.verdicts import allow_unproved
from gpuconv.dtypes import as_dtype
from gpuconv.profiling import launches
from gpuconv.verify.conv_problems import conv
from tests import standin
from tests.kernels import wgmma_tiers
from tests.kernels.agreement import assert_same_bits, expected, on_device
from tests.kernels.convolutions import arguments, assert_right, force_algorithm
from tests.kernels.wgmma_tiers import cases_for, failure
from tests.tolerance import assert_within, elementwise_bound, sum_bound

TILES = [each for each in ALGORITHMS if each.family == "wgmma_cluster"]
NAME = "wgmma-2x128x128"  # of fprop and dgrad
WIDE = "wgmma-128x2x192"  # of wgrad
TILE_OF = {"conv2d": NAME, "conv2d_dgrad": NAME, "conv2d_wgrad": WIDE}
BFLOAT16 = as_dtype("bfloat16")

# 272 rows are 3 tiles of 128, so the second block of the last clusters has no rows. 136 columns are 2 tiles.
ODD_TILES = conv(1, 17, 16, 64, 136, 3, padding=1)


def test_two_tiles_compute_in_clusters():
    assert [each.name for each in TILES] == [NAME, WIDE]


# every: 2 takes every second case. Each activation and mask of an epilogue is another kernel to compile, so ops with an
# epilogue run in one dtype and with some of the cases. conv2d_dgrad in float16 runs with some of them too.
# python -m tests.kernels.wgmma_tiers --algo wgmma-2x128x128 runs all cases in both dtypes.
@pytest.mark.parametrize(
    ("op", "dtype", "every"),
    [
        ("conv2d", "float16", 1),
        ("conv2d", "bfloat16", 1),
        ("conv2d_relu", "bfloat16", 2),
        ("conv2d_batch_norm", "float16", 2),
        ("conv2d_dgrad", "float16", 3),
        ("conv2d_dgrad", "bfloat16", 1),
        ("batch_norm_backward", "bfloat16", 6),
        ("conv2d_wgrad", "float16", 1),
        ("conv2d_wgrad", "bfloat16", 1),
    ],
)
def test_verifys_cases_agree_under_the_checker(op, dtype, every):
    """Each case has its own order of threads, number of splits and number of blocks; see `failure`."""
    tile = TILE_OF.get(op, NAME)
    for case in cases_for(tile, op, dtype, "tiny", "odd", "random")[::every]:

        def make(rng, dtype, make_case=case.make):
            arrays, options = make_case(rng, dtype)
            return arrays, options | (dict(activation=None) if op == "conv2d" else {})

        message = failure(replace(case, make=make), dtype, tile)
        assert not message, f"{case.name}: {message}"


# Depths of less than a stage and of more than a round of the ring; groups whose rows and columns are not whole tiles;
# phases with different taps, and with none.
SEVERAL_TILES = {
    "conv2d": (ODD_TILES, conv(2, 9, 33, 56, 72, 3, padding=1), conv(1, 17, 17, 16, 80, 1, groups=2)),
    "conv2d_dgrad": (
        conv(1, 17, 16, 136, 64, 3, padding=1),
        conv(2, 17, 17, 16, 80, 3, stride=2, padding=1, groups=2),
        conv(1, 16, 18, 144, 8, 1, stride=(2, 1)),
    ),
    # Tiles down and across: 3 by 1, so that the last block has no columns; 1 by 4 in each of two groups; 1 by 6.
    "conv2d_wgrad": (
        conv(1, 9, 8, 16, 264, 3, padding=1),
        conv(3, 17, 17, 160, 16, 3, stride=2, padding=1, groups=2),
        conv(2, 5, 6, 128, 72, 3),
    ),
}


@pytest.mark.parametrize("op", SEVERAL_TILES)
@pytest.mark.parametrize("split_k", [1, 3], ids=["no-split-k", "split-k-3"])
@pytest.mark.parametrize("clusters", [1, 2, None], ids=["1-cluster", "2-clusters", "a-block-for-each-tile"])
def test_clusters_compute_one_or_several_tiles(monkeypatch, op, split_k, clusters):
    for seed, case in enumerate(SEVERAL_TILES[op], split_k):
        dtype = ("float16", "bfloat16")[(seed + (clusters or 0)) % 2]
        force_algorithm(monkeypatch, find(TILE_OF[op], dtype), split_k, clusters)
        with emulator.configure(sanitize="checked", seed=seed):
            assert_right(op, "emulated", case, dtype)


@pytest.mark.parametrize("count", [8, 64, 72, 128, 200], ids="{}-columns".format)
def test_filters_or_channels_that_do_not_fill_the_tile_agree_with_the_oracle(monkeypatch, count):
    """A block's share may lie wholly past the filters (fprop, wgrad) or channels (dgrad) of a group. The group may be
    the last one."""
    for groups in (1, 3):
        with emulator.configure(sanitize="checked", seed=count % 7):
            for op, c, k in (("conv2d", 24, count), ("conv2d_dgrad", count, 24), ("conv2d_wgrad", 24, count)):
                force_algorithm(monkeypatch, find(TILE_OF[op], "bfloat16"))
                case = conv(1, 5, 6, c * groups, k * groups, 3, groups=groups)
                assert_right(op, "emulated", case, "bfloat16")


@pytest.mark.parametrize("op", SEVERAL_TILES)
def test_shuffled_threads_give_the_bits_of_the_tile_without_clusters(monkeypatch, op):
    """The bits are equal on the emulated device, whose products all round in the same way."""
    for case in (
        SEVERAL_TILES[op][0],
        conv(2, 9, 11, 24, 40, (3, 2), padding=((1, 1), (0, 2)), stride=(1, 2), dilation=(2, 1)),
    ):
        arrays, options = arguments(op, case, "bfloat16")
        force_algorithm(monkeypatch, find(TILE_OF[op].replace("2x", ""), "bfloat16"))
        alone = on_device(op, "emulated", *arrays, **options)
        force_algorithm(monkeypatch, find(TILE_OF[op], "bfloat16"))
        assert_same_bits(op, "emulated", *arrays, **options)
        np.testing.assert_array_equal(on_device(op, "emulated", *arrays, **options), alone)


def test_filters_past_the_end_of_the_depth_read_as_zeros(monkeypatch):
    """Past the end lie the numbers of the next filter or group. Some of them are infinite, which would show in y
    or dx."""
    force_algorithm(monkeypatch, find(NAME, "bfloat16"))
    x, dy = np.ones((1, 4, 4, 8), BFLOAT16), np.ones((1, 2, 2, 16), BFLOAT16)
    w = np.ones((16, 3, 3, 8), BFLOAT16)
    w[8:] = np.inf
    y = on_device("conv2d", "emulated", x, w, groups=1)
    assert np.isfinite(y[..., :8].astype(np.float32)).all()
    grouped = on_device("conv2d_dgrad", "emulated", dy, w, input_shape=(1, 4, 4, 16), groups=2)
    assert np.isfinite(grouped[..., :8].astype(np.float32)).all()


def test_the_moments_of_a_tile_without_rows_count_no_values(monkeypatch):
    """Blocks without rows have moments too, which batch norm merges with the others."""
    force_algorithm(monkeypatch, find(NAME, "bfloat16"))
    case = conv(3, 8, 5, 64, 72, 3, padding=1)  # 120 rows: the cluster's second block has none
    arrays, options = arguments("conv2d", case, "bfloat16")
    norm = [np.full(case.k, value, np.float32) for value in (1, 0, 0, 1)]
    given = [asarray(each, "emulated") for each in (*arrays, *norm)]
    with launches.record_launches() as ran:
        y = ops.conv2d_batch_norm(*given, **options)[0]
    assert ran[0].kernel.name == "conv2d_fprop_wgmma_cluster"
    values = to_numpy(y).astype(np.float32).reshape(-1, case.k)
    assert np.abs(values.mean(0)).max() < 0.02
    assert np.abs(values.std(0) - 1).max() < 0.02


def test_slices_of_channels_give_the_bits_of_dense_arrays(monkeypatch):
    """x and y are slices of the channels of wider volumes. The other channels of y's volume do not change."""
    force_algorithm(monkeypatch, find(NAME, "bfloat16"))
    (x, w, bias), options = arguments("conv2d", conv(2, 9, 11, 24, 40, 3, padding=1), "bfloat16")
    expected = on_device("conv2d", "emulated", x, w, bias, **options)
    wide_x = asarray(np.pad(x, [(0, 0)] * 3 + [(8, 16)], constant_values=7), "emulated")
    wide_y = asarray(np.full((*expected.shape[:-1], 8 + 40 + 16), 7, BFLOAT16), "emulated")
    with emulator.configure(sanitize="checked", seed=3):
        w_and_bias = [asarray(each, "emulated") for each in (w, bias)]
        ops.conv2d(wide_x[..., 8:32], *w_and_bias, **options, out=wide_y[..., 8:48])
    found = to_numpy(wide_y)
    np.testing.assert_array_equal(found[..., 8:48], expected)
    np.testing.assert_array_equal(np.delete(found, np.s_[8:48], -1), 7)


@pytest.mark.parametrize("split_k", [1, 3], ids=["no-split-k", "split-k-3"])
@pytest.mark.parametrize("accumulate", [False, True], ids=["assigned", "accumulated"])
@pytest.mark.parametrize("case", SEVERAL_TILES["conv2d_wgrad"])
def test_the_gradient_of_the_bias_is_a_secondary_output_of_the_product(monkeypatch, case, accumulate, split_k):
    """The blocks of the first columns sum the gradient of the bias, from the tiles of dy that their cluster loads."""
    force_algorithm(monkeypatch, find(WIDE, "bfloat16"), split_k, 2)
    (dy, x), options = arguments("conv2d_wgrad", case, "bfloat16")
    shapes = {"out": case.w_shape, "db": (case.k,)}
    outputs = {name: asarray(np.full(shape, 3, BFLOAT16), "emulated") for name, shape in shapes.items()}
    with emulator.configure(sanitize="checked", seed=split_k):
        inputs = [asarray(each, "emulated") for each in (dy, x)]
        ops.conv2d_wgrad(*inputs, **options, **outputs, accumulate=accumulate)
    added = 3 if accumulate else 0
    dw = expected("conv2d_wgrad", dy, x, **options) + added
    terms = expected("conv2d_wgrad", np.abs(dy), np.abs(x), **options) + added
    bound = sum_bound("float32", dy.size // case.k + 1, terms) + elementwise_bound("bfloat16", dw)
    found = {name: to_numpy(each).astype(np.float64) for name, each in outputs.items()}
    assert_within(found["out"], dw, bound, "dw")
    exact = dy.astype(np.float64).sum((0, 1, 2)) + added
    magnitude = np.abs(dy.astype(np.float64)).sum((0, 1, 2)) + 3
    np.testing.assert_array_less(np.abs(found["db"] - exact), 2**-8 * np.abs(exact) + 2**-20 * magnitude)


def test_a_slice_of_dy_gives_the_bits_of_a_dense_one(monkeypatch):
    """dy and x are slices of the channels of wider volumes. The tensor map of dy has the pitch of the wider volume."""
    force_algorithm(monkeypatch, find(WIDE, "bfloat16"))
    (dy, x), options = arguments("conv2d_wgrad", conv(2, 9, 11, 24, 40, 3, padding=1), "bfloat16")
    expected = on_device("conv2d_wgrad", "emulated", dy, x, **options)
    wide = [
        asarray(np.pad(each, [(0, 0)] * 3 + [(8, 16)], constant_values=np.inf), "emulated")[..., 8:-16]
        for each in (dy, x)
    ]
    with emulator.configure(sanitize="checked", seed=3), launches.record_launches() as ran:
        found = ops.conv2d_wgrad(*wide, **options)
    assert [each.kernel.name for each in ran] == ["conv2d_wgrad_wgmma_cluster"]
    np.testing.assert_array_equal(to_numpy(found), expected)


def test_options_that_choose_no_case_are_refused(capsys):
    with pytest.raises(SystemExit):
        wgmma_tiers.main(["--op", "conv2d_wgrad", "--algo", NAME])
    assert "these options choose no case" in capsys.readouterr().err


# --- what the tiles do not serve ---------------------------------------------------------------


def shifted(array):
    """The array at an address that is no multiple of 16 bytes."""
    memory = emulator.empty(array.size + 1, array.dtype)
    memory[1:] = asarray(array.reshape(-1), "emulated")
    return memory[1:].reshape(array.shape)


@pytest.mark.parametrize(
    ("c", "k", "groups"),
    [
        pytest.param(c, k, groups, id=f"{c}-channels-{k}-filters-{groups}-groups")
        for c, k, groups in ((5, 8, 1), (8, 10, 1), (12, 24, 3), (24, 12, 3), (0, 8, 1))
    ],
)
def test_channels_or_filters_of_a_group_not_in_multiples_of_8_are_refused(c, k, groups):
    x, w, dy = (np.zeros(shape, BFLOAT16) for shape in ((1, 4, 4, c), (k, 3, 3, c // groups), (1, 2, 2, k)))
    x, w, dy = [asarray(each, "emulated") for each in (x, w, dy)]
    received = f"received {c // groups} channels and {k // groups} filters a group$"
    with pytest.raises(UnservedError, match=rf"'{NAME}' moves 16 bytes at once: .* {received}"):
        ops.conv2d(x, w, groups=groups, algo=NAME)
    if c:
        with pytest.raises(UnservedError, match=received):
            ops.conv2d_dgrad(dy, w, input_shape=(1, 4, 4, c), groups=groups, algo=NAME)
        with pytest.raises(UnservedError, match=received):
            ops.conv2d_wgrad(dy, x, kernel_size=3, groups=groups, algo=WIDE)


def test_where_the_gradient_of_x_is_refused_those_of_the_filters_and_the_bias_stay_unchanged():
    shapes = (1, 4, 4, 8), (1, 4, 4, 9), (8, 1, 1, 9)
    dy, x, w = (asarray(np.ones(shape, BFLOAT16), "emulated") for shape in shapes)
    dw, db = (asarray(np.full(shape, 7, BFLOAT16), "emulated") for shape in ((8, 1, 1, 9), 8))
    with pytest.raises(UnservedError, match=r"received 9 channels and 8 filters a group$"):
        ops.conv2d_backward(dy, x, w, algo=NAME, dw=dw, db=db, accumulate=True)
    assert {*to_numpy(dw).ravel().tolist(), *to_numpy(db).tolist()} == {7}


def test_the_gradient_of_the_filters_of_an_empty_batch_is_refused():
    dy, x = (asarray(np.zeros(shape, BFLOAT16), "emulated") for shape in ((0, 2, 2, 16), (0, 4, 4, 8)))
    out = asarray(np.full((16, 3, 3, 8), 7, BFLOAT16), "emulated")
    with pytest.raises(UnservedError, match=r"received an empty batch$"):
        ops.conv2d_wgrad(dy, x, kernel_size=3, algo=WIDE, out=out)
    np.testing.assert_array_equal(to_numpy(out), 7)


def test_arrays_not_aligned_to_16_bytes_are_refused():
    x, w = (np.ones(shape, BFLOAT16) for shape in ((1, 4, 4, 16), (8, 3, 3, 16)))
    good = [asarray(each, "emulated") for each in (x, w)]
    assert ops.conv2d(*good, algo=NAME).shape == (1, 2, 2, 8)
    for bad in ([shifted(x), good[1]], [good[0], shifted(w)]):
        with pytest.raises(
            UnservedError, match="rows begin at multiples of 16 bytes, received arrays at other addresses"
        ):
            ops.conv2d(*bad, algo=NAME)
        out = asarray(np.full((1, 2, 2, 8), 7, BFLOAT16), "emulated")
        with pytest.raises(UnservedError):
            ops.conv2d(*bad, algo=NAME, out=out)
        np.testing.assert_array_equal(to_numpy(out), 7)


def test_the_tile_is_a_candidate_only_where_it_serves():
    for width, k, offered in ((8, 64, True), (1, 64, False), (8, 0, False)):
        product = Product("conv2d_fprop", 512, 128, k, 1, BFLOAT16, macros={"VECTOR_C": width, "VECTOR_K": width})
        assert (NAME in {each.algorithm.name for each in unproved_plans(product, 90)}) == offered
        assert NAME not in {each.algorithm.name for each in unproved_plans(product, 100)}
    for op, tile in TILE_OF.items():
        kernel = "conv2d_fprop" if op == "conv2d" else op
        product = Product(kernel, 512, 128, 64, 1, BFLOAT16, macros={"VECTOR_C": 8, "VECTOR_K": 8})
        offered = {each.algorithm.name for each in unproved_plans(product, 90)}
        assert offered & {NAME, WIDE} == {tile}


# --- plans and launches ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        pytest.param(rows, columns, id=f"{rows}x{columns}")
        for rows, columns in ((1, 1), (128, 128), (129, 129), (257, 8), (8192, 256), (100_000, 512))
    ],
)
def test_a_plan_launches_whole_clusters(rows, columns):
    product = Product("conv2d_fprop", rows, columns, 2304, 3, BFLOAT16, macros={"VECTOR_C": 8, "VECTOR_K": 8})
    across, down = tiles_of(product, find(NAME, "bfloat16"))
    assert down % 2 == 0
    assert (down - 2) * 128 < rows <= down * 128
    across_in_wgrad, down_in_wgrad = tiles_of(product, find(WIDE, "bfloat16"))
    assert across_in_wgrad % 2 == 0
    assert (across_in_wgrad - 2) * 192 < columns <= across_in_wgrad * 192
    assert (down_in_wgrad - 1) * 128 < rows <= down_in_wgrad * 128
    for each in plans._plans(product, find(NAME, "bfloat16")):
        assert each.blocks % 2 == 0
        assert 2 <= each.blocks <= each.tiles == across * down * 3
        assert each.blocks * each.split_k <= max(132, 2 * each.split_k)
        assert int(each.scheduler["tiles"]) * 2 == each.tiles
        assert int(each.scheduler["down"]["divisor"]) * 2 == down


@pytest.mark.parametrize("schedule", ["early", "late"], ids="work-runs-{}".format)
def test_a_launch_on_cuda_passes_the_tensor_map_of_the_shared_operand(schedule):
    """The launch is made through the stand-in for CuPy, which runs kernels in the emulator."""
    for op, tile in TILE_OF.items():
        kernel = "conv2d_fprop" if op == "conv2d" else op
        arrays, options = arguments(op, SEVERAL_TILES[op][0], "bfloat16")
        expected = on_device(op, "emulated", *arrays, **options, algo=tile)
        with standin.installed(["90"], schedule=schedule) as machine, allow_unproved():
            found = on_device(op, "cuda", *arrays, **options, algo=tile)
            assert (f"{kernel}_wgmma_cluster", 0) in machine.launches
        np.testing.assert_array_equal(found, expected)


def test_a_plan_that_names_the_tile_needs_compute_capability_9_0():
    product = Product("conv2d_fprop", 512, 128, 64, 1, BFLOAT16, macros={"VECTOR_C": 8, "VECTOR_K": 8})
    assert plan(product, NAME, 90).algorithm.name == NAME
    with pytest.raises(ValueError, match=r"needs a GPU of compute capability 9\.0, received one of 10\.0"):
        plan(product, NAME, 100)
