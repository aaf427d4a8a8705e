"""The same net in PyTorch: built from our layers with our weights, so that both sides train the same net."""

from __future__ import annotations

from bench.peers.pytorch import load
from gpuconv import interop, layers
from gpuconv.names import lookup
from gpuconv.problems import Conv2dProblem, Pool2dProblem


def module(net: layers.Sequential):
    """A torch.nn.Module that computes what a net does, from NCHW images. Raises ValueError for a layer that has no
    counterpart here."""
    made = _module(net)
    made.load_state_dict(interop.to_torch(net, made.state_dict(), tensors=True))
    for layer, part in zip(_with_weights(net), _leaves(made), strict=True):
        for name in layer.frozen:
            getattr(part, name).requires_grad_(False)
    return made


def parameters(net: layers.Sequential, made):
    """The trained parameters of the module that `module` made from a net, by our names."""
    pairs = [
        (layer[name], getattr(part, name))
        for layer, part in zip(_with_weights(net), _leaves(made), strict=True)
        for name in layer.variables
    ]
    theirs = {id(own): their for own, their in pairs}
    return {name: theirs[id(own)] for name, own in net.params().items()}


def _with_weights(net: layers.Layer) -> list[layers.Layer]:
    return [layer for layer in net.walk() if layer.variables and not layer.children()]


def _leaves(module):
    return [part for part in module.modules() if part._parameters and not part._modules]


def _module(layer: layers.Layer):
    return lookup("layer with a counterpart in PyTorch", type(layer).__name__, _COUNTERPARTS)(load().nn, layer)


def _conv(nn, layer):
    problem, padding = layer.problem, _padding(layer)
    return nn.Conv2d(
        problem.c, problem.k, problem.kernel_size, problem.stride, padding, problem.dilation, problem.groups, layer.bias
    )


def _padding(layer) -> tuple[int, int]:
    """PyTorch's padding of a convolution or pool. Raises ValueError if opposite sides differ, or if `fit` is not
    "floor"."""
    problem: Conv2dProblem | Pool2dProblem = layer.problem
    (top, bottom), (left, right) = problem.padding
    if (top, left) != (bottom, right) or problem.fit != "floor":
        raise ValueError(f"PyTorch has no {layer!r}")
    return top, left


def _linear(nn, layer):
    out_features, in_features = layer.variables["weight"].shape
    return nn.Linear(in_features, out_features, layer.bias)


def _batch_norm(nn, layer):
    kind = nn.BatchNorm2d if len(layer.input_shape) == 3 else nn.BatchNorm1d
    return kind(layer.input_shape[-1], eps=layer.eps, momentum=layer.momentum)


def _residual(nn, layer):
    parts = [_module(child) for _, child in layer.children()]

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.shortcut = parts[0], parts[1] if len(parts) > 1 else nn.Identity()

        def forward(self, x):
            return self.body(x) + self.shortcut(x)

    return Residual()


def _scale(nn, layer):
    class Scale(nn.Module):
        def forward(self, x):
            return x * layer.factor

    return Scale()


_COUNTERPARTS = {
    "Sequential": lambda nn, layer: nn.Sequential(*[_module(child) for child in layer]),
    "Residual": _residual,
    "Input": lambda nn, layer: nn.Identity(),
    "Conv2D": _conv,
    "Linear": _linear,
    "BatchNorm": _batch_norm,
    "GroupNorm": lambda nn, layer: nn.GroupNorm(layer.groups, layer.input_shape[-1], eps=layer.eps),
    "MaxPool2D": lambda nn, layer: nn.MaxPool2d(layer.kernel_size, layer.stride, _padding(layer)),
    "AvgPool2D": lambda nn, layer: nn.AvgPool2d(
        layer.kernel_size, layer.stride, _padding(layer), count_include_pad=layer.count_include_pad
    ),
    "GlobalAvgPool2D": lambda nn, layer: nn.AdaptiveAvgPool2d(1),
    "AdaptiveAvgPool2D": lambda nn, layer: nn.AdaptiveAvgPool2d(layer.output_size),
    "Flatten": lambda nn, layer: nn.Flatten(),
    "Dropout": lambda nn, layer: nn.Dropout(layer.p),
    "Scale": _scale,
    "ReLU": lambda nn, layer: nn.ReLU(inplace=True),
    "ReLU6": lambda nn, layer: nn.ReLU6(inplace=True),
    "ELU": lambda nn, layer: nn.ELU(layer.alpha),
    "HardSwish": lambda nn, layer: nn.Hardswish(),
    "LeakyReLU": lambda nn, layer: nn.LeakyReLU(layer.negative_slope),
    "Sigmoid": lambda nn, layer: nn.Sigmoid(),
    "Tanh": lambda nn, layer: nn.Tanh(),
    "GELU": lambda nn, layer: nn.GELU(approximate=layer.approximate),
    "SiLU": lambda nn, layer: nn.SiLU(),
}
