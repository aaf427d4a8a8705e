"""Importing ONNX files: our own, and torchvision's nets as PyTorch exports them."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest

from gpuconv import interop, models
from gpuconv.interop.onnx_library import METADATA
from gpuconv.layers import Conv2D, Flatten, Input, Linear, Residual, Sequential, SiLU
from tests.interop.onnx_rows import ROWS, SHAPE, built, expect_close

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
helper, FLOAT = onnx.helper, onnx.TensorProto.FLOAT


def batch(shape, count=2):
    return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)


def described(net):
    """The layers of a net without their nesting, which a graph does not keep."""
    return [(type(layer), layer.name, layer.output_shape) for layer in net.walk() if type(layer) is not Sequential]


def written(nodes, path, size=("N", 2, 4, 4), **initializers):
    """A file with these nodes, from "x" to the output of the last one."""
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in initializers.items()]
    x = helper.make_tensor_value_info("x", FLOAT, size)
    y = helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    return path


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs.split(), [output], name=f"{output}-node", **attributes)


# The exported nets that are not imported with their own layers. The value is the operator that is refused, or None if
# the net is imported with other layers.
NOT_RESTORED = {
    "adaptive": None,  # imported as AvgPool2D
    "avg-pool-cover-counts-no-added-cells": "Mul",  # multiplies each cell by a number of its own
    "branches": "Sum",
    "image-norms": "GroupNormalization",
    "transposed": "ConvTranspose",
    "upsample": "Resize",
    "upsample-bilinear": "Resize",
}


@pytest.mark.parametrize("row", [row for row, operator in NOT_RESTORED.items() if operator])
def test_an_operator_without_a_layer_is_named(row, tmp_path):
    interop.to_onnx(built(ROWS[row]), tmp_path / "net.onnx")
    reason = r"no layer covers it|it has a layer only if one operand is a constant number"
    with pytest.raises(ValueError, match=rf"operator {NOT_RESTORED[row]} \(node .*({reason})"):
        interop.from_onnx(tmp_path / "net.onnx")


@pytest.mark.parametrize("row", [row for row, operator in NOT_RESTORED.items() if not operator])
def test_a_net_imported_with_other_layers_gives_the_same_results(row, tmp_path):
    net = built(ROWS[row])
    interop.to_onnx(net, tmp_path / "net.onnx")
    imported = interop.from_onnx(tmp_path / "net.onnx")
    assert described(imported) != described(net)
    expect_close(imported.infer(batch(SHAPE)), net.infer(batch(SHAPE)))


def test_an_exported_net_is_imported_unchanged(tmp_path):
    rows = {name: row for name, row in ROWS.items() if name not in NOT_RESTORED}
    rows["silu-in-a-block"] = [
        Residual([SiLU(), Conv2D(4, 1)]),
        Residual([Conv2D(4, 1)], [SiLU()]),
        Flatten(),
        Linear(3),
    ]
    for row in rows.values():
        net = built(row)
        net.classes = [f"class {number}" for number in range(net.output_shape[-1])]
        for layout in ("NCHW", "NHWC"):
            interop.to_onnx(net, tmp_path / "net.onnx", layout=layout)
            imported = interop.from_onnx(tmp_path / "net.onnx")
            assert described(imported) == described(net)
            assert imported.classes == net.classes
            np.testing.assert_array_equal(imported.infer(batch(SHAPE)), net.infer(batch(SHAPE)))


def test_a_file_written_for_training_is_imported_with_ordinary_layers(tmp_path):
    v = np.ones(2, np.float32)
    norm_node = node("BatchNormalization", "x v v v v", "n", momentum=0.9, training_mode=1)
    norm_node.output.extend(["mean", "var"])
    nodes = [norm_node, node("Dropout", "n ratio training", "y")]
    values = dict(v=v, ratio=np.float32(0.3), training=np.bool_(True))
    _, norm, dropout = interop.from_onnx(written(nodes, tmp_path / "net.onnx", **values))
    assert norm.momentum == 0.1  # 1 - 0.9 is not 0.1 in floats
    assert dropout.p == 0.3


def test_an_imported_net_has_the_requested_precision_and_device_and_trains(tmp_path):
    net = built([Conv2D(4, 3), Flatten(), Linear(5)], precision="float16")
    interop.to_onnx(net, tmp_path / "net.onnx")
    assert interop.from_onnx(tmp_path / "net.onnx").precision == "float16"
    imported = interop.from_onnx(tmp_path / "net.onnx", precision="float32", device="emulated")
    assert (imported.precision, imported.device) == ("float32", "emulated")
    imported = interop.from_onnx(tmp_path / "net.onnx", precision="float32")
    imported.forward(batch(SHAPE), training=True)
    imported.backward(np.ones((2, 5), np.float32))
    assert all(np.abs(gradient).max() > 0 for gradient in imported.grads().values())


def test_graphs_that_our_exports_do_not_write_are_imported(tmp_path):
    """onnxruntime is the reference for their results."""
    random = np.random.default_rng(1)
    matrix, bias = random.standard_normal((32, 3)).astype(np.float32), np.float32([1, 2, 3])
    cases = [
        [node("Reshape", "x shape", "f"), node("MatMul", "f matrix", "m"), node("Add", "bias m", "y")],
        [node("Flatten", "x", "f"), node("Gemm", "f matrix bias", "y", alpha=0.5, beta=2.0)],
        [node("ReduceMean", "x axes", "y")],
        [node("ReduceMean", "x axes", "f", keepdims=0), node("Tanh", "f", "y")],  # PyTorch's x.mean((2, 3))
        [node("Div", "x two", "d"), node("Mul", "two d", "m"), node("Clip", "m zero", "y")],
        [node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)],
        [
            node("Constant", "", "c", value_float=3.0),
            node("Mul", "x c", "m"),
            node("Identity", "m", "i"),
            node("Tanh", "i", "y"),
        ],
        [node("Relu", "x", "r"), node("Sigmoid", "x", "s"), node("Add", "r s", "y")],
    ]
    values = dict(matrix=matrix, bias=bias, two=np.float32(2), zero=np.float32(0), axes=[2, 3], shape=[-1, 32])
    x = batch((4, 4, 2))
    for nodes in cases:
        used = {name for item in nodes for name in item.input}
        file = written(nodes, tmp_path / "net.onnx", **{key: value for key, value in values.items() if key in used})
        (expected,) = runtime.InferenceSession(str(file)).run(None, {"x": x.transpose(0, 3, 1, 2)})
        expected = expected.transpose(0, 2, 3, 1) if expected.ndim == 4 else expected
        expect_close(interop.from_onnx(file).infer(x), expected)


def test_operators_on_a_volume_transposed_to_nhwc_give_the_results_of_onnx_or_are_refused(tmp_path):
    x, used = batch((4, 4, 4)), dict(w=np.ones((4, 4, 1, 1), np.float32), v=np.ones(4, np.float32), axes=[1, 2])
    nhwc = node("Transpose", "x", "t", perm=[0, 2, 3, 1])
    for keepdims in (0, 1):
        nodes = [nhwc, node("ReduceMean", "t axes", "m", keepdims=keepdims), node("Relu", "m", "y")]
        file = written(nodes, tmp_path / "net.onnx", ("N", 4, 4, 4), axes=used["axes"])
        (expected,) = runtime.InferenceSession(str(file)).run(None, {"x": x.transpose(0, 3, 1, 2)})
        expect_close(interop.from_onnx(file).infer(x), expected)
    for reader in (
        node("Conv", "t w", "y"),
        node("BatchNormalization", "t v v v v", "y"),
        node("MaxPool", "t", "y", kernel_shape=[2, 2]),
        node("AveragePool", "t", "y", kernel_shape=[2, 2]),
        node("GlobalAveragePool", "t", "y"),
    ):
        values = {name: value for name, value in used.items() if name in reader.input}
        with pytest.raises(ValueError, match=f"operator {reader.op_type} .* its input is NHWC"):
            interop.from_onnx(written([nhwc, reader], tmp_path / "net.onnx", ("N", 4, 4, 4), **values))


def test_a_bias_may_be_a_row_or_a_number_and_nothing_else(tmp_path):
    m, row = np.arange(96, dtype=np.float32).reshape(32, 3), np.float32([[1, 2, 3]])
    flat, x = node("Flatten", "x", "f", axis=1), batch((4, 4, 2), 3)
    adds = [flat, node("MatMul", "f m", "p"), node("Add", "p b", "y")]
    gemm = [flat, node("Gemm", "f m b", "y")]
    for nodes in (gemm, adds):
        for bias in (row, row[0], row[0, 0], row[:, :1]):
            file = written(nodes, tmp_path / "net.onnx", (3, 2, 4, 4), m=m, b=bias)
            (expected,) = runtime.InferenceSession(str(file)).run(None, {"x": x.transpose(0, 3, 1, 2)})
            expect_close(interop.from_onnx(file).infer(x), expected)
        file = written(nodes, tmp_path / "net.onnx", (3, 2, 4, 4), m=m, b=row.T)
        with pytest.raises(ValueError, match=r"one value for each of the 3 features, received shape \(3, 1\)"):
            interop.from_onnx(file)


def test_a_reshape_to_the_batch_size_that_the_file_fixes_is_a_flatten(tmp_path):
    nodes = [node("Reshape", "x s", "f"), node("MatMul", "f m", "y")]
    file = written(nodes, tmp_path / "net.onnx", (2, 2, 4, 4), s=[2, -1], m=np.ones((32, 3), np.float32))
    assert [type(layer) for layer in interop.from_onnx(file)] == [Input, Flatten, Linear]


def test_graphs_without_matching_layers_and_invalid_options_are_refused(tmp_path, monkeypatch):
    path, weight = tmp_path / "net.onnx", np.ones((2, 2, 1, 1), np.float32)
    relu, any_size = node("Relu", "x", "r"), ("N", 2, "h", "w")
    for message, nodes, options in (
        (
            r"the operator Resize \(node 'u-node'\): no layer covers it",
            [relu, node("Resize", "r", "u"), node("Hardmax", "u", "y")],
            {},
        ),
        (
            "clipping to -1.0 and 1.0 has no layer",
            [node("Clip", "x low high", "y")],
            dict(low=np.float32(-1), high=np.float32(1)),
        ),
        ("auto_pad=SAME_UPPER", [node("Conv", "x w", "y", auto_pad="SAME_UPPER")], dict(w=weight)),
        (
            r"weight holds 1e\+39, which is out of the range of float32",
            [node("Conv", "x w", "y")],
            dict(w=np.float64(1e39) * weight.astype(np.float64)),
        ),
        ("its input 'r' is computed", [relu, node("Conv", "x r", "y")], {}),
        (
            "it is the third reader",
            [relu, node("Tanh", "x", "t"), node("Add", "r t", "a"), node("Add", "a x", "y")],
            {},
        ),
        ("one operand is a constant number", [relu, node("Mul", "r w", "y")], dict(w=weight)),
        (
            "one operand is a constant number",
            [relu, node("Mul", "r w", "y")],
            dict(w=np.ones((1, 1, 1, 1, 1), np.float32)),  # the product would have an axis more
        ),
        *(
            ("only a reshape to .N, features. has a layer", [node("Reshape", "x s", "y")], dict(s=sizes))
            for sizes in ([2, -1], [-1, 16], [32, -1], [1, 32])
        ),
        ("features in", [node("Flatten", "x", "y")], {}),
        (r"give input_shape=\(H, W, C\)", [node("Relu", "x", "y")], dict(size=any_size)),
        ("a constant can only be added after a MatMul", [node("Add", "x w", "y")], dict(w=weight)),
        ("leads nowhere", [relu, node("Sigmoid", "w", "y")], dict(w=weight)),
    ):
        with pytest.raises(ValueError, match=message):
            interop.from_onnx(written(nodes, path, **options))
    file = written([node("Relu", "x", "y")], path, size=any_size)
    assert interop.from_onnx(file, input_shape=(3, 5, 2)).input_shape == (3, 5, 2)
    path.write_bytes(b"no graph")
    with pytest.raises(ValueError, match="is not an ONNX file"):
        interop.from_onnx(path)
    with pytest.raises(FileNotFoundError):
        interop.from_onnx(tmp_path / "none.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"'gpuconv\[onnx\]'"):
        interop.from_onnx(path)


@pytest.fixture(scope="module")
def torchvision():
    torch = pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        # A torchvision built for CUDA with a PyTorch for the CPU lacks compiled operators, which these nets do not use.
        patch.setattr(torch.library, "register_fake", lambda *_, **__: lambda function: function)
        pytest.importorskip("torchvision")
        import torchvision.models

        return torchvision.models


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # warnings of PyTorch's exporter
@pytest.mark.parametrize(
    ("name", "size", "dynamo"),
    [
        ("resnet18", 64, False),
        ("resnet18", 64, True),
        ("resnet50", 64, False),
        ("vgg11_bn", 224, False),
        ("mobilenet_v2", 64, False),
        ("mobilenet_v2", 64, True),
    ],
)
def test_nets_of_torchvision_are_imported(torchvision, name, size, dynamo, tmp_path):
    import torch

    if dynamo:
        pytest.importorskip("onnxscript", reason="PyTorch's newer exporter needs onnxscript")
    torch.manual_seed(0)
    theirs = getattr(torchvision, name)(weights=None).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.weight, 0.8, 1.2)
    x = batch((size, size, 3), 1)
    image = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    file = tmp_path / "net.onnx"
    torch.onnx.export(theirs, (image,), str(file), dynamo=dynamo, input_names=["image"], output_names=["scores"])
    net = interop.from_onnx(file)
    expected = theirs(image).detach().numpy()
    np.testing.assert_allclose(net.infer(x), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert isinstance(net, Sequential)
    assert net[1].name == {"r": "conv1", "v": "features_0", "m": "features_0_0"}[name[0]]
    residuals = sum(isinstance(layer, Residual) for layer in net.walk())
    assert residuals == {"resnet18": 8, "resnet50": 16, "vgg11_bn": 0, "mobilenet_v2": 10}[name]


def test_exported_nets_of_the_zoo_are_imported(tmp_path):
    for name in ("resnet20", "airbench94", "digits-net", "lenet"):
        net = models.build(name)
        interop.to_onnx(net, tmp_path / "net.onnx")
        imported = interop.from_onnx(tmp_path / "net.onnx")
        np.testing.assert_array_equal(imported.infer(batch(net.input_shape)), net.infer(batch(net.input_shape)))
        assert [*imported.state_dict()] == [*net.state_dict()]


def invalidations(model):
    """Functions that make a model invalid, by what they change."""
    conv, flat = model.graph.node
    weight, bias = model.graph.initializer

    def attribute(name, value):
        others = [other for other in conv.attribute if other.name != name]
        del conv.attribute[:]
        conv.attribute.extend([*others, helper.make_attribute(name, value)])

    def array(value):
        bias.CopyFrom(onnx.numpy_helper.from_array(np.asarray(value), bias.name))

    def metadata(text):
        helper.set_model_props(model, {METADATA: text})

    return {
        "no graph": lambda: model.ClearField("graph"),
        "no input of a node": lambda: conv.ClearField("input"),
        "no output of a node": lambda: conv.ClearField("output"),
        "a loop": lambda: conv.input.__setitem__(0, flat.output[0]),
        "two pads": lambda: attribute("pads", [1, 1]),
        "a text as strides": lambda: attribute("strides", "x"),
        "three strides": lambda: attribute("strides", [1, 1, 1]),
        "a huge dilation": lambda: attribute("dilations", [2**62, 1]),
        "a negative group": lambda: attribute("group", -1),
        "bytes that are no text": lambda: attribute("auto_pad", b"\xff"),
        "sizes that do not fit": lambda: weight.dims.__setitem__(0, 2**40),
        "a negative size": lambda: weight.dims.__setitem__(0, -1),
        "an unknown data type": lambda: setattr(weight, "data_type", 99),
        "complex weights": lambda: array(np.ones(2, np.complex64)),
        "a word as a weight": lambda: array(np.array(["a", "b"], object)),
        "a bias of another size": lambda: array(np.ones(7, np.float32)),
        "metadata that is no JSON": lambda: metadata("{"),
        "metadata that is a list": lambda: metadata("[1]"),
        "deeply nested metadata": lambda: metadata("[" * 5000),
        "a mean without a deviation": lambda: metadata('{"mean": [1]}'),
        "a deviation of 0": lambda: metadata('{"mean": [1, 1], "std": [1, 0]}'),
        "numbers as classes": lambda: metadata('{"classes": 3}'),
    }


def test_the_error_for_the_contents_of_a_hostile_file_names_the_file(tmp_path):
    path = tmp_path / "net.onnx"
    nodes = [node("Conv", "x w b", "c"), node("Flatten", "c", "y")]
    written(nodes, path, size=("N", 2, 1, 1), w=np.ones((2, 2, 1, 1), np.float32), b=np.ones(2, np.float32))
    valid = path.read_bytes()
    assert interop.from_onnx(path).output_shape == (2,)
    for wrong in invalidations(onnx.load_from_string(valid)):
        model = onnx.load_from_string(valid)
        invalidations(model)[wrong]()
        path.write_bytes(model.SerializeToString())
        with pytest.raises(ValueError, match=r"net\.onnx") as refused:
            interop.from_onnx(path)
        assert "\n" not in str(refused.value), wrong
        assert len(str(refused.value)) < 1000, wrong
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(OSError, match="not a regular file"):
        interop.from_onnx(tmp_path / "pipe.onnx")
    with pytest.raises(OSError, match="not a regular file"):
        interop.from_onnx(tmp_path)
