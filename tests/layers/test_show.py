"""How layers, nets and their activations are printed, and shown in notebooks."""

from dataclasses import dataclass

import gpuconv as gc
from gpuconv.layers import Conv2D, Input, Layer, Linear, ReLU, Sequential
from gpuconv.layers.fused import ConvReLU
from gpuconv.summary import summary


def test_repr_has_a_line_for_each_layer(net):
    assert repr(net).splitlines() == [
        "Sequential([",
        "  input:             Input(shape=(6, 6, 2))                            -> 6 x 6 x 2",
        "  conv1:             Conv2D(out_channels=3, kernel_size=3, padding=1)  -> 6 x 6 x 3",
        "  relu1:             ReLU()                                            -> 6 x 6 x 3",
        "  residual1:         Residual                                          -> 6 x 6 x 3",
        "    conv1:           Conv2D(out_channels=3, kernel_size=3, padding=1)  -> 6 x 6 x 3",
        "    shortcut.conv1:  Conv2D(out_channels=3, kernel_size=1)             -> 6 x 6 x 3",
        "  pool1:             MaxPool2D(kernel_size=2)                          -> 3 x 3 x 3",
        "  dropout1:          Dropout()                                         -> 3 x 3 x 3",
        "  flatten1:          Flatten()                                         -> 27",
        "  fc1:               Linear(out_features=5)                            -> 5",
        "])",
    ]
    lines = ["Sequential([", "  fc1:    Linear(out_features=3)", "  relu1:  ReLU()", "])"]
    assert repr(Sequential([Linear(3), ReLU()])).splitlines() == lines


def test_notebooks_show_a_net_a_summary_and_a_check_as_tables(net):
    net["conv1"].freeze()
    shown = net._repr_html_()
    for cell in ("residual1.shortcut.conv1", "6 x 6 x 3", ">57<", ">frozen<", "parameters"):
        assert cell in shown
    assert "residual1.shortcut.conv1" in summary(net)._repr_html_()
    assert "<table>" in gc.checks.gradient_check(net, samples=2)._repr_html_()
    marked_up = Sequential([Input((2,)), Linear(2, name="<b>")])
    assert "<b>" not in marked_up._repr_html_()


def test_volumes_are_printed_as_names_and_shapes(net, x):
    assert repr(net.activations(x)).splitlines()[1] == "conv1: 4 x 6 x 6 x 3"
    assert len(repr(net.activations(x)).splitlines()) == len(net.activations(x))


def test_repr_is_the_constructor_call_without_defaults():
    assert repr(Conv2D(4, 3, padding=1)) == "Conv2D(out_channels=4, kernel_size=3, padding=1)"


@dataclass(eq=False, repr=False)
class Block(Layer):
    """A container that shows its layers only by `children`; its `layers` is a number."""

    layers: int = 2

    def __post_init__(self):
        super().__post_init__()
        self.inner = [("first", Linear(4)), ("body", Sequential([Linear(3), ReLU()]))]

    def children(self):
        return self.inner

    def plan(self, input_shape):
        for name, layer in self.inner:
            input_shape = layer.place(f"{self.path}.{name}", input_shape)
        return input_shape


def test_a_layer_of_the_user_shows_its_children():
    net = Sequential([Input((2,)), Block()], initialize=False)
    assert [line.split()[0] for line in repr(net).splitlines()[2:-1]] == [
        "layer1:",
        "first:",
        "body.fc1:",
        "body.relu1:",
    ]
    assert ">layer1.first<" in net._repr_html_()
    assert ">layer1<" not in net._repr_html_()


def test_fused_layers_are_shown_as_the_layers_in_them():
    for net in (Sequential([ConvReLU([Conv2D(2, 3), ReLU()])]), Sequential([Input((4, 4, 1)), Conv2D(2, 3), ReLU()])):
        shown = (net.fuse() if net.built else net)._repr_html_()
        assert "ConvReLU" not in shown
        assert ">conv1<" in shown
