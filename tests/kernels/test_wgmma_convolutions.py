"""Convolutions by wgmma (gemm_wgmma.cuh). No GPU has run these kernels. The emulated device runs every case tier. Under
its checker it runs all but some layers of the tier `real`. test_wgmma_machine_code.py examines the machine code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy, verify
from gpuconv.algorithms import find
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.gemm.plan import plan, unproved_plans
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.backends.cuda.ops import conv as conv_launchers
from gpuconv.backends.cuda.runtime.capability import capability_named
from gpuconv.dtypes import as_dtype
from gpuconv.verify.conv_problems import conv, random_arrays
from tests.kernels import wgmma_tiers
from tests.kernels.agreement import assert_same_bits, on_device
from tests.kernels.convolutions import arguments, assert_right, force_algorithm, problem
from tests.kernels.wgmma_tiers import cases
from tests.tolerance import assert_within, sum_bound

TILES = [tile for tile in wgmma_tiers.TILES if tile.cluster == 1]
tiles = pytest.mark.parametrize("algo", [tile.name for tile in TILES])
dtypes = pytest.mark.parametrize("dtype", wgmma_tiers.DTYPES)
# The first three differ in their epilogue: bias; mask and pool; moments.
OPS = ("conv2d", "conv2d_relu", "conv2d_batch_norm", "conv2d_dgrad", "conv2d_wgrad")
TILES_OF = {op: [tile.name for tile in TILES if wgmma_tiers.OPS[op] in tile.kernels] for op in OPS}
DIRECTIONS = [(op, algo) for op in ("conv2d", "conv2d_dgrad", "conv2d_wgrad") for algo in TILES_OF[op]]
directions = pytest.mark.parametrize(("op", "algo"), DIRECTIONS)


@pytest.fixture
def device(device):
    if not TILES[0].runs_on(capability_named(device)):
        pytest.skip("wgmma needs a GPU of compute capability 9.0")
    return device


def assert_agrees(device, case, dtype, algo):
    def make(rng, dtype):
        arrays, options = case.make(rng, dtype)
        if case.op in ("conv2d", "conv2d_batch_norm"):
            options |= dict(activation=None)  # every activation would be another kernel to compile
        return arrays, options | dict(algo=algo)

    outcome = verify.run_case(replace(case, make=make), dtype, device)
    assert outcome.passed, f"{case.name}: {outcome.failure}"


@dtypes
@pytest.mark.parametrize("op", OPS)
def test_case_tiers_agree_with_the_oracle(device, op, dtype):
    for case in cases(op, dtype, "tiny", "odd", "real", "random"):
        assert_agrees(device, case, dtype, "wgmma-128x128")


@dtypes
@pytest.mark.parametrize("op", OPS)
def test_case_tiers_agree_under_the_checker_in_any_order(op, dtype):
    for seed, case in enumerate(cases(op, dtype, "tiny", "odd", "random")):
        with emulator.configure(sanitize="checked", seed=seed % 7):
            assert_agrees("emulated", case, dtype, "wgmma-128x128")


@pytest.mark.parametrize(
    ("op", "algo"),
    [(op, algo) for op, tiles in wgmma_tiers.TILES_OF.items() for algo in tiles if algo != "wgmma-128x128"],
)
def test_the_other_tiles_agree_with_the_oracle_on_one_case_each(op, algo):
    """One case for each op and tile, since each compiles a kernel; python -m tests.kernels.wgmma_tiers runs all
    cases."""
    number = 7 * [*wgmma_tiers.OPS].index(op) + 11 * wgmma_tiers.TILES_OF[op].index(algo)
    dtype = wgmma_tiers.DTYPES[number % 2]
    tier_cases = wgmma_tiers.cases_for(algo, op, dtype, "tiny", "odd", "random")
    case = tier_cases[number % len(tier_cases)]
    assert not wgmma_tiers.failure(case, dtype, algo), case.name


def layers(op):
    """The nets' layers whose first two arrays have a last axis that is a multiple of 8. For conv2d_relu, layers
    with GELU, SiLU or hard swish are left out, so that fewer kernels compile."""
    left_out = ("gelu", "silu", "hard_swish")
    real = cases(op, "float16", "real")
    chosen = [case for case in real if op != "conv2d_relu" or not case.name.endswith(left_out)]
    return [case for case in chosen if all(a.shape[-1] % 8 == 0 for a in case.arguments("float16")[0][:2])]


@dtypes
@pytest.mark.parametrize(("op", "algo"), [(op, algo) for op in OPS for algo in TILES_OF[op]])
def test_one_tile_agrees_on_each_layer_of_the_nets_under_the_checker(op, algo, dtype):
    """Each layer is computed by only one tile, since a layer takes up to a second. The tiles take turns, and each round
    begins one tile later."""
    names = TILES_OF[op]
    for seed, case in enumerate(layers(op)):
        if names[(seed + seed // len(names)) % len(names)] == algo:
            with emulator.configure(sanitize="checked", seed=seed % 7):
                assert_agrees("emulated", case, dtype, algo)


@directions
@dtypes
def test_every_tile_agrees_under_the_checker_in_any_order(monkeypatch, op, dtype, algo):
    """Some tiles are partial; no depth is split. The depth of the first case fills the ring at least three times."""
    force_algorithm(monkeypatch, find(algo, dtype))
    deep = conv(4, 17, 17, 8, 24, 3, padding=1) if op == "conv2d_wgrad" else conv(1, 5, 5, 128, 136, 3, padding=1)
    for case in (deep, conv(2, 9, 8, 24, 40, 3, stride=2, padding=1)):
        for seed in (0, 3, 4):
            with emulator.configure(sanitize="checked", seed=seed):
                assert_right(op, "emulated", case, dtype)


# Several tiles. The depth is little more than a stage, a few stages, or more than the ring; phases of dgrad have
# different taps.
SEVERAL_TILES = {
    "conv2d": (conv(1, 17, 16, 8, 136, 3, padding=1), conv(1, 9, 33, 56, 72, 3, padding=1)),
    "conv2d_dgrad": (conv(1, 17, 16, 136, 8, 3, padding=1), conv(2, 17, 17, 8, 24, 3, stride=2, padding=1)),
    "conv2d_wgrad": (conv(1, 9, 8, 32, 264, 3, padding=1), conv(1, 17, 17, 24, 24, 3, groups=3, padding=1)),
}


@directions
@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_blocks_that_compute_several_tiles_agree_with_the_oracle(monkeypatch, op, algo, blocks):
    """The ring's phases go on from tile to tile, so the cases give blocks odd and even numbers of tiles (1 to 10)."""
    force_algorithm(monkeypatch, find(algo, "bfloat16"), 1, blocks)
    for seed, case in enumerate(SEVERAL_TILES[op], blocks):
        with emulator.configure(sanitize="checked", seed=seed):
            assert_right(op, "emulated", case, "bfloat16")


@directions
def test_every_order_gives_the_bits_of_the_other_tensor_core_kernels(device, monkeypatch, op, algo):
    """The bits are equal on the emulated device, whose products all round in the same way."""
    for channels in ((64, 72), (24, 40), (5, 67)):
        arrays, options = arguments(op, problem(*channels), "bfloat16")
        force_algorithm(monkeypatch, find("mma-64x64", "bfloat16"))
        by_mma = on_device(op, device, *arrays, **options)
        force_algorithm(monkeypatch, find(algo, "bfloat16"))
        assert_same_bits(op, device, *arrays, **options)
        if device == "emulated":
            np.testing.assert_array_equal(on_device(op, device, *arrays, **options), by_mma)


@directions
@pytest.mark.parametrize("split_k", [1, 3])
@pytest.mark.parametrize(
    ("channels", "margins"), [((24, 40), (8, 16)), ((5, 67), (3, 2))], ids=["vectors", "single numbers"]
)
def test_slices_have_the_bits_of_dense_arrays(monkeypatch, op, algo, split_k, channels, margins):
    """y and dx are written into slices of wider volumes, and dy is read from one. Other channels do not change."""

    def sliced(array):
        before, after = margins
        wide = np.full((*array.shape[:-1], before + array.shape[-1] + after), 7, as_dtype("bfloat16"))
        wide[..., before:-after] = array
        volumes.append((asarray(wide, "emulated"), np.delete(wide, np.s_[before:-after], -1)))
        return volumes[-1][0][..., before:-after]

    volumes = []
    force_algorithm(monkeypatch, find(algo, "bfloat16"), split_k)
    arrays, options = arguments(op, problem(*channels), "bfloat16")
    expected = on_device(op, "emulated", *arrays, **options)
    first, *others = [asarray(array, "emulated") for array in arrays]
    if op != "conv2d":
        first = sliced(arrays[0])
    out_option = {} if op == "conv2d_wgrad" else dict(out=sliced(np.zeros_like(expected)))
    if channels == (24, 40):
        monkeypatch.setattr(conv_launchers, "copy", None)  # a copy would raise
    with emulator.configure(sanitize="checked", seed=3):
        np.testing.assert_array_equal(to_numpy(getattr(ops, op)(first, *others, **options, **out_option)), expected)
    for volume, unchanged in volumes:
        np.testing.assert_array_equal(np.delete(to_numpy(volume), np.s_[margins[0] : -margins[1]], -1), unchanged)


@directions
@pytest.mark.parametrize("split_k", [2, 5])
def test_split_k_agrees_with_the_oracle(device, monkeypatch, op, algo, split_k):
    force_algorithm(monkeypatch, find(algo, "bfloat16"), split_k)
    activation = dict(activation="silu") if op == "conv2d" else {}
    for case in (problem(64, 24), problem(5, 7, groups=2)):
        assert_right(op, device, case, "bfloat16", **activation)


@pytest.mark.parametrize("algo", [algo for op, algo in DIRECTIONS if op == "conv2d_wgrad"])
@pytest.mark.parametrize("split_k", [1, 3])
@pytest.mark.parametrize("accumulate", [False, True])
def test_the_bias_gradient_of_wgrad_is_within_its_bound(monkeypatch, algo, split_k, accumulate):
    """One case has several tiles and, without split-K, is deeper than the ring; the other has two groups. Either each
    tile has a block of its own, or one block computes all tiles."""
    tiled, grouped = conv(3, 17, 15, 8, 264, 1), conv(2, 9, 8, 6, 14, 3, groups=2)
    for seed, (case, blocks) in enumerate(((tiled, None), (grouped, None), (tiled, 1), (grouped, 1))):
        force_algorithm(monkeypatch, find(algo, "bfloat16"), split_k, blocks)
        x, w, bias, dy = random_arrays(case, as_dtype("bfloat16"))
        with emulator.configure(sanitize="checked", seed=seed + 3):
            arrays = [asarray(a, "emulated") for a in (dy, x, w, bias)]
            options = dict(kernel_size=case.kernel_size, accumulate=accumulate) | case.window
            ops.conv2d_wgrad(*arrays[:2], out=arrays[2], db=arrays[3], **options)
        old = bias.astype(np.float64) * accumulate
        wide = dy.astype(np.float64)
        length = dy.size // case.k + 1
        expected, magnitude = ops.bias_grad(wide) + old, ops.bias_grad(np.abs(wide)) + np.abs(old)
        assert_within(to_numpy(arrays[3]), expected, sum_bound(as_dtype("bfloat16"), length, magnitude))


@directions
def test_filters_that_fill_or_exceed_the_tap_table_agree_with_the_oracle(device, op, algo):
    for size in ((8, 9), (9, 9)):
        case = conv(1, 12, 13, 8, 8, size, padding=((3, 4), (5, 2)))
        assert_right(op, device, case, "bfloat16", algo=algo)
        with emulator.configure(sanitize="checked", seed=5):
            assert_right(op, "emulated", case, "bfloat16", algo=algo)


@tiles
def test_an_empty_batch_and_no_channels_are_accepted(device, algo):
    assert_right("conv2d", device, conv(0, 5, 7, 8, 16, 3), "bfloat16", algo=algo)
    x, w = (asarray(np.zeros(shape, as_dtype("bfloat16")), device) for shape in ((1, 4, 4, 0), (8, 3, 3, 0)))
    bias = np.arange(8).astype(as_dtype("bfloat16"))
    y = on_device(
        "conv2d", device, np.zeros((1, 4, 4, 0), bias.dtype), np.zeros((8, 3, 3, 0), bias.dtype), bias, algo=algo
    )
    np.testing.assert_array_equal(y, np.broadcast_to(bias, (1, 2, 2, 8)))
    assert ops.conv2d(x, w, algo=algo).shape == (1, 2, 2, 8)


@directions
def test_the_kernels_have_no_bank_conflicts(op, algo):
    """Threads access shared memory for copies into the tiles, and for sums on the way to the output."""
    with emulator.bank_conflicts() as counts:
        assert_right(op, "emulated", conv(1, 16, 16, 64, 256, 1), "bfloat16", algo=algo)
    accesses, conflicts = counts(wgmma_tiers.OPS[op] + "_wgmma")
    assert accesses > 100
    assert conflicts == 0


def test_no_device_chooses_wgmma_without_a_proof():
    packs = {"VECTOR_C": 8, "VECTOR_K": 8}
    product = Product("conv2d_fprop", 2**17, 1024, 2048, 1, as_dtype("bfloat16"), macros=packs)
    assert plan(product).algorithm.family == "mma"
    offered = sorted(candidate.algorithm.name for candidate in unproved_plans(product))
    assert offered == sorted(wgmma_tiers.TILES_OF["conv2d"])
    x = asarray(np.zeros((1, 8, 8, 8), np.float32), "emulated")
    with pytest.raises(ValueError, match="'wgmma-128x128' does not serve float32"):
        ops.conv2d(x, asarray(np.zeros((8, 3, 3, 8), np.float32), "emulated"), algo="wgmma-128x128")
