"""Examples of every layer, with the shapes of their inputs and outputs."""

from gpuconv.layers import (
    ELU,
    GELU,
    AdaptiveAvgPool2D,
    AvgPool2D,
    BatchNorm,
    Branches,
    Conv2D,
    ConvActivation,
    ConvNorm,
    ConvReLU,
    ConvTranspose2D,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    GroupNorm,
    HardSwish,
    Input,
    Layer,
    LayerNorm,
    LeakyReLU,
    Linear,
    MaxPool2D,
    NormActivation,
    NormChain,
    ReLU,
    ReLU6,
    Residual,
    ResidualNorm,
    Scale,
    Sequential,
    Sigmoid,
    SiLU,
    Tanh,
    Upsample,
)
from gpuconv.layers.fused import ConvPool

CASES = [  # the layer, the shape of its input, that of its output
    (Conv2D(3, 3), (5, 7, 2), (3, 5, 3)),
    (Conv2D(4, (3, 2), stride=(2, 3), padding=((1, 0), (2, 1)), dilation=(1, 2), groups=2), (7, 5, 6), (3, 2, 4)),
    (Conv2D(5, 1, stride=3, bias=False, fit="cover"), (5, 4, 1), (2, 2, 5)),
    (Conv2D(2, 3, padding="same"), (1, 1, 3), (1, 1, 2)),
    (ConvReLU([Conv2D(3, 3), ReLU()]), (5, 7, 2), (3, 5, 3)),
    (ConvReLU([Conv2D(4, 3, groups=2, padding=1), ReLU(), MaxPool2D(2)]), (5, 7, 4), (2, 3, 4)),
    (ConvReLU([Conv2D(3, 2, bias=False), MaxPool2D(2), ReLU()]), (6, 7, 2), (2, 3, 3)),
    (ConvActivation([Conv2D(3, 3), Sigmoid()]), (5, 7, 2), (3, 5, 3)),
    (ConvTranspose2D(3, 3), (3, 4, 2), (5, 6, 3)),
    (
        ConvTranspose2D(
            4,
            (3, 2),
            stride=(2, 3),
            padding=((1, 0), (1, 1)),
            output_padding=(1, 2),
            dilation=(1, 2),
            groups=2,
            bias=False,
        ),
        (3, 2, 6),
        (7, 6, 4),
    ),
    (Upsample(2), (3, 2, 3), (6, 4, 3)),
    (Upsample((1, 3)), (2, 3, 1), (2, 9, 1)),
    (Upsample((2, 3), "bilinear"), (3, 2, 2), (6, 6, 2)),
    (Linear(3), (7,), (3,)),
    (Linear(1, bias=False), (1,), (1,)),
    (Flatten(), (3, 2, 5), (30,)),
    (MaxPool2D(2), (5, 7, 3), (2, 3, 3)),
    (MaxPool2D(3, stride=2, padding=1, fit="cover"), (5, 6, 1), (3, 4, 1)),
    (AvgPool2D((2, 3), stride=(1, 2), padding=(0, 1), count_include_pad=False), (3, 5, 2), (2, 3, 2)),
    (AvgPool2D(2), (4, 4, 3), (2, 2, 3)),
    (AdaptiveAvgPool2D((3, 2)), (7, 4, 2), (3, 2, 2)),
    (AdaptiveAvgPool2D(1), (5, 3, 2), (1, 1, 2)),
    (GlobalAvgPool2D(), (3, 5, 2), (1, 1, 2)),
    (ReLU(), (3, 5, 2), (3, 5, 2)),
    (ReLU6(), (3, 5, 2), (3, 5, 2)),
    (LeakyReLU(negative_slope=0.3), (3, 5, 2), (3, 5, 2)),
    (ELU(alpha=0.6), (3, 5, 2), (3, 5, 2)),
    (HardSwish(), (3, 5, 2), (3, 5, 2)),
    (Sigmoid(), (7,), (7,)),
    (Tanh(), (3, 1, 2), (3, 1, 2)),
    (GELU(), (3, 5, 2), (3, 5, 2)),
    (GELU(approximate="tanh"), (3, 5, 2), (3, 5, 2)),
    (SiLU(), (3, 5, 2), (3, 5, 2)),
    (BatchNorm(momentum=0.3, eps=1e-3), (3, 5, 2), (3, 5, 2)),
    (BatchNorm(), (7,), (7,)),
    (GroupNorm(2, eps=1e-3), (3, 2, 6), (3, 2, 6)),
    (GroupNorm(1), (7,), (7,)),
    (LayerNorm(eps=1e-3), (3, 2, 5), (3, 2, 5)),
    (LayerNorm(), (7,), (7,)),
    (ConvPool([Conv2D(3, 3), MaxPool2D(2)]), (6, 7, 2), (2, 2, 3)),
    (ConvNorm([Conv2D(3, 3, bias=False), BatchNorm(momentum=0.3)]), (4, 5, 2), (2, 3, 3)),
    (ConvNorm([Conv2D(3, 3), BatchNorm(), Tanh()]), (4, 5, 2), (2, 3, 3)),
    (NormActivation([BatchNorm(momentum=0.3), ReLU()]), (3, 5, 2), (3, 5, 2)),
    (NormActivation([BatchNorm(), GELU()]), (7,), (7,)),
    (ResidualNorm([Residual([Conv2D(2, 1), BatchNorm()]), Sigmoid()]), (4, 3, 2), (4, 3, 2)),
    (ResidualNorm([Residual([BatchNorm()], [Conv2D(2, 1)])]), (4, 3, 2), (4, 3, 2)),
    (NormChain([NormActivation([BatchNorm(), Tanh()]), Conv2D(3, 2)]), (4, 3, 2), (3, 2, 3)),
    (
        NormChain([ConvNorm([Conv2D(3, 1), BatchNorm()]), ConvNorm([Conv2D(2, 2), BatchNorm(), SiLU()])]),
        (4, 3, 2),
        (3, 2, 2),
    ),
    (Dropout(0.4), (3, 5, 2), (3, 5, 2)),
    (Scale(-0.7), (4,), (4,)),
    (Input((3, 2, 1)), (3, 2, 1), (3, 2, 1)),
    (Residual([Conv2D(3, 3, padding=1), Tanh()]), (3, 5, 3), (3, 5, 3)),
    (
        Residual([ReLU(), Conv2D(4, 3, stride=2, padding=1), BatchNorm()], [Conv2D(4, 1, stride=2), BatchNorm()]),
        (5, 3, 2),
        (3, 2, 4),
    ),
    (Branches([[Conv2D(2, 1)], [MaxPool2D(3, stride=1, padding=1)], []]), (4, 5, 3), (4, 5, 8)),
    (Branches([[Linear(3), Tanh()], [], [Scale(2.0)]], "add"), (3,), (3,)),
    (
        Branches([[], [MaxPool2D(2), Branches([[], [Conv2D(2, 3, padding=1)]]), ConvTranspose2D(2, 2, stride=2)]]),
        (4, 6, 3),
        (4, 6, 5),
    ),
    (Sequential([Conv2D(3, 3), ReLU(), MaxPool2D(2), Flatten(), Linear(4)]), (6, 6, 2), (4,)),
]


def name_of_case(layer):
    """The text for a layer in test names, such as "GELU(approximate='tanh')" and "ConvNorm of Conv2D+BatchNorm"."""
    kind = type(layer).__name__
    inner = [type(part).__name__ for part in layer.walk() if not part.children() and part is not layer]
    if inner:
        return f"{kind} of {'+'.join(inner)}"
    return repr(layer) if len(repr(layer)) < 40 else kind  # test names stay short


IDS = [f"{name_of_case(layer)} on {'x'.join(map(str, shape))}" for layer, shape, _ in CASES]


def fresh(layer, shape, *, dtype="float64", seed=3):
    """A new layer with the same options, built for inputs of this shape."""
    twin = Layer.from_config(layer.config())
    twin.build(shape, dtype=dtype, seed=seed)
    return twin
