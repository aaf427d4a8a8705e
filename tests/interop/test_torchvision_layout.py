"""The nets for ImageNet against the modules of torchvision_nets.py: a module's state dict loads exactly, is exported
with the same keys in the same order, and gives the same scores."""

import numpy as np
import pytest

from gpuconv import interop, models
from tests.interop.torchvision_nets import Basic, Bottleneck, MobileNetV2, ResNet

torch = pytest.importorskip("torch")
nn = torch.nn


NETS = {
    "resnet18": lambda: ResNet(Basic, (2, 2, 2, 2)),
    "resnet34": lambda: ResNet(Basic, (3, 4, 6, 3)),
    "resnet50": lambda: ResNet(Bottleneck, (3, 4, 6, 3)),
    "mobilenet-v2": MobileNetV2,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_a_state_dict_loads_exactly_and_gives_the_same_scores(name):
    torch.manual_seed(0)
    module = NETS[name]()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    state = module.state_dict()
    net = models.build(name, input_shape=(64, 64, 3))
    net.load_state_dict(interop.from_torch(state, net))
    back = interop.to_torch(net, like=state)
    assert list(back) == list(state)
    for key, value in state.items():
        assert back[key].tobytes() == value.numpy().tobytes(), key
    x = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()
    np.testing.assert_allclose(net.infer(x), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
