"""The kernels of group normalization: thread orders and views."""

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from tests.kernels.agreement import assert_same_bits


@pytest.mark.parametrize(("shape", "groups"), [((2, 5, 7, 12), 3), ((70, 33), 1), ((1, 3, 3, 512), 256)])
def test_group_norm_has_the_same_bits_in_several_thread_orders(device, rng, shape, groups):
    dy, x = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    gamma, beta = (rng.normal(size=shape[-1]).astype(np.float32) for _ in range(2))
    mean, inv_std = (rng.uniform(0.5, 1, size=(shape[0], groups)).astype(np.float32) for _ in range(2))
    assert_same_bits("group_norm", device, x, gamma, beta, groups=groups)
    assert_same_bits("group_norm_backward", device, dy, x, gamma, mean, inv_std)


def test_group_norm_may_overwrite_its_input_and_work_on_views(device, rng):
    x, dy = (rng.normal(size=(4, 3, 8)).astype(np.float32) for _ in range(2))
    gamma, beta = (asarray(rng.normal(size=8).astype(np.float32), device) for _ in range(2))
    memory = asarray(x, device)
    view, half = memory[::2], asarray(x[::2].copy(), device)
    y, mean, inv_std = ops.group_norm(half, gamma, beta, groups=2)
    dx, _, _ = ops.group_norm_backward(asarray(dy[::2].copy(), device), half, gamma, mean, inv_std)
    dy_view = asarray(dy, device)[::2]
    in_place, _, _ = ops.group_norm_backward(dy_view, view, gamma, mean, inv_std, out=dy_view)
    np.testing.assert_array_equal(to_numpy(in_place), to_numpy(dx))
    assert ops.group_norm(view, gamma, beta, groups=2, out=view)[0] is view
    np.testing.assert_array_equal(to_numpy(memory)[::2], to_numpy(y))
    np.testing.assert_array_equal(to_numpy(memory)[1::2], x[1::2])
