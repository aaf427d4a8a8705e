"""The arguments that an op passes to its backend, in one form for all spellings of a call."""

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.backends import cpu
from gpuconv.problems import Conv2dProblem, Epilogue, Pool2dProblem
from tests.ops.refusals.arrays import PARAMS, W, X, Y, zeros


@pytest.fixture
def received(monkeypatch):
    """The arguments that a call of an op passes to its backend, by position and by name."""

    def call(op, *arrays, **options):
        calls = []
        monkeypatch.setattr(
            getattr(cpu, ops.OPS[op].family), op, lambda *arguments, **named: calls.append((arguments, named))
        )
        getattr(ops, op)(*arrays, **options)
        return calls[0]

    return call


def test_arguments_reach_the_backend_in_normal_form(received):
    (x, w, bias, problem, epilogue), options = received("conv2d", X, W, stride=(2, 1), padding="valid", fit="Exact")
    assert (x is X, w is W, bias) == (True, True, None)
    assert problem is Conv2dProblem.of(X.shape, W.shape, stride=(2, 1), fit="exact")
    assert epilogue is Epilogue.of()
    assert options == dict(algo="auto", tf32=False, out=None)
    (_, pool), _ = received("max_pool2d", X, kernel_size=[2, 3])
    assert pool is Pool2dProblem.of(X.shape, (2, 3), stride=(2, 3))
    (*_, epilogue), _ = received("conv2d", X, W, activation="Leaky-ReLU")
    assert epilogue is Epilogue.of("leaky_relu")
    (*_, problem, epilogue), options = received("conv2d_dgrad", Y, W, input_shape=[2, np.int64(5), 7, 4])
    assert problem is Conv2dProblem.of(X.shape, W.shape)
    assert epilogue is Epilogue.of()
    assert options == dict(mask=None, algo="auto", tf32=False, out=None, accumulate=False)
    _, options = received("sgd_step", PARAMS, PARAMS, lr=1, weight_decay=0.5)
    assert options["weight_decay"] == (0.5, 0.5)


def test_a_gradient_receives_the_epilogue_of_the_forward_pass(received):
    x, w = zeros(2, 6, 6, 4), zeros(3, 3, 3, 4)
    dy, mask = zeros(2, 2, 2, 3), np.zeros((2, 2, 2, 2), np.uint8)
    expected = Epilogue.of(pool=2, masked=True)
    (*_, epilogue), _ = received("conv2d_relu", x, w, pool=np.int64(2), activation=None)
    assert epilogue is expected
    (*_, epilogue), _ = received("conv2d_relu", x, w, pool=np.int64(2))
    assert epilogue is Epilogue.of("relu", pool=2, masked=True)
    (*_, epilogue), _ = received("conv2d_relu", x, w, activation="GELU")
    assert epilogue is Epilogue.of("gelu", saves_input=True)
    for op, arrays, options in (
        ("conv2d_dgrad", (dy, w), {"input_shape": x.shape}),
        ("conv2d_wgrad", (dy, x), {"kernel_size": 3}),
        ("conv2d_backward", (dy, x, w), {}),
    ):
        (*_, problem, epilogue), keywords = received(op, *arrays, **options, mask=mask, pool=2)
        assert problem is Conv2dProblem.of(x.shape, w.shape), op
        assert epilogue is expected, op
        assert keywords["mask"] is mask, op
