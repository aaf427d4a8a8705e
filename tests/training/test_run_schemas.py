"""A stored value that is not of the kind in its schema is refused, and the error names its path."""

import math

import pytest

from gpuconv.training import run_schemas


def test_the_error_for_a_stored_value_of_a_wrong_kind_names_its_path():
    fitting = {
        run_schemas.TEXT: ["", "x"],
        run_schemas.FLAG: [True, False],
        run_schemas.COUNT: [0, 2**63 - 1],
        run_schemas.OBJECT: [{}],
        run_schemas.NUMBER: [0, -1.5, 1e300],
        run_schemas.NUMBERS: [1, [], [1.5, [2]]],
        run_schemas.NOTHING: [None],
        run_schemas.LAYER: [{"layer": "ReLU"}],
        run_schemas.OPTIMIZER: [{"optimizer": "sgd"}],
    }
    others = {
        run_schemas.TEXT: [1, None],
        run_schemas.FLAG: [0, 1, None],
        run_schemas.COUNT: [-1, 2**63, 1.0, True, "1"],
        run_schemas.OBJECT: [[], None],
        run_schemas.NUMBER: [True, "1", math.nan, math.inf, -math.inf, 10**400, None],
        run_schemas.NUMBERS: [[1, "x"], [[math.nan]], {}, True],
        run_schemas.NOTHING: [0, ""],
        run_schemas.LAYER: [{}, {"layer": 1}, "ReLU"],
        run_schemas.OPTIMIZER: [{}, {"optimizer": None}, "sgd"],
    }
    for kind, values in fitting.items():
        for value in values:
            run_schemas.expect(value, kind, "x")
            run_schemas.expect([value], [kind], "x")
            run_schemas.expect({"y": value}, {"y": kind, "z": kind}, "x")
            run_schemas.expect(None, (kind, run_schemas.NOTHING), "x")
    for kind, values in others.items():
        for value in values:
            with pytest.raises(ValueError, match=f"^x must be {kind.words}, received "):
                run_schemas.expect(value, kind, "x")
            with pytest.raises(ValueError, match=rf"^x\[1\] must be {kind.words}, received "):
                run_schemas.expect([fitting[kind][0], value], [kind], "x")
            with pytest.raises(ValueError, match=rf"^x\.y must be {kind.words}, received "):
                run_schemas.expect({"y": value}, {"y": kind}, "x")
    with pytest.raises(ValueError, match=r"does not know x\.other"):
        run_schemas.expect({"other": 1}, {"y": run_schemas.COUNT}, "x")
