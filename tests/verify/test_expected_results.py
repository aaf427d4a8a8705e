"""The expected results of calls that leave options out."""

from __future__ import annotations

import numpy as np
import pytest

from gpuconv import ops
from gpuconv.verify.compare import compare, results
from gpuconv.verify.oracle import expected_results
from gpuconv.verify.run import copied


def random(*shape):
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


STEP = [[random(3, 4)], [random(3, 4)], [random(3, 4)], None, None, [random(3, 4)]]


@pytest.mark.parametrize(
    ("op", "arrays", "options"),
    [
        ("sgd_step", STEP, {"lr": 0.1}),
        ("muon_step", STEP, {"lr": 0.1}),
        ("conv2d_relu", [random(2, 5, 5, 3), random(4, 3, 3, 3)], {}),
        ("batch_norm_backward", [random(6, 3), random(6, 3), random(3), random(3), abs(random(3))], {}),
    ],
    ids=[
        "sgd_step without ema",
        "muon_step without ema",
        "conv2d_relu without pool",
        "batch_norm_backward without training",
    ],
)
def test_an_omitted_option_has_the_ops_default(op, arrays, options):
    expected = expected_results(op, copied(arrays), options)
    given = copied(arrays)
    found = results(op, given, getattr(ops, op)(*given, **options))
    assert len(found) == len(expected)
    for one, result in zip(expected, found.values()):
        assert not compare(one, result).wrong, one.name
