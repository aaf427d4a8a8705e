"""Convolutions agree with PyTorch, an independent implementation."""

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.verify.conv_problems import ODD, REAL, TINY, random_arrays, reduction

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")

CASES = [case for case in TINY + ODD if case.fit != "cover" and case.n]
CASES += [pytest.param(case, marks=pytest.mark.slow) for case in REAL]


@pytest.mark.parametrize("case", CASES)
def test_convolutions_and_gradients_equal_pytorchs(case):
    x, w, bias, dy = random_arrays(case)
    tx, tw = (torch.from_numpy(a).permute(0, 3, 1, 2).requires_grad_() for a in (x, w))
    (top, bottom), (left, right) = case.padding
    padded = torch.nn.functional.pad(tx, (left, right, top, bottom))
    ty = torch.nn.functional.conv2d(
        padded, tw, torch.from_numpy(bias), stride=case.stride, dilation=case.dilation, groups=case.groups
    )
    ty.backward(torch.from_numpy(dy).permute(0, 3, 1, 2))

    def agree(ours, theirs, length):
        expected = theirs.detach().permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(ours, expected, rtol=1e-11, atol=1e-14 * (1 + length))

    agree(ops.conv2d(x, w, bias, **case.window), ty, reduction(case, "fprop"))
    dx = ops.conv2d_dgrad(dy, w, input_shape=case.x_shape, **case.window)
    agree(dx, tx.grad, reduction(case, "dgrad"))
    dw = ops.conv2d_wgrad(dy, x, kernel_size=case.kernel_size, **case.window)
    agree(dw, tw.grad, reduction(case, "wgrad"))
    dx, dw = ops.conv2d_backward(dy, x, w, **case.window)
    agree(dx, tx.grad, reduction(case, "dgrad"))
    agree(dw, tw.grad, reduction(case, "wgrad"))
