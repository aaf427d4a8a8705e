"""Integer options of every op refuse floats, booleans, text and numbers beyond 64 bits."""

import inspect
import re

import numpy as np
import pytest

from gpuconv import ops, verify
from tests.ops.example_calls import calls, copied

INTEGER_TYPES = {"int", "int | None", "Size", "Size | None", "Padding", "Sequence[int]", "Sequence[int] | None"}
INTEGER_SCALARS = {"step", "offset", "start"}  # each a number, or an array of one element


def integer_options(op):
    parameters = inspect.signature(getattr(ops, op)).parameters.values()
    for parameter in parameters:
        takes_integers = re.search(r"\bint\b", str(parameter.annotation)) and parameter.name not in INTEGER_SCALARS
        assert not takes_integers or parameter.annotation in INTEGER_TYPES, f"{op}: {parameter}"
    return [
        parameter.name
        for parameter in parameters
        if parameter.annotation in INTEGER_TYPES or parameter.name in INTEGER_SCALARS
    ]


@pytest.mark.parametrize("device", ["numpy", "emulated"])
def test_every_integer_option_refuses_floats_booleans_text_and_numbers_beyond_64_bits(device):
    tried = set()
    for op in ops.__all__:
        for name in integer_options(op):
            (call, *_) = calls(op, 1)
            arguments = {key: verify.run.to_device(copied(value), device) for key, value in call.items()}
            for value, error in (
                (2**64, ValueError),
                (10**20, ValueError),
                (10**5000, ValueError),
                (-(2**63) - 1, ValueError),
                (True, TypeError),
                (2.5, TypeError),
                (np.float64(2), TypeError),
                ("2", (TypeError, ValueError)),
            ):
                argument = (2, value, 3, 3) if name == "input_shape" else value
                with pytest.raises(error, match=rf"\b{name}\b"):
                    getattr(ops, op)(**arguments | {name: argument})
                tried.add((op, name))
    assert len(tried) > 60
