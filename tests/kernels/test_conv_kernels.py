"""Convolution kernels beyond the cases of test_every_op: every tile and vector width, split-K, views, addresses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from gpuconv import algorithms, asarray, ops, to_numpy
from gpuconv.algorithms import ALGORITHMS, find, serving
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.gemm import launch
from gpuconv.backends.cuda.gemm.plan import LARGEST_WORKSPACE, plan
from gpuconv.backends.cuda.gemm.product import Product
from gpuconv.backends.cuda.ops.conv_struct import expect_within_limits, packed
from gpuconv.backends.cuda.runtime.capability import capability_named
from gpuconv.backends.cuda.runtime.kernel import load
from gpuconv.backends.cuda.runtime.outputs import ceil_div
from gpuconv.backends.cuda.runtime.structs import fast_divmod
from gpuconv.dtypes import as_dtype
from gpuconv.problems import ACTIVATIONS, Conv2dProblem
from gpuconv.profiling import launches
from gpuconv.verify.conv_problems import conv, random_arrays, random_convolutions
from gpuconv.verify.oracle import expected_results
from tests.kernels.agreement import assert_same_bits, on_device, varied
from tests.kernels.convolutions import DIRECTIONS, arguments, assert_right, directions, force_algorithm, problem
from tests.tolerance import assert_within


@directions
@pytest.mark.parametrize("channels", [(16, 72), (5, 67)], ids=["vectors", "single numbers"])
def test_every_tile_gives_the_same_bits(device, monkeypatch, op, channels):
    results = []
    for algorithm in serving("float32"):
        force_algorithm(monkeypatch, algorithm)
        results.append(assert_right(op, device, problem(*channels)).tobytes())
    assert all(result == results[0] for result in results[1:])


@directions
def test_a_named_algorithm_is_the_one_that_runs(device, monkeypatch, op):
    plans, original = [], launch.launch

    def recorded(product, plan, *arguments, **options):
        plans.append(plan)
        return original(product, plan, *arguments, **options)

    monkeypatch.setattr(launch, "launch", recorded)
    for algorithm in serving("float32"):
        assert_right(op, device, problem(16, 24), algo=algorithm.name)
        assert plans[-1].algorithm == algorithm
    chosen = assert_right(op, device, problem(16, 24))
    pinned = assert_right(op, device, problem(16, 24), algo=plans[-1].algorithm.name)
    np.testing.assert_array_equal(chosen, pinned)


@directions
@pytest.mark.parametrize("channels", [(16, 24), (5, 7)], ids=["vectors", "single numbers"])
def test_tf32_is_within_its_bound_and_differs_from_float32(device, op, channels):
    rounded = assert_right(op, device, problem(*channels), tf32=True)
    assert np.abs(rounded - assert_right(op, device, problem(*channels))).max() > 1e-4


OTHER_ARITHMETICS = [
    (a.name, arithmetic) for a in ALGORITHMS for arithmetic in a.arithmetics if arithmetic != "float32"
]


@directions
@pytest.mark.parametrize(("algo", "arithmetic"), OTHER_ARITHMETICS)
def test_every_algorithm_agrees_with_the_oracle_in_every_other_arithmetic(device, op, algo, arithmetic):
    if not find(algo, arithmetic).runs_on(capability_named(device)):
        pytest.skip(f"{algo} does not run on this GPU")
    dtype, tf32 = ("float32", True) if arithmetic == "tf32" else (arithmetic, False)
    assert_right(op, device, problem(16, 72), dtype, algo=algo, tf32=tf32)


@pytest.mark.parametrize(("dtype", "tf32"), [("float16", False), ("bfloat16", False), ("float32", True)])
@pytest.mark.parametrize("channels", [(3, 24), (3, 70), (8, 64), (5, 7)])
def test_the_tile_for_filter_gradients_of_first_layers_agrees_with_the_oracle(device, channels, dtype, tf32):
    case, options = problem(*channels), dict(algo="mma-64x32", tf32=tf32)
    with launches.record_launches() as launched:
        assert_right("conv2d_wgrad", device, case, dtype, **options)
    kernel = launched[0].kernel
    assert algorithms.algorithm_of_launch(kernel.name, kernel.module.defines) == "mma-64x32"
    arrays, window = arguments("conv2d_wgrad", conv(1, 5, 6, *channels, (3, 2), padding=1), dtype)
    assert_same_bits("conv2d_wgrad", device, *arrays, **window, **options)
    if device == "emulated":
        with emulator.configure(sanitize="checked", seed=7):
            assert_right("conv2d_wgrad", device, conv(1, 5, 6, *channels, (3, 2), padding=1), dtype, **options)


@directions
@pytest.mark.parametrize("channels", [(4, 3), (3, 4), (8, 8)])
def test_channels_and_filters_have_separate_vector_widths(device, op, channels):
    assert_right(op, device, problem(*channels))
    assert_right(op, device, problem(*channels, groups=3))


@directions
@pytest.mark.parametrize("splits", [2, 5])
def test_split_k_agrees_with_the_oracle(device, monkeypatch, op, splits):
    force_algorithm(monkeypatch, splits=splits)
    options = dict(activation="silu") if op == "conv2d" else {}
    for case in (problem(16, 24), problem(5, 7, groups=2)):
        assert_right(op, device, case, **options)
    arrays, given_options = arguments(op, problem(8, 8))
    assert_same_bits(op, device, *arrays, **given_options)


@directions
def test_thread_orders_and_repeats_give_the_same_bits(device, op):
    for case in (problem(16, 24), problem(5, 7)):
        arrays, options = arguments(op, case)
        assert_same_bits(op, device, *arrays, **options)


@directions
@pytest.mark.parametrize("channels", [(8, 12), (3, 5)])
def test_memory_accesses_stay_within_bounds(device, monkeypatch, op, channels):
    if device != "emulated":
        pytest.skip("only the emulator has a checker")
    case = conv(1, 5, 6, *channels, (3, 2), stride=(2, 1), padding=((1, 0), (2, 1)))
    with emulator.configure(sanitize="checked", seed=7):
        for splits in (1, 3):
            force_algorithm(monkeypatch, splits=splits)
            assert_right(op, device, case)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_fused_bias_and_activation_agree_with_the_oracle(device, activation, with_bias):
    (x, w, bias), options = arguments("conv2d", problem(4, 6))
    arrays, options = [x, w, bias if with_bias else None], options | dict(activation=activation)
    (expected,) = expected_results("conv2d", arrays, options)
    assert_within(on_device("conv2d", device, *arrays, **options), expected.value, expected.bound, activation)


@pytest.mark.parametrize("splits", [1, 3])
def test_wgrad_accumulates(device, monkeypatch, splits):
    force_algorithm(monkeypatch, splits=splits)
    case = problem(4, 6)
    arrays, options = arguments("conv2d_wgrad", case)
    (expected,) = expected_results("conv2d_wgrad", arrays, options)
    before = np.random.default_rng(1).standard_normal(case.w_shape).astype(np.float32)
    dw = asarray(np.repeat(before, 2, axis=3), device)
    target = dw[..., ::2]
    result = ops.conv2d_wgrad(*[asarray(a, device) for a in arrays], **options, out=target, accumulate=True)
    assert result is target
    value = expected.value + before
    assert_within(to_numpy(dw)[..., ::2], value, expected.bound + 2.0**-22 * np.abs(value))
    np.testing.assert_array_equal(to_numpy(dw)[..., 1::2], before)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("channels", "margin"), [((24, 40), 8), ((5, 67), 3)], ids=["vectors", "single numbers"])
@pytest.mark.parametrize(
    ("algo", "dtype"),
    [("simt-64x32", "float64"), ("simt-64x64", "float32"), ("mma-64x64", "bfloat16"), ("wgmma-256x64", "bfloat16")],
)
def test_dgrad_accumulates_into_a_slice(monkeypatch, algo, dtype, channels, margin, splits):
    """The stride leaves pixels that no window reads. The volume's other channels do not change."""
    case = conv(2, 14, 12, *channels, (2, 3), stride=(3, 2), padding=((1, 0), (0, 1)))
    force_algorithm(monkeypatch, find(algo, dtype), splits)
    arrays, options = arguments("conv2d_dgrad", case, dtype)
    before = np.random.default_rng(1).standard_normal((*case.x_shape[:-1], case.c + 2 * margin)).astype(as_dtype(dtype))
    options |= dict(accumulate=True, out=before[..., margin:-margin])
    (expected,) = expected_results("conv2d_dgrad", arrays, options)
    volume = asarray(before, "emulated")
    options["out"] = volume[..., margin:-margin]
    with emulator.configure(sanitize="checked", seed=3):
        assert ops.conv2d_dgrad(*[asarray(a, "emulated") for a in arrays], **options) is options["out"]
    assert_within(to_numpy(options["out"]), expected.value, expected.bound)
    own_channels = np.s_[margin:-margin]
    np.testing.assert_array_equal(np.delete(to_numpy(volume), own_channels, -1), np.delete(before, own_channels, -1))


@directions
def test_strided_and_unaligned_views_give_the_same_bits(device, op):
    arrays, options = arguments(op, problem(8, 12))
    expected = on_device(op, device, *arrays, **options)

    def strided(a):
        return asarray(np.repeat(a, 2, axis=-1), device)[..., ::2]

    def unaligned(a):
        return asarray(np.concatenate([np.zeros(1, a.dtype), a.reshape(-1)]), device)[1:].reshape(a.shape)

    for view in (strided, unaligned):
        views = [view(a) for a in arrays]
        np.testing.assert_array_equal(to_numpy(getattr(ops, op)(*views, **options)), expected)
        out = view(np.full(expected.shape, 7, np.float32))
        assert getattr(ops, op)(*[asarray(a, device) for a in arrays], **options, out=out) is out
        np.testing.assert_array_equal(to_numpy(out), expected)


def test_the_output_may_be_the_input(device):
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 6, 7, 40), (40, 3, 3, 40)))
    options = dict(stride=1, padding=1)
    for op, arrays, more in (("conv2d", [x, w], {}), ("conv2d_dgrad", [x, w], dict(input_shape=x.shape))):
        expected = on_device(op, device, *arrays, **options, **more)
        moved = [asarray(a, device) for a in arrays]
        assert getattr(ops, op)(*moved, **options, **more, out=moved[0]) is moved[0]
        np.testing.assert_array_equal(to_numpy(moved[0]), expected)


def test_an_empty_batch_gives_empty_outputs_and_adds_nothing_to_dw(device):
    case = conv(0, 5, 7, 3, 4, (3, 3))
    for op in DIRECTIONS:
        assert_right(op, device, case)
    x, _, _, dy = [asarray(a, device) for a in random_arrays(case, np.float32)]
    dw = asarray(np.ones(case.w_shape, np.float32), device)
    ops.conv2d_wgrad(dy, x, kernel_size=(3, 3), out=dw, accumulate=True)
    np.testing.assert_array_equal(to_numpy(dw), 1)


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=random_convolutions())
def test_random_convolutions_agree_with_the_oracle(device, case):
    for op in DIRECTIONS:
        assert_right(op, device, case)


def test_infinities_and_nan_propagate(device):
    x = np.ones((1, 4, 4, 8), np.float32)
    x[0, 1, 2, 3], x[0, 3, 0, 1] = np.nan, np.inf
    w = np.ones((5, 1, 1, 8), np.float32)
    y = on_device("conv2d", device, x, w, activation="relu")
    np.testing.assert_array_equal(y, ops.conv2d(x, w, activation="relu"))


# --- plans -------------------------------------------------------------------------------------


def planned(m, n, k, batches=1, dtype="float32"):
    return plan(Product("conv2d_fprop", m, n, k, batches, np.dtype(dtype)))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_plans_cover_the_product_within_the_workspace_limit(dtype):
    rng, dtype = np.random.default_rng(0), as_dtype(dtype)
    for _ in range(300):
        rows, columns, depth = (int(2 ** rng.uniform(0, high)) for high in (22, 12, 22))
        chosen = planned(rows, columns, depth, int(rng.integers(1, 5)), dtype)
        assert chosen.down * chosen.algorithm.block_m >= rows > (chosen.down - 1) * chosen.algorithm.block_m
        assert chosen.across * chosen.algorithm.block_n >= columns > (chosen.across - 1) * chosen.algorithm.block_n
        assert chosen.split_k * chosen.depth_per_split >= depth > (chosen.split_k - 1) * chosen.depth_per_split
        assert chosen.depth_per_split % (16 if dtype.itemsize == 2 else 8) == 0
        partials = chosen.split_k * rows * columns * (8 if dtype.itemsize == 8 else 4)
        assert chosen.split_k == 1 or partials <= LARGEST_WORKSPACE


def test_plans_follow_the_shape():
    vgg = planned(128 * 32 * 32, 64, 9 * 64)
    assert (vgg.algorithm.block_m, vgg.split_k) == (128, 1)  # many outputs: large tiles, no split-K
    filters = planned(64, 9 * 64, 128 * 32 * 32)
    assert filters.split_k > 8  # few outputs, a long depth
    few = planned(128 * 32 * 32, 10, 9 * 10).algorithm
    assert (few.block_m, few.block_n) == (64, 16)  # tiny VGG's ten filters: no tile of 32 columns
    tile = planned(1, 1, 1).algorithm
    assert tile.block_m * tile.block_n == min(a.block_m * a.block_n for a in serving("float32"))


@pytest.mark.parametrize(
    ("direction", "m", "n", "k", "algorithm", "split_k"),
    [
        # Tiles of 128 rows would be half empty; tiles of 64 columns would waste a sixth (216 of 256 are used).
        ("wgrad", 64, 9 * 24, 2000 * 31 * 31, "mma-64x32", 75),
        # 282 tiles, with 264 blocks in a wave: a second wave costs less than a reduction.
        ("fprop", 2000 * 3 * 3, 256, 9 * 256, "mma-128x128", 1),
        ("fprop", 128 * 8 * 8, 64, 9 * 64, "mma-64x64", 1),  # 128 small tiles are one wave without a reduction
        ("wgrad", 512, 9 * 512, 128 * 4 * 4, "mma-128x128", 2),  # 288 blocks; four splits would move twice the partials
    ],
    ids=["narrow-side", "two-waves", "one-wave", "few-splits"],
)
def test_plans_on_tensor_cores_weigh_waves_reductions_and_instructions(direction, m, n, k, algorithm, split_k):
    chosen = plan(Product(f"conv2d_{direction}", m, n, k, 1, as_dtype("bfloat16")))
    assert (chosen.algorithm.name, chosen.split_k) == (algorithm, split_k)


def test_division_by_multiplication_is_exact_for_31_bit_numbers():
    rng = np.random.default_rng(0)
    for d in [1, 2, 3, 5, 7, 2**16 - 1, 2**16, 2**16 + 1, 2**31 - 1, *map(int, rng.integers(1, 2**31, 200))]:
        _, multiplier, shift = fast_divmod(d)
        assert multiplier < 2**32
        near = [(2**31 - 1) // d * d - 1, (2**31 - 1) // d * d, 2**31 - 1, 0, d - 1, d]
        for n in [*near, *map(int, rng.integers(0, 2**31, 50))]:
            if 0 <= n < 2**31:
                assert ((2 * n * multiplier) >> 32) >> shift == n // d


# --- addresses past 2^31 -----------------------------------------------------------------------

# 11.8e9 elements in, 2.9e9 out
LARGE = conv(700, 1400, 2000, 6, 9, (3, 4), stride=(2, 3), padding=((1, 2), (3, 0)), dilation=(3, 2))
MANY_FILTERS = conv(1, 9, 9, 70_000, 40_000, (1, 3))  # 8.4e9 weights


def address_kernel(name):
    """A kernel of addresses.cu."""
    macros = serving("float32")[-1].defines("float32") | dict(ACTIVATION="Identity", VECTOR_C=1, VECTOR_K=1)
    return load(Path(__file__).with_name("addresses.cu"), macros).kernel(name)


def offsets(device, kernel, case, lines, columns, *phase):
    """The tensor offset that a matrix of conv2d.cuh gives at each (line, column); -1 outside of the tensor.

    phase: row and column of the phase, for the matrices of dgrad."""
    run = address_kernel(kernel)
    results, tensor = asarray(np.zeros(len(lines), np.int64), device), asarray(np.zeros(1, np.float32), device)
    indices = [asarray(i.astype(np.int32), device) for i in (lines, columns)]
    run(1, 64, results, tensor, *indices, len(lines), packed(case, 1), *phase)
    return to_numpy(results)


def sample_indices(rng, size, count=400):
    """Indices over the whole range, at its ends and past it."""
    return np.concatenate([rng.integers(0, size, count), [0, 1, size - 1, size, size + 100]])


def coordinates(index, *sizes):
    """The coordinates of a flat index, last axis innermost.

    sizes: of all axes but the first, whose coordinate has no upper limit."""
    inner = []
    for size in reversed(sizes):
        index, remainder = index // size, index % size
        inner.append(remainder)
    return [index, *reversed(inner)]


def test_addresses_past_2_to_the_31_in_the_input_are_right(device, rng):
    case = LARGE
    (r, s), (sh, sw), (dh, dw), ((top, _), (left, _)) = case.kernel_size, case.stride, case.dilation, case.padding
    _, p_size, q_size, _ = case.y_shape
    pixels, taps = sample_indices(rng, case.n * p_size * q_size), rng.permutation(sample_indices(rng, r * s * case.c))
    n, p, q = coordinates(pixels, p_size, q_size)
    r_at, s_at, c = coordinates(taps, s, case.c)
    h, w = p * sh + r_at * dh - top, q * sw + s_at * dw - left
    inside = (n < case.n) & (r_at < r) & (h >= 0) & (h < case.h) & (w >= 0) & (w < case.w)
    expected = np.where(inside, ((n * case.h + h) * case.w + w) * case.c + c, -1)
    assert expected.max() > 2**33
    np.testing.assert_array_equal(offsets(device, "input_windows", case, pixels, taps), expected)


def phases(case):
    """Each phase (row, column) of a stride and the taps r and s that read its pixels."""
    axes = list(zip(case.padding, case.kernel_size, case.stride, case.dilation))
    for phase in np.ndindex(case.stride):
        rs, ss = (taps_that_read(coordinate, *axis) for coordinate, axis in zip(phase, axes))
        yield phase, rs, ss


def taps_that_read(coordinate, padding, size, stride, dilation):
    """Along one axis: the taps that read the pixels whose coordinate is `coordinate` modulo the stride."""
    before, _ = padding
    return np.array([tap for tap in range(size) if (coordinate + before - tap * dilation) % stride == 0], int)


def tap_of(index, rs, ss, filters):
    """r, s and k at flat indices of a phase's taps and filters, and which of these taps exist.

    rs, ss: each r and each s of the phase."""
    tap, k = coordinates(index, filters)
    row, column = tap // max(1, ss.size), tap % max(1, ss.size)
    exists = tap < rs.size * ss.size
    row, column = np.minimum(row, rs.size), np.minimum(column, ss.size)  # past the end: the appended 0
    return np.append(rs, 0)[row], np.append(ss, 0)[column], k, exists


# Strides and dilations with and without a common factor: rows that no, one, two or all three taps read.
PHASED = [
    LARGE,
    varied(LARGE, stride=(2, 2), dilation=(2, 1)),
    varied(LARGE, k=27, stride=(4, 3), dilation=(2, 3)),
    varied(LARGE, stride=(1, 5), dilation=(1, 1)),
]


@pytest.mark.parametrize("case", PHASED, ids=lambda case: f"{case.stride}-{case.dilation}")
def test_addresses_past_2_to_the_31_in_the_gradient_are_right(device, rng, case):
    (sh, sw), (dh, dw), ((top, _), (left, _)) = case.stride, case.dilation, case.padding
    _, p_size, q_size, _ = case.y_shape
    furthest = -1
    for phase, rs, ss in phases(case):
        across, down = ceil_div(case.w, sw), ceil_div(case.h, sh)
        pixels = sample_indices(rng, case.n * down * across)
        taps = rng.permutation(sample_indices(rng, max(1, rs.size * ss.size * case.k)))
        n, i, j = coordinates(pixels, down, across)
        h, w = phase[0] + i * sh, phase[1] + j * sw
        r, s, k, inside = tap_of(taps, rs, ss, case.k)
        p, q = (h + top - r * dh) // sh, (w + left - s * dw) // sw
        inside &= (n < case.n) & (p >= 0) & (p < p_size) & (q >= 0) & (q < q_size)
        expected = np.where(inside, ((n * p_size + p) * q_size + q) * case.k + k, -1)
        furthest = max(furthest, expected.max())
        np.testing.assert_array_equal(offsets(device, "gradient_windows", case, pixels, taps, *phase), expected)
    assert furthest > 2**31


@pytest.mark.parametrize("stride", [(1, 1), (1, 2), (3, 4)])
def test_addresses_past_2_to_the_31_in_the_filters_are_right(device, rng, stride):
    case = varied(MANY_FILTERS, stride=stride)
    r, s = case.kernel_size
    k, taps = sample_indices(rng, case.k), rng.permutation(sample_indices(rng, r * s * case.c))
    expected = np.where((k < case.k) & (taps < r * s * case.c), k * (r * s * case.c) + taps, -1)
    assert expected.max() > 2**32
    np.testing.assert_array_equal(offsets(device, "plain_filters", case, k, taps), expected)

    for phase, rs, ss in phases(case):
        taps, c = sample_indices(rng, max(1, rs.size * ss.size * case.k)), rng.permutation(sample_indices(rng, case.c))
        r_at, s_at, k, exists = tap_of(taps, rs, ss, case.k)
        expected = np.where(exists & (c < case.c), (k * (r * s) + r_at * s + s_at) * case.c + c, -1)
        np.testing.assert_array_equal(offsets(device, "transposed_filters", case, taps, c, *phase), expected)


def test_addresses_past_2_to_the_31_in_the_output_are_right(device):
    out, partial = (asarray(np.zeros(1, np.float32), device) for _ in range(2))
    pitch, row, column = 2**20 + 1, 2**25 + 3, 2**19 + 5
    # The kernel takes `out` for the element at (row, column) of an output that begins over 2^45 elements before it. It
    # computes the element's address from the beginning, and stores 1 there.
    address_kernel("output_address")(1, 32, out, partial, pitch, row, column)
    assert (to_numpy(out), to_numpy(partial)) == (1, 1)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (conv(2**15, 256, 256, 1, 1, (1, 1)), "input pixels"),
        (conv(1, 1, 1, 2**30, 1, (1, 2), padding=((0, 0), (0, 1))), "filter taps"),
        (conv(1, 1, 1, 1, 1, (1, 1), padding=((2**30, 0), (0, 0)), stride=(2**20, 1)), "sides"),
    ],
)
def test_problems_too_large_for_32_bit_indices_are_refused(case, message):
    with pytest.raises(ValueError, match=message):
        expect_within_limits(case)


@pytest.mark.parametrize(
    "outputs", [dict(out="dy", dw="w"), dict(out="x"), dict(dw="x"), dict(db="dy"), dict(db="mask")], ids=str
)
def test_backward_may_write_over_its_inputs(device, outputs):
    """outputs: the outputs, each with the input whose memory it overwrites. The input's original values are used."""
    case = conv(2, 9, 11, 8, 8, (3, 3), padding=((1, 1), (1, 1)))
    x, w, bias, dy = random_arrays(case, np.float32)
    _, mask = ops.conv2d_relu(x, w, bias, **case.window)
    arrays = dict(dy=dy, x=x, w=w, mask=mask)
    expected = separate_gradients(device, case, **arrays)
    inputs = {name: asarray(a.copy(), device) for name, a in arrays.items()}
    outs = {}
    for name, overwritten in outputs.items():
        memory = inputs[overwritten].reshape(-1).view(np.uint8)[: expected[name].nbytes]
        outs[name] = memory.view(np.float32).reshape(expected[name].shape)
    dx, dw = ops.conv2d_backward(inputs["dy"], inputs["x"], inputs["w"], mask=inputs["mask"], **outs, **case.window)
    for name, array in (outs | {"out": dx, "dw": dw}).items():
        np.testing.assert_array_equal(to_numpy(array), expected[name], err_msg=name)


def separate_gradients(device, case: Conv2dProblem, dy, x, w, mask):
    """The gradients by separate ops, under the names of conv2d_backward's outputs: out is dx."""
    dy, x, w, mask = (asarray(a, device) for a in (dy, x, w, mask))
    db = asarray(np.zeros(case.k, np.float32), device)
    dw = ops.conv2d_wgrad(dy, x, kernel_size=case.kernel_size, mask=mask, db=db, **case.window)
    dx = ops.conv2d_dgrad(dy, w, input_shape=x.shape, mask=mask, **case.window)
    return {"out": to_numpy(dx), "dw": to_numpy(dw), "db": to_numpy(db)}


def test_backward_accumulates(device):
    case = conv(2, 9, 11, 8, 8, (3, 3), padding=((1, 1), (1, 1)))
    x, w, _, dy = random_arrays(case, np.float32)
    dw, db = (asarray(np.ones(shape, np.float32), device) for shape in (w.shape, case.k))
    ops.conv2d_backward(*(asarray(a, device) for a in (dy, x, w)), dw=dw, db=db, accumulate=True, **case.window)
    _, expected = expected_results("conv2d_backward", [dy, x, w], case.window)
    assert_within(to_numpy(dw), 1 + expected.value, expected.bound + 1e-6)
    np.testing.assert_allclose(to_numpy(db), 1 + dy.astype(np.float64).sum((0, 1, 2)), rtol=1e-5, atol=1e-4)
