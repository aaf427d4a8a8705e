"""conv2d_backward, which computes both gradients of a convolution, against the separate ops and the oracle."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import asarray, ops, to_numpy
from gpuconv.problems import Conv2dProblem
from gpuconv.verify.conv_problems import conv, random_arrays
from gpuconv.verify.oracle import expected_results
from tests.tolerance import assert_within


@pytest.mark.parametrize(
    "outputs", [dict(out="dy", dw="w"), dict(out="x"), dict(dw="x"), dict(db="dy"), dict(db="mask")]
)
def test_backward_may_write_over_its_inputs(device, outputs):
    """outputs: the outputs, each with the input whose memory it overwrites. The gradients must be those of the inputs
    before they were overwritten."""
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
