"""Kernels over a list of gradients: clipping by norm and by value, and the search for overflows that sets the loss
scale."""

import weakref

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.backends.cuda import emulator
from gpuconv.backends.cuda.ops import optim
from gpuconv.dtypes import FLOAT_NAMES, as_dtype
from gpuconv.verify.rules.base import as_float64
from tests.kernels.agreement import random, thread_orders
from tests.tolerance import assert_within, sum_bound


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_overflow_is_found_at_the_start_and_around_the_boundary_of_two_blocks(device, dtype):
    """The first 20 elements, and those around the boundary of two blocks, are made infinite one after another, in an
    aligned array and in an unaligned one."""
    largest = as_dtype(dtype).type(3.3895e38) if dtype == "bfloat16" else np.finfo(as_dtype(dtype)).max
    numbers = np.full(8192 + 11, largest, as_dtype(dtype))
    for offset in (0, 1):
        grads = [asarray(numbers.copy(), device)[offset:], asarray(np.ones(3, np.float32), device)]
        for index in (*range(20), 8180, *range(8188, len(numbers) - offset)):
            scaling = asarray(np.array([2.0, 0, 0, 0]), device)
            grads[0][index] = -np.inf
            ops.update_loss_scale(scaling, grads)
            assert to_numpy(scaling).tolist() == [1, 0, 0, 1], index
            grads[0][index] = largest
        scaling = asarray(np.array([2.0, 0, 0, 0]), device)
        ops.update_loss_scale(scaling, grads, interval=1)
        assert to_numpy(scaling).tolist() == [4, 0.5, 0, 0]


@pytest.mark.parametrize("dtype", FLOAT_NAMES)
def test_clipping_of_aligned_and_unaligned_gradients_agrees_with_numpy(device, rng, dtype):
    """The gradients have several dtypes and fill several blocks. The norm has the same bits in each thread order."""
    for offset in (0, 1):
        large = random(rng, (20011 + offset,), dtype)
        grads = [large[offset:], random(rng, (5, 3), "float32"), random(rng, (0,), dtype)]
        on_device = [asarray(large, device)[offset:], *(asarray(grad, device) for grad in grads[1:])]
        norms = set()
        for order in thread_orders(device):
            with order:
                result = asarray(np.zeros(4), device)
                ops.clip_norm(result, on_device, asarray(np.array([2.0, 0.5, 4, 1]), device), max_norm=3.0)
            norms.add(to_numpy(result).tobytes())
        (bits,) = norms
        unscaled_norm = 0.5 * np.sqrt(sum((as_float64(grad) ** 2).sum() for grad in grads))
        np.testing.assert_allclose(np.frombuffer(bits), [2, 0.5 * 3 / (unscaled_norm + 1e-6), 4, 1], rtol=1e-12)
        ops.clip_values(on_device, asarray(np.array([2.0, 0.5, 4, 1]), device), clip_value=0.25)
        for clipped, before in zip(on_device, grads):
            np.testing.assert_array_equal(
                to_numpy(clipped), np.clip(before.astype(np.float64), -0.5, 0.5).astype(before.dtype)
            )


def test_the_norm_adds_up_the_partial_sums_of_more_blocks_than_a_block_has_threads(device):
    result = asarray(np.zeros(4), device)
    grads = [asarray(np.full(1, number, np.float32), device) for number in range(600)]
    ops.clip_norm(result, grads, max_norm=1.0)
    norm = np.sqrt(np.sum(np.arange(600.0) ** 2))
    expected = np.array([1, 1 / (norm + 1e-6), 0, 0])
    assert_within(to_numpy(result), expected, sum_bound("float64", 600, expected))


@pytest.mark.parametrize("number", [1.0, np.inf])
def test_a_skipped_step_stays_skipped_when_the_norm_is_clipped(device, number):
    result, scaling = asarray(np.zeros(4), device), asarray(np.array([8.0, 0.0, 0, 1]), device)
    ops.clip_norm(result, [asarray(np.full(3, number, np.float32), device)], scaling, max_norm=1.0)
    assert to_numpy(result).tolist() == [8, 0, 0, 1]


def test_copies_of_strided_gradients_live_until_the_launch(device, monkeypatch):
    """The table of the launch has only the addresses of the copies."""
    copies, contiguous = [], optim.contiguous
    alive, optim_load = [], optim.load  # alive: at each launch, whether each copy lives

    def recorded_copies(*arrays):
        results = contiguous(*arrays)
        copies.extend(weakref.ref(array) for array in results)
        return results

    def load(file):
        alive.append([copy() is not None for copy in copies])
        return optim_load(file)

    monkeypatch.setattr(optim, "contiguous", recorded_copies)
    monkeypatch.setattr(optim, "load", load)
    grads = [asarray(np.ones((4, 2), np.float32), device)[:, 0], asarray(np.ones((6, 2), np.float32), device)[:, 1]]
    scaling = asarray(np.array([2.0, 0.5, 0, 0]), device)
    for call in (
        lambda: ops.clip_norm(scaling, grads, max_norm=1.0),
        lambda: ops.clip_values(grads, clip_value=1.0),
        lambda: ops.update_loss_scale(scaling, grads),
        lambda: ops.update_loss_scale(scaling, []),
    ):
        copies.clear()
        alive.clear()
        call()
        assert alive, "a kernel must be launched"
        assert alive[-1]
        assert all(alive[-1])


def test_wide_accesses_begin_at_multiples_of_16_bytes(device, rng):
    numbers = rng.standard_normal(100).astype(np.float32)
    for offset in range(17):
        on_device = asarray(numbers, device)
        with emulator.configure(sanitize="checked"):
            ops.clip_values([on_device[offset : offset + 24]], clip_value=0.5)
        expected = numbers.copy()
        expected[offset : offset + 24] = numbers[offset : offset + 24].clip(-0.5, 0.5)
        np.testing.assert_array_equal(to_numpy(on_device), expected)


def test_clipping_without_gradients_is_allowed(device):
    result = asarray(np.zeros(4), device)
    for grads in ([], [asarray(np.zeros((0, 3), np.float32), device)]):
        ops.clip_norm(result, grads, max_norm=1.0)
        assert to_numpy(result).tolist() == [1, 1, 0, 0]
        if grads:
            ops.clip_values(grads, clip_value=1.0)


def test_a_step_without_gradients_counts_as_finite(device):
    scaling = asarray(np.array([2.0, 0, 0, 0]), device)
    ops.update_loss_scale(scaling, [])
    ops.update_loss_scale(scaling, [asarray(np.zeros((0, 3), np.float32), device)])
    assert to_numpy(scaling).tolist() == [2, 0.5, 2, 0]
