"""State dicts in PyTorch's names and layouts, to and from ours, without PyTorch."""

import numpy as np
import pytest

from gpuconv import interop, models
from gpuconv.layers import BatchNorm, Conv2D, Dropout, Flatten, Input, Layer, Linear, MaxPool2D, ReLU, Sequential

RANDOM = np.random.default_rng(21)


def net(**options):
    return Sequential(
        [
            Input((4, 6, 2)),
            Conv2D(3, 3, padding=1),
            BatchNorm(),
            ReLU(),
            MaxPool2D(2),
            Dropout(0.2),
            Flatten(),
            BatchNorm(),
            Linear(5),
            ReLU(),
            Linear(4, bias=False),
        ],
        **options,
    )


def torch_state():
    """Random values under the names and in the shapes that torch.nn.Sequential gives this net."""
    shapes = {
        "0.weight": (3, 2, 3, 3),
        "0.bias": (3,),
        "1.weight": (3,),
        "1.bias": (3,),
        "1.running_mean": (3,),
        "1.running_var": (3,),
        "1.num_batches_tracked": (),
        "6.weight": (18,),
        "6.bias": (18,),
        "6.running_mean": (18,),
        "6.running_var": (18,),
        "6.num_batches_tracked": (),
        "7.weight": (5, 18),
        "7.bias": (5,),
        "9.weight": (4, 5),
    }
    state = {key: RANDOM.random(shape).astype(np.float32) + 0.1 for key, shape in shapes.items()}
    return state | {key: np.array(41, np.int64) for key in state if key.endswith("tracked")}


def test_weights_are_moved_to_the_positions_computed_by_hand():
    state = torch_state()
    ours = interop.from_torch(state, net())
    np.testing.assert_array_equal(ours["conv1.weight"][2, 0, 1], state["0.weight"][2, :, 0, 1])
    np.testing.assert_array_equal(ours["norm1.running_var"], state["1.running_var"])
    h, w, c = 1, 2, 1  # of the (2, 3, 3) volume that is flattened
    assert ours["fc1.weight"][4, (h * 3 + w) * 3 + c] == state["7.weight"][4, (c * 2 + h) * 3 + w]
    assert ours["norm2.bias"][(h * 3 + w) * 3 + c] == state["6.bias"][(c * 2 + h) * 3 + w]
    np.testing.assert_array_equal(ours["fc2.weight"], state["9.weight"])
    assert ours["dropout1.offset"].tolist() == [0]


def test_a_round_trip_gives_the_same_bits():
    state, ours = torch_state(), net(seed=5)
    ours.load_state_dict(interop.from_torch(state, ours))
    back = interop.to_torch(ours, like=state)
    assert list(back) == list(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)
        assert back[key].dtype == value.dtype
        assert back[key].flags.c_contiguous


def test_the_reverse_round_trip_gives_the_same_bits_for_a_residual_net():
    source, target = models.resnet20(seed=1), models.resnet20(seed=2)
    state = interop.to_torch(source)
    assert state["residual4.shortcut.conv1.weight"].shape == (32, 16, 1, 1)
    assert state["norm1.num_batches_tracked"] == 0
    target.load_state_dict(interop.from_torch(state, target))
    for key, value in source.state_dict().items():
        np.testing.assert_array_equal(target.state_dict()[key], value)


def test_channel_values_are_not_reordered_after_a_user_layer_that_turns_features_into_a_volume():
    class Unflatten(Layer):
        def plan(self, input_shape):
            return 2, 3, 2

    ours = Sequential([Input((2, 3, 2)), Flatten(), Unflatten(), Conv2D(12, 1), BatchNorm()])
    ours["norm1.running_mean"][:] = range(12)  # as many channels as there were features
    state = interop.to_torch(ours)
    assert state["norm1.running_mean"].tolist() == [*range(12)]
    assert interop.from_torch(state, ours)["norm1.running_mean"].tolist() == [*range(12)]


def test_a_net_without_shapes_and_anything_but_a_net_is_refused():
    unbuilt = Sequential([Linear(2)])
    for use in (interop.to_torch, lambda net: interop.from_torch({}, net)):
        with pytest.raises(RuntimeError, match=r"no shapes yet: begin it with Input\(...\)"):
            use(unbuilt)
        with pytest.raises(TypeError, match=r"net .*received .*int"):
            use(5)


def test_text_is_not_taken_for_true():
    with pytest.raises(TypeError, match="strict must be True or False, received 'no'"):
        interop.from_torch({}, net(), strict="no")
    with pytest.raises(TypeError, match="tensors must be True or False, received 'no'"):
        interop.to_torch(net(), tensors="no")


def test_the_returned_state_is_a_copy():
    ours = net()
    interop.to_torch(ours)["fc2.weight"][...] = 9
    assert not (ours["fc2"]["weight"] == 9).any()


def test_all_mismatches_are_named_in_one_error():
    state = torch_state()
    state["0.weight"] = state["0.weight"][:, :1]
    del state["7.bias"]
    state["9.bias"] = np.ones(4, np.float32)
    state["11.weight"] = np.ones(4, np.float32)
    with pytest.raises(ValueError, match="does not fit") as caught:
        interop.from_torch(state, net())
    shapes = "0.weight has shape (3, 1, 3, 3) where conv1 takes (3, 2, 3, 3)"
    for message in (shapes, "missing 7.bias for fc1", "unexpected 9.bias for fc2", "unexpected 11"):
        assert message in str(caught.value)
    with pytest.raises(ValueError, match="no module is left for fc2"):
        interop.from_torch({key: value for key, value in torch_state().items() if key != "9.weight"}, net())
    with pytest.raises(ValueError, match=r"no module is left for fc2.*0\.weight has shape \(3,\)"):
        interop.to_torch(net(), like={"0.weight": np.ones(3)})
    with pytest.raises(ValueError, match=r"unexpected 9\.bias for fc2"):
        interop.to_torch(net(), like=torch_state() | {"9.bias": np.ones(4, np.float32)})
