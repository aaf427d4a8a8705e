"""Our ops in PyTorch: their values and gradients equal PyTorch's, and torch.compile accepts the ops."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import gpuconv.torch as ours  # noqa: E402
from gpuconv import ops  # noqa: E402
from gpuconv.torch import tensors  # noqa: E402

nn, functional = torch.nn, torch.nn.functional


def volume(*shape, dtype=torch.float64):
    return torch.from_numpy(np.random.default_rng(sum(shape)).standard_normal(shape)).to(dtype)


PYTORCH_ACTIVATIONS = vars(functional) | {"tanh": torch.tanh, "hard_swish": functional.hardswish}
# By name: a call of a function in `f`, which is gpuconv.torch or torch.nn.functional, and the shapes of its arrays.
CALLS = {
    "conv2d": (
        lambda f, x, w, b: f.conv2d(x, w, b, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
        [(2, 8, 7, 9), (8, 4, 3, 2), (8,)],
    ),
    "conv2d-same": (lambda f, x, w: f.conv2d(x, w, padding="same"), [(2, 3, 5, 5), (4, 3, 3, 3)]),
    "linear": (lambda f, x, w, b: f.linear(x, w, b), [(2, 3, 8), (4, 8), (4,)]),
    "max_pool2d": (lambda f, x: f.max_pool2d(x, 3, stride=2, padding=1), [(2, 3, 7, 6)]),
    "avg_pool2d": (lambda f, x: f.avg_pool2d(x, (2, 3), padding=1, count_include_pad=False), [(2, 3, 7, 6)]),
    **{
        name: (lambda f, x, name=name: (ours.ACTIVATIONS if f is ours else PYTORCH_ACTIVATIONS)[name](x), [(4, 5)])
        for name in ours.ACTIVATIONS
    },
}


def results(call, function, tensors):
    """The output of a call and the gradients of its arrays."""
    leaves = [tensor.clone(memory_format=torch.preserve_format).requires_grad_() for tensor in tensors]
    y = call(function, *leaves)
    y.backward(volume(*y.shape, dtype=y.dtype))
    return [y.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("layout", ["contiguous_format", "channels_last"])
def test_values_and_gradients_equal_pytorchs(name, layout):
    call, shapes = CALLS[name]
    tensors = [volume(*shape) for shape in shapes]
    memory_format = getattr(torch, layout)
    tensors = [tensor.to(memory_format=memory_format) if tensor.ndim == 4 else tensor for tensor in tensors]
    for mine, theirs in zip(results(call, ours, tensors), results(call, functional, tensors), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["conv2d", "linear", "relu"])
def test_ops_on_the_emulated_device_agree_with_pytorch(name):
    call, shapes = CALLS[name]
    tensors = [volume(*shape, dtype=torch.float32) for shape in shapes]
    with ours.cpu_device("emulated"):
        emulated = results(call, ours, tensors)
    for mine, theirs in zip(emulated, results(call, functional, tensors), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_every_forward_operator_passes_the_checks_of_pytorch():
    """The checks cover an operator's schema, its shapes for fake tensors and the registration of its gradient."""
    for name, arguments in {
        "conv2d": (volume(1, 2, 5, 5), volume(3, 2, 3, 3), volume(3), [2, 1], [1, 0, 1, 1], [1, 1], 1),
        "linear": (volume(2, 5), volume(4, 5), volume(4)),
        "max_pool2d": (volume(1, 2, 5, 5), [2, 2], [2, 2], [0, 0]),
        "avg_pool2d": (volume(1, 2, 5, 5), [2, 2], [2, 2], [0, 0], True),
        **{name: (volume(2, 5),) for name in ours.ACTIVATIONS},
        "gelu": (volume(2, 3, 4, 5).to(memory_format=torch.channels_last),),
    }.items():
        tensors = tuple(
            argument.requires_grad_() if isinstance(argument, torch.Tensor) else argument for argument in arguments
        )
        torch.library.opcheck(
            getattr(torch.ops.gpuconv, name).default,
            tensors,
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.filterwarnings("ignore")  # warnings of PyTorch itself
def test_compiled_nets_give_the_same_results(backend):
    net = ours.replace(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(100, 2)))
    x = volume(2, 3, 5, 5, dtype=torch.float32)
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    outputs = []
    for called in (net, compiled):
        net.zero_grad()
        y = called(x)
        y.square().sum().backward()
        outputs.append([y.detach(), *(value.grad.clone() for value in net.parameters())])
    for expected, of_compiled in zip(*outputs, strict=True):
        torch.testing.assert_close(of_compiled, expected)


def test_replaced_modules_keep_their_parameters_and_give_the_same_results():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 5, 2, stride=2)))
    net.append(nn.Flatten()).append(nn.Linear(20, 2))
    x = volume(2, 3, 5, 5, dtype=torch.float32)
    net(x).sum().backward()
    expected, names = [net(x), *(value.grad for value in net.parameters())], [*net.state_dict()]
    net.zero_grad()
    parameters = [*net.parameters()]
    assert ours.replace(net) is net
    assert [type(module) for module in net.modules()].count(ours.Conv2d) == 2
    assert all(mine is theirs for mine, theirs in zip(net.parameters(), parameters, strict=True))
    assert [*net.state_dict()] == names
    net(x).sum().backward()
    for mine, theirs in zip([net(x), *(value.grad for value in net.parameters())], expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert ours.Conv2d(3, 4, 3)(x).shape == (2, 4, 3, 3)


def test_channels_last_is_not_copied(monkeypatch):
    seen = []
    conv2d = ops.conv2d

    def recorded(x, *arrays, **options):
        seen.append(x)
        return conv2d(x, *arrays, **options)

    monkeypatch.setattr(ops, "conv2d", recorded)
    x = volume(2, 3, 5, 5).to(memory_format=torch.channels_last)
    conv = ours.Conv2d(3, 4, 3, dtype=torch.float64)
    y = conv(x)
    assert seen[0].ctypes.data == x.data_ptr()
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert ours.ACTIVATIONS["relu"](y).is_contiguous(memory_format=torch.channels_last)
    dense = x.contiguous()
    conv(dense)
    assert seen[1].ctypes.data != dense.data_ptr()


def test_bfloat16_tensors_are_accepted():
    x, w = volume(2, 3, 5, 5, dtype=torch.bfloat16), volume(4, 3, 3, 3, dtype=torch.bfloat16)
    y, expected = ours.conv2d(x, w), functional.conv2d(x.float(), w.float())
    torch.testing.assert_close(y.float(), expected, rtol=2**-8, atol=2**-8)


def small_net():
    """A float32 net. `replace` replaces Conv2d and Linear. Of the others, only ConvTranspose2d computes in the dtype of
    autocast."""
    torch.manual_seed(0)
    upper = nn.ConvTranspose2d(4, 4, 2, stride=2), nn.Conv2d(4, 4, 3), nn.ReLU()
    return nn.Sequential(nn.Conv2d(3, 4, 3), *upper, nn.Flatten(), nn.Linear(4 * 10 * 10, 5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_autocast_computes_products_in_its_dtype_and_gradients_in_float32(dtype, compiled):
    x, nets = volume(2, 3, 8, 8, dtype=torch.float32), (small_net(), ours.replace(small_net()))
    scores, gradients = [], []
    for net in nets:
        with torch.autocast("cpu", dtype):
            y = (torch.compile(net, backend="aot_eager", fullgraph=True) if compiled else net)(x)
        y.float().square().sum().backward()
        scores.append(y.detach())
        gradients.append([parameter.grad for parameter in net.parameters()])
    assert scores[0].dtype == scores[1].dtype == dtype
    torch.testing.assert_close(scores[1], scores[0], rtol=0.05, atol=0.05)
    for theirs, mine in zip(*gradients, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0.05 * float(theirs.abs().max()))
    with torch.autocast("cpu", dtype):  # as in PyTorch, float64 stays, and pools and activations keep the dtype
        assert ours.linear(x.double(), volume(4, 8)).dtype == torch.float64
        assert ours.max_pool2d(x, 2).dtype == ours.ACTIVATIONS["relu"](x).dtype == torch.float32


def test_modules_devices_and_tensors_that_do_not_fit_are_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    with pytest.raises(ValueError, match="pad with zeros, received padding_mode='reflect'"):
        ours.replace(net)
    assert type(net[0]) is nn.Conv2d
    for name in ("cpu", "CPU", torch.device("cpu"), "NumPy"):
        with ours.cpu_device("emulated"), ours.cpu_device(name):
            assert tensors._cpu_device.get() == "numpy"
    for name, error, message in (
        (torch.device("cuda:1"), ValueError, r"unknown device of CPU tensors 'cuda:1' \(known: numpy, emulated\)"),
        ("nunpy", ValueError, r"unknown device of CPU tensors 'nunpy'; did you mean 'numpy'\?"),
        ("auto", ValueError, r"unknown device of CPU tensors 'auto'.* \(known: numpy, emulated\)"),
        ("cuda:1", ValueError, r"unknown device of CPU tensors 'cuda:1' \(known: numpy, emulated\)"),
        (3, TypeError, "the device of CPU tensors is chosen by name, received int"),
    ):
        with pytest.raises(error, match=message), ours.cpu_device(name):
            pass
    with pytest.raises(ValueError, match="channels"):
        ours.conv2d(volume(1, 2, 5, 5), volume(3, 3, 3, 3))
    x, w = volume(1, 2, 5, 5), volume(3, 2, 3, 3)
    for error, message, call in (
        (ValueError, r"x must be a tensor with 4 axes, received shape \(2, 5, 5\)", lambda: ours.conv2d(x[0], w)),
        (ValueError, r"w must be a tensor with 4 axes, received shape \(2, 3, 3\)", lambda: ours.conv2d(x, w[0])),
        (TypeError, "x must be a tensor of PyTorch, received ndarray", lambda: ours.conv2d(x.numpy(), w)),
        (TypeError, "w must be a tensor of PyTorch, received NoneType", lambda: ours.conv2d(x, None)),
        (ValueError, r"groups must be below 2\*\*63", lambda: ours.conv2d(x, w, groups=2**70)),
        (TypeError, "must be dense, received one of layout torch.sparse_coo", lambda: ours.conv2d(x.to_sparse(), w)),
        (TypeError, "bias must be a tensor of PyTorch, received ndarray", lambda: ours.conv2d(x, w, np.zeros(4))),
        (ValueError, r"bias must be a tensor with 1 axis, received shape \(\)", lambda: ours.conv2d(x, w, x.sum())),
        (TypeError, "bias must be a tensor of PyTorch, received int", lambda: ours.linear(x[0, 0], w[0, 0], 5)),
        (ValueError, "x must be a tensor with 4 axes", lambda: ours.max_pool2d(x[0], 2)),
        (ValueError, "x must be a tensor with 4 axes", lambda: ours.avg_pool2d(x[0], 2)),
        (TypeError, "count_include_pad must be True or", lambda: ours.avg_pool2d(x, 2, count_include_pad=3)),
        (TypeError, "count_include_pad must be True or", lambda: ours.avg_pool2d(x, 2, count_include_pad="no")),
        (ValueError, r"x must be a tensor \(..., in_features\)", lambda: ours.linear(x.sum(), w[0, 0])),
        (ValueError, "w must be a tensor with 2 axes", lambda: ours.linear(x, w)),
        (TypeError, "replace takes a module of PyTorch, received NoneType", lambda: ours.replace(None)),
    ):
        with pytest.raises(error, match=message):
            call()
    assert ours.linear(volume(2, 0), volume(3, 0)).shape == (2, 3)


@pytest.mark.slow
def test_without_pytorch_the_error_names_it():
    code = "import sys; sys.modules['torch'] = None; import gpuconv.torch"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "ImportError: gpuconv.torch needs PyTorch" in done.stderr
