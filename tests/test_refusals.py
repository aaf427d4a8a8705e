"""What every op refuses: the type and message of each error, raised before anything is computed."""

import importlib
import re

import pytest

from gpuconv import ops

FAMILIES = sorted({op.family for op in ops.OPS.values()} - {"random"})  # those are in tests/test_random.py
REFUSALS = [case for family in FAMILIES for case in importlib.import_module(f"tests.refusals.{family}").REFUSALS]
IDS = [
    f"{op.__name__}-{words if len(words) < 90 else words[:45] + ' ... ' + words[-40:]}"
    for op, _, _, _, words in REFUSALS
]


@pytest.mark.parametrize(("op", "arrays", "options", "error", "words"), REFUSALS, ids=IDS)
def test_a_wrong_argument_is_refused(op, arrays, options, error, words):
    with pytest.raises(error, match=re.escape(words)) as raised:
        op(*arrays, **options)
    assert raised.type is error


def test_every_op_has_a_refusal():
    """Ops that share their check with another op need none of their own."""
    shared = {"relu", "relu6", "sigmoid", "silu", "hard_swish", "hard_swish_backward"}
    shared |= {"relu6_backward", "sigmoid_backward", "tanh_backward", "leaky_relu_backward"}
    elsewhere = {name for name in ops.__all__ if name.startswith("random_")}  # tests/test_random.py
    assert {case[0].__name__ for case in REFUSALS} | shared | elsewhere >= set(ops.__all__)
