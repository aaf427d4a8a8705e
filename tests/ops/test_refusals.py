"""What every op refuses, with the type and message of each error; `tests/ops/refusals` has the calls."""

import importlib
import re

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import ops
from gpuconv.backends import cpu
from tests.ops.refusals.arrays import F32

FAMILIES = sorted({op.family for op in ops.OPS.values()})
REFUSALS = [case for family in FAMILIES for case in importlib.import_module(f"tests.ops.refusals.{family}").REFUSALS]
IDS = [
    f"{op.__name__}-{words if len(words) < 90 else words[:45] + ' ... ' + words[-40:]}"
    for op, _, _, _, words in REFUSALS
]


@pytest.mark.parametrize(("op", "arrays", "options", "error", "words"), REFUSALS, ids=IDS)
def test_a_wrong_argument_is_refused_before_the_backend_is_called(op, arrays, options, error, words, monkeypatch):
    family = getattr(cpu, ops.OPS[op.__name__].family)
    monkeypatch.setattr(family, op.__name__, lambda *_, **__: pytest.fail("the backend was called"))
    with pytest.raises(error, match=re.escape(words)) as raised:
        op(*arrays, **options)
    assert raised.type is error


def test_every_op_has_a_refusal():
    """Ops that share their check with another op need none of their own."""
    shared = {"relu6", "sigmoid", "silu", "hard_swish", "hard_swish_backward"}
    shared |= {"relu6_backward", "sigmoid_backward", "tanh_backward", "leaky_relu_backward"}
    assert set(ops.__all__) - {case[0].__name__ for case in REFUSALS} == shared


# --- refusals by the backend ---------------------------------------------------------------------


@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_indices_and_labels_out_of_range_are_refused_where_the_host_can_read_them(device):
    def on_device(values, dtype=np.int64):
        return gc.asarray(np.array(values, dtype), device)

    images, labels, vector = (
        on_device(np.zeros((4, 2, 2, 3)), np.uint8),
        on_device([0, 1, 1, 0]),
        on_device([1] * 3, F32),
    )
    for indices, more, words in (
        ([0, 4], {}, "indices must lie in [0, 4), received 4 at index 1"),
        ([-1], {}, "indices must lie in [0, 4), received -1 at index 0"),
        ([0, 1], {"start": 1, "count": 2}, "indices has 2 entries; a batch of 2 from 1 on does not fit"),
        ([0, 1], {"start": 2**62, "count": 2**62}, "does not fit"),
        ([0, 1], {"start": on_device([1]), "count": 2}, "a batch of 2 from 1 on does not fit"),
        ([0, 1], {"start": on_device([-1]), "count": 1}, "a batch of 1 from -1 on does not fit"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            ops.load_batch(images, labels, on_device(indices), mean=vector, std=vector, **more)
    x = on_device(np.zeros((4, 2, 2, 3)), F32)
    with pytest.raises(ValueError, match=re.escape("labels must lie in [0, 3), received 3 at index 1")):
        ops.mix_batch(x, on_device([0, 3, 1, 1]), vector, classes=3)


def test_strides_too_large_for_the_kernels_are_refused():
    x, w = (gc.asarray(np.ones((1, side, side, 1), np.float32), "emulated") for side in (4, 2))
    with pytest.raises(ValueError, match="the product of both strides is at most"):
        ops.conv2d(x, w, stride=2**31 - 1)
