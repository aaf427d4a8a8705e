"""Convolutions agree with PyTorch, an implementation that shares nothing with ours."""

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.cases import ODD, REAL, TINY

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("oracle_and_numpy")

CASES = [case for case in TINY + ODD if case.fit != "cover" and case.n]
CASES += [pytest.param(case, marks=pytest.mark.slow) for case in REAL]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pytorch_agrees(case):
    x, w, bias, dy = case.arrays()
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

    reduction = case.reduction
    agree(ops.conv2d(x, w, bias, **case.options), ty, reduction["fprop"])
    dx = ops.conv2d_dgrad(dy, w, input_shape=case.x_shape, **case.options)
    agree(dx, tx.grad, reduction["dgrad"])
    dw = ops.conv2d_wgrad(dy, x, kernel_size=case.kernel_size, **case.options)
    agree(dw, tw.grad, reduction["wgrad"])
    dx, dw = ops.conv2d_backward(dy, x, w, **case.options)
    agree(dx, tx.grad, reduction["dgrad"])
    agree(dw, tw.grad, reduction["wgrad"])
