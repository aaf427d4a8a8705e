"""Muon's kernels and their batched matrix products, on shapes that the shared cases do not cover."""

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.backends.cuda.ops import muon
from gpuconv.newton_schulz import MATMUL_PRECISIONS
from gpuconv.profiling.launches import record_launches
from gpuconv.verify.bounds import accumulation, rounding
from tests.kernels.agreement import ORACLE
from tests.tolerance import assert_within, sum_bound

# Matrices of several tiles, matrices whose products have a split depth, and the filters of a convolution.
SHAPES = [(130, 70), (130, 70), (5, 9100), (5, 9100), (9, 2, 2, 4)]


def random_lists(rng, dtype):
    """Parameters, gradients and velocities."""
    return [[rng.standard_normal(shape).astype(dtype) for shape in SHAPES] for _ in range(3)]


def on_device(lists, device):
    return [[asarray(array, device) for array in arrays] for arrays in lists]


def changed_arrays(lists):
    """What a step changes: the parameters and the velocities."""
    params, _, velocities = lists
    return [*params, *velocities]


def test_several_tiles_and_split_k_agree_with_the_oracle(device, rng):
    on_host = random_lists(rng, np.float64)
    arrays = on_device(on_host, device)
    for _ in range(2):
        ops.muon_step(*arrays, lr=0.1, momentum=0.6, nesterov=True)
        ops.muon_step(*on_host, lr=0.1, momentum=0.6, nesterov=True)
    for one, other in zip(changed_arrays(arrays), changed_arrays(on_host)):
        np.testing.assert_allclose(to_numpy(one), other, rtol=0, atol=1e-11)


@pytest.mark.parametrize("precision", MATMUL_PRECISIONS)
def test_two_runs_give_the_same_bits(device, rng, precision):
    on_host = random_lists(rng, np.float32)
    runs = [on_device(on_host, device) for _ in range(2)]
    for arrays in runs:
        ops.muon_step(*arrays, lr=0.1, momentum=0.6, precision=precision)
    for one, other in zip(*map(changed_arrays, runs)):
        np.testing.assert_array_equal(to_numpy(one), to_numpy(other))


def test_strided_parameters_change_in_place_and_zeros_stay_finite(device, rng):
    base = rng.standard_normal((6, 8))
    param, grad = asarray(base, device), asarray(np.zeros((6, 4)), device)
    zero, push = asarray(np.zeros((2, 3)), device), asarray(np.eye(2, 3), device)
    velocities = [asarray(np.zeros((6, 4)), device), asarray(np.zeros((2, 3)), device)]
    ops.muon_step([param[:, ::2], zero], [grad, push], velocities, lr=asarray(np.array([0.5]), device), steps=0)
    # Muon scales a parameter to the norm sqrt(rows)
    scaled = base[:, ::2] * np.sqrt(6) / np.linalg.norm(base[:, ::2])
    assert_within(to_numpy(param)[:, ::2], scaled, sum_bound("float64", scaled.size, scaled))
    np.testing.assert_array_equal(to_numpy(param)[:, 1::2], base[:, 1::2])
    # the formula leaves out eps
    np.testing.assert_allclose(to_numpy(zero), -0.5 * np.eye(2, 3) / np.sqrt(2), rtol=1e-6)


def test_norms_are_right_if_a_matrix_has_more_parts_than_a_block_has_threads(device):
    """Each block adds up 257 partial sums of squares with 256 threads."""
    shape = (1, 257 * muon._PER_BLOCK)
    param, grad, velocity = (asarray(np.full(shape, value, np.float32), device) for value in (2, 3, 0))
    ops.muon_step([param], [grad], [velocity], lr=0.25, steps=0)
    # the scaled parameter and the direction both have the norm 1, and the rate is 0.25
    np.testing.assert_allclose(to_numpy(param), 0.75 / np.sqrt(shape[1]), rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_step_with_a_rate_of_0_in_device_memory_only_scales_the_parameters(device, rng, dtype):
    arrays = on_device(random_lists(rng, dtype), device)
    params, _, _ = arrays
    before = [to_numpy(param).copy() for param in params]
    rate = asarray(np.array([0.0], np.float32), device)
    ops.muon_step(*arrays, lr=rate)
    for old, new in zip(before, params):
        wide = old.astype(np.float64)
        expected = wide * np.sqrt(len(old)) / np.linalg.norm(wide)
        error = np.abs(to_numpy(new).astype(np.float64) - expected)
        assert (error <= accumulation(dtype, old.size + 4, expected) + rounding(dtype, expected)).all()


def test_a_skipped_step_changes_nothing(device, rng):
    arrays = on_device(random_lists(rng, np.float32), device)
    _, grads, _ = arrays
    grads[0][0, 0] = np.nan  # the reason to skip the step
    before = [to_numpy(array).copy() for array in changed_arrays(arrays)]
    scaling = asarray(np.array([8.0, 0.0, 0.0, 1.0]), device)
    ops.muon_step(*arrays, None, scaling, lr=0.1, momentum=0.6)
    for old, new in zip(before, changed_arrays(arrays)):
        np.testing.assert_array_equal(to_numpy(new), old)


@pytest.mark.parametrize("depth_first", [False, True])
def test_batched_products_are_right(device, rng, depth_first):
    a, b = rng.standard_normal((3, 5, 40)), rng.standard_normal((3, 40, 70) if depth_first else (3, 70, 40))
    y = asarray(np.zeros((3, 5, 70)), device)
    muon._matmul(y, asarray(a, device), asarray(b, device), False, depth_first=depth_first)
    b = b if depth_first else b.transpose(0, 2, 1)
    assert_within(to_numpy(y), a @ b, sum_bound("float64", 40, np.abs(a) @ np.abs(b)))


@pytest.mark.parametrize("depth_first", [False, True])
@pytest.mark.parametrize("columns", [70, 64], ids=["numbers-one-by-one", "numbers-moved-wide"])
def test_a_matrix_is_added_to_a_product(device, rng, depth_first, columns):
    a, c = rng.standard_normal((3, 5, 40)), rng.standard_normal((3, 5, columns))
    b = rng.standard_normal((3, 40, columns) if depth_first else (3, columns, 40))
    y, *factors = (asarray(array, device) for array in (np.zeros_like(c), a, b))
    muon._matmul(y, *factors, False, 0.75, (-1.5, asarray(c, device)), depth_first=depth_first)
    b = b if depth_first else b.transpose(0, 2, 1)
    bound = sum_bound("float64", 43, 0.75 * np.abs(a) @ np.abs(b) + 1.5 * np.abs(c))
    assert_within(to_numpy(y), 0.75 * a @ b - 1.5 * c, bound)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
@pytest.mark.parametrize("shape", [(130, 70), (5, 9100), (48, 3, 3, 20), (7, 9)])
def test_tensor_cores_multiply_and_round_as_the_oracle(device, rng, shape, precision):
    """The rate is so high that the rounding of the parameters does not matter."""
    on_host = [[rng.standard_normal(shape).astype(np.float32)] for _ in range(3)]
    rounded_lists, exact = on_device(on_host, device), on_device(on_host, device)
    with record_launches() as launches:
        ops.muon_step(*rounded_lists, lr=100.0, momentum=0.6, steps=1, precision=precision)
    products = [launch.kernel.name for launch in launches if launch.kernel.name.startswith("matmul")]
    assert products == ["matmul_mma"] * 3
    ops.muon_step(*exact, lr=100.0, momentum=0.6, steps=1)
    ops.muon_step(*on_host, lr=100.0, momentum=0.6, steps=1, precision=precision)
    (expected,), _, _ = on_host
    error, difference = (np.abs(to_numpy(param) - expected).mean() for (param,), _, _ in (rounded_lists, exact))
    # a sum close to the midpoint of two numbers of that precision may be rounded the other way
    assert error < difference / 10


@pytest.mark.parametrize("shape", [(48, 3, 3, 20), (160, 40), (6, 6)])
def test_five_steps_in_bfloat16_bring_the_singular_values_near_one_as_in_the_oracle(device, rng, shape):
    on_host = [[rng.standard_normal(shape).astype(np.float32)] for _ in range(3)]
    directions = []
    for arrays in (on_device(on_host, device), on_device(on_host, ORACLE)):
        (param,), _, _ = arrays
        before = to_numpy(param).copy()
        ops.muon_step(*arrays, lr=1.0, momentum=0.6, precision="bfloat16")
        scaled = before * np.sqrt(len(before)) / np.linalg.norm(before)
        directions.append((scaled - to_numpy(param)).reshape(len(before), -1))
    for direction in directions:
        values = np.linalg.svd(direction, compute_uv=False)
        assert values.min() > 0.5
        assert values.max() < 1.3
    assert np.linalg.norm(directions[0] - directions[1]) < 0.05 * np.linalg.norm(directions[1])


def test_tf32_true_means_the_precision_tf32(device, rng):
    on_host = random_lists(rng, np.float32)
    one, other = on_device(on_host, device), on_device(on_host, device)
    ops.muon_step(*one, lr=0.1, tf32=True)
    ops.muon_step(*other, lr=0.1, precision="tf32")
    for array, same in zip(one[0], other[0]):
        np.testing.assert_array_equal(to_numpy(array), to_numpy(same))
