"""Tensors and modules of PyTorch, to and from our arrays."""

import numpy as np
import pytest

from gpuconv import interop
from gpuconv.layers import BatchNorm, Branches, Conv2D, Flatten, GroupNorm, Input, Linear, ReLU, Residual, Sequential

torch = pytest.importorskip("torch")
nn = torch.nn


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_tensors_survive_a_round_trip_bit_for_bit(dtype):
    ours = Sequential([Input((5, 5, 2)), Conv2D(3, 2), Flatten(), Linear(2)], dtype=dtype, seed=6)
    theirs = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(48, 2)).to(getattr(torch, dtype))
    state = interop.to_torch(ours, like=theirs.state_dict(), tensors=True)
    theirs.load_state_dict(state, strict=True)
    twin = Sequential([Input((5, 5, 2)), Conv2D(3, 2), Flatten(), Linear(2)], dtype=dtype, seed=7)
    twin.load_state_dict(interop.from_torch(dict(theirs.named_parameters()), twin))
    for key, value in ours.state_dict().items():
        assert twin.state_dict()[key].tobytes() == value.tobytes()


def test_a_module_and_a_part_of_its_state_dict_are_accepted():
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 4))
    net = Sequential([Input((3, 3, 2)), Conv2D(3, 3), ReLU(), Flatten(), Linear(4)], seed=5)
    state = interop.from_torch(module, net)
    for key, value in interop.from_torch(module.state_dict(), net).items():
        np.testing.assert_array_equal(state[key], value)
    before = net["fc1.weight"].copy()
    part = {key: value for key, value in module.state_dict().items() if not key.startswith("3.")}
    part |= {"0.extra": torch.ones(2)}
    loaded = net.load_state_dict(interop.from_torch(part, net, strict=False), strict=False)
    assert loaded == (["fc1.weight", "fc1.bias"], ["0.extra"])
    np.testing.assert_array_equal(net["conv1.weight"], state["conv1.weight"])
    np.testing.assert_array_equal(net["fc1.weight"], before)
    other = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3, 7))
    with pytest.raises(ValueError, match=r"3.weight has shape \(7, 3\) where fc1 takes \(4, 3\)"):
        interop.from_torch(other, net, strict=False)
    for wrong, message in (
        ((net, module), "then the net of gpuconv, received Sequential and Sequential"),
        ((3, net), "must be a PyTorch module or a state dict, received int"),
        (("w.pt", net), r"received str; torch.load\(path, weights_only=True\) reads one"),
        (({"state_dict": {}}, net), "received dict under 'state_dict'; a checkpoint often keeps"),
    ):
        with pytest.raises(TypeError, match=message):
            interop.from_torch(*wrong)
    for like, message in (
        (net, "^like must be a PyTorch module or a state dict, received Sequential of gpuconv"),
        (3, "^like must be a PyTorch module or a state dict, received int"),
        ({"state_dict": {}}, "^like must hold arrays by name, received dict under 'state_dict'"),
    ):
        with pytest.raises(TypeError, match=message):
            interop.to_torch(net, like=like)


def test_a_module_with_norms_of_other_settings_is_refused():
    """Its state dict, which does not hold them, is accepted."""
    module = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4, eps=1e-3), nn.GroupNorm(2, 4))
    net = Sequential([Input((2, 2, 1)), Conv2D(4, 1), BatchNorm(), GroupNorm(4)])
    with pytest.raises(ValueError, match=r"1 has eps=0\.001 where norm1 has 1e-05; 2 has num_groups=2 where"):
        interop.from_torch(module, net)
    interop.from_torch(module.state_dict(), net)
    net = Sequential([Input((2, 2, 1)), Conv2D(4, 1), BatchNorm(eps=1e-3), GroupNorm(2)])
    interop.from_torch(nn.DataParallel(module), net)


def test_a_tensor_that_numpy_cannot_hold_is_refused_by_its_name():
    module = nn.Linear(3, 2)
    ours = Sequential([Input((3,)), Linear(2)])
    for wrong in (module.weight.to("meta"), module.weight.to_sparse(), module.weight.to(torch.float8_e5m2)):
        with pytest.raises(TypeError, match=r"^weight cannot become a NumPy array: .+"):
            interop.from_torch(dict(module.state_dict()) | {"weight": wrong}, ours)


def test_a_lazily_negated_tensor_keeps_its_values():
    module = nn.Linear(3, 2)
    negated = dict(module.state_dict()) | {"weight": torch._neg_view(module.weight)}
    found = interop.from_torch(negated, Sequential([Input((3,)), Linear(2)]))
    np.testing.assert_array_equal(found["fc1.weight"], -module.weight.detach().numpy())


class Sum(nn.Module):
    """The sum of what modules make of the flattened volume."""

    def __init__(self, *modules):
        super().__init__()
        self.rows = nn.ModuleList(modules)

    def forward(self, x):
        return sum(row(x.flatten(1)) for row in self.rows)


@pytest.mark.parametrize(
    ("layers", "module"),
    [
        ([Flatten(), Residual([Linear(5)], [Linear(5)])], Sum(nn.Linear(24, 5), nn.Linear(24, 5))),
        ([Flatten(), Branches([[ReLU(), Linear(5)], [Linear(5)]], "add")], Sum(nn.Linear(24, 5), nn.Linear(24, 5))),
        ([Flatten(), GroupNorm(1), Linear(5)], nn.Sequential(nn.Flatten(), nn.GroupNorm(1, 24), nn.Linear(24, 5))),
    ],
    ids=["residual", "branches", "group-norm"],
)
def test_every_layer_that_reads_flattened_features_is_reordered(layers, module):
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    net = Sequential([Input((2, 4, 3)), *layers])
    net.load_state_dict(interop.from_torch(module, net))
    x = np.random.default_rng(0).random((2, 2, 4, 3), np.float32)  # positive: ReLU changes nothing
    expected = module(torch.from_numpy(x).permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(net.forward(x), expected, rtol=1e-4, atol=1e-4)
    back = interop.to_torch(net, like=module, tensors=True)
    assert all(torch.equal(back[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize(
    "layers",
    [[Flatten(), Residual([Linear(24)])], [Branches([[Flatten()], [Flatten()]])]],
    ids=["residual", "concatenated"],
)
def test_flattened_features_joined_with_others_are_refused(layers):
    net = Sequential([Input((2, 4, 3)), *layers, Linear(5)])
    for convert in (interop.to_torch, lambda net: interop.from_torch({}, net)):
        with pytest.raises(ValueError, match="1 joins flattened features, which PyTorch orders differently"):
            convert(net)
