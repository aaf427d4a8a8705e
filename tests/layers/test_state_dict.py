"""States that are loaded in place, in part, or refused."""

import re

import numpy as np
import pytest

from tests.layers.net_with_shortcut import net_of
from tests.toy_run import same_arrays


def test_state_is_loaded_in_place_and_across_precisions():
    source, target = net_of(seed=1, dtype="float64"), net_of(seed=2)
    live = target.state_dict()
    target.load_state_dict(source.state_dict())
    assert all(target.state_dict()[key] is array for key, array in live.items())
    for key, value in source.state_dict().items():
        np.testing.assert_array_equal(live[key], value.astype(live[key].dtype))


def test_a_state_that_does_not_fit_is_refused_before_anything_changes():
    net = net_of()
    before = {key: value.copy() for key, value in net.state_dict().items()}
    state = {key: np.ones_like(value) for key, value in before.items()}
    state["conv9.weight"] = state.pop("conv1.weight")
    state["fc1.bias"] = np.ones(6)
    with pytest.raises(ValueError, match=r"missing conv1\.weight") as caught:
        net.load_state_dict(state)
    assert "unexpected conv9.weight" in str(caught.value)
    assert "fc1.bias has shape (6,) where the net has (5,)" in str(caught.value)
    state = dict(before, **{"fc1.bias": np.ones(5, np.int64), "conv1.bias": np.ones(4, np.float32)})
    with pytest.raises(TypeError, match=r"fc1\.bias must be float32, received int64"):
        net.load_state_dict(state)
    state["fc1.bias"] = np.array(["1", "2", "3", "4", "5"])
    with pytest.raises(TypeError, match=r"fc1\.bias must hold numbers of at most 64 bits, received dtype <U1"):
        net.load_state_dict(state)
    assert same_arrays(net.state_dict(), before)


def test_a_number_out_of_the_range_of_the_nets_dtype_is_refused_before_anything_changes():
    for precision, number in (("float32", 1e39), ("float32", -1e300), ("float16", 65520.0), ("bfloat16", 3.4e38)):
        net, target = net_of(seed=1), net_of(precision=precision)
        before, target_before = (
            {key: value.copy() for key, value in one.state_dict().items()} for one in (net, target)
        )
        state = before | {"fc1.bias": np.array([0, 0, number, 0, 0])}
        with pytest.raises(ValueError, match=rf"fc1\.bias holds {re.escape(f'{number:g}')}.* range of {precision}"):
            target.load_state_dict(state)
        assert same_arrays(target.state_dict(), target_before)
        if precision != "float32":
            net["fc1.bias"][2] = number
            before["fc1.bias"][2] = number
            with pytest.raises(ValueError, match=rf"fc1\.bias holds .* range of {precision}"):
                net.to(precision=precision)
        assert net.dtype == np.float32
        assert same_arrays(net.state_dict(), before)
    state["fc1.bias"][2] = np.inf  # infinite already, so nothing goes out of range
    net.load_state_dict(state)


def test_a_state_that_fits_in_part_is_loaded_if_not_strict(net):
    state = {key: np.asarray(value) + 1 for key, value in net.state_dict().items() if not key.startswith("fc1")}
    before = net["fc1"]["weight"].copy()
    missing, unexpected = net.load_state_dict(state | {"head.weight": np.zeros(3)}, strict=False)
    assert missing == ["fc1.weight", "fc1.bias"]
    assert unexpected == ["head.weight"]
    np.testing.assert_array_equal(net["fc1"]["weight"], before)
    np.testing.assert_array_equal(net["conv1"]["weight"], state["conv1.weight"])
    with pytest.raises(ValueError, match=r"missing fc1.weight; missing fc1.bias"):
        net.load_state_dict(state)
    with pytest.raises(ValueError, match=r"conv1.bias has shape"):
        net.load_state_dict({"conv1.bias": np.zeros(7, "f4")}, strict=False)
    assert net.load_state_dict(net.state_dict()) == ([], [])


def test_unexpected_keys_may_hold_anything(net):
    state = {**net.state_dict(), "note": "run 3"}
    assert net.load_state_dict(state, strict=False) == ([], ["note"])
    with pytest.raises(ValueError, match="unexpected note"):
        net.load_state_dict(state)
