"""Exported nets: checked by onnx, run by onnxruntime, with the same results as ours."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from gpuconv import backends, data, interop, layers, models
from gpuconv.interop import onnx_export_layers
from gpuconv.layers import LAYERS, Conv2D, Flatten, Input, Linear, MaxPool2D, Sequential
from tests.interop.onnx_rows import ROWS, SHAPE, built, expect_close

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def outputs(net, path, batch=3, **options):
    """The results of the exported net in onnxruntime and of our net, both NHWC."""
    interop.to_onnx(net, path, **options)
    onnx.checker.check_model(str(path), full_check=True)
    session = runtime.InferenceSession(str(path))
    x = np.random.default_rng(0).standard_normal((batch, *net.input_shape)).astype(net.dtype)
    channels_first = options.get("layout") != "NHWC"
    file_input = x.transpose(0, 3, 1, 2) if x.ndim == 4 and channels_first else x
    (y,) = session.run(None, {session.get_inputs()[0].name: file_input})
    y_nhwc = y.transpose(0, 2, 3, 1) if y.ndim == 4 and channels_first else y
    return y_nhwc, backends.to_numpy(net.infer(x))


@pytest.mark.parametrize("row", ROWS)
def test_exported_layers_give_the_same_results(row, tmp_path):
    net = built(ROWS[row])
    for exported in (net, net.fuse()):
        expect_close(*outputs(exported, tmp_path / "net.onnx"))
    expect_close(*outputs(net, tmp_path / "net.onnx", layout="NHWC", batch=1))


def test_every_layer_has_an_onnx_form():
    kinds = {kind for name, kind in LAYERS.items() if "." not in name and name in layers.__all__}
    assert kinds - {layers.Layer} <= set(onnx_export_layers.FORMS)


def test_every_layer_occurs_in_an_exported_net():
    assert {type(layer) for row in ROWS.values() for layer in built(row).walk()} >= set(onnx_export_layers.FORMS) - {
        *onnx_export_layers.FUSED
    }


LARGE = ("alexnet-cifar", "vgg-cifar", "vgg16", "resnet18-cifar", "resnet18", "resnet34", "resnet50", "mobilenet-v2")


@pytest.mark.parametrize("name", [name for name in models.MODELS if name not in LARGE])
def test_nets_of_the_zoo_give_the_same_scores(name, tmp_path):
    expect_close(*outputs(models.build(name), tmp_path / "net.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_nets_of_the_zoo_give_the_same_scores(name, tmp_path):
    expect_close(*outputs(models.build(name), tmp_path / "net.onnx", batch=1))


def test_a_float16_net_gives_the_same_results(tmp_path):
    """The net and the file round every volume to float16; the results differ by a few roundings of 2**-11."""
    for row in ("conv", "pools", "norms", "residuals", "linear-after-volume", "relu6"):
        actual, expected = outputs(built(ROWS[row], precision="float16"), tmp_path / "net.onnx")
        assert actual.dtype == expected.dtype == np.float16
        np.testing.assert_allclose(actual, expected, rtol=0, atol=4 * 2**-11 * np.abs(expected).max())
    interop.to_onnx(built(ROWS["conv"]), tmp_path / "net.onnx", dtype="fp16")
    kinds = {tensor.data_type for tensor in onnx.load(tmp_path / "net.onnx").graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT16}


def test_a_file_has_the_names_of_arrays_and_layers(tmp_path):
    net = models.build("resnet20")
    interop.to_onnx(net, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    assert {tensor.name for tensor in model.graph.initializer} == set(net.state_dict())
    paths = {layer.path for layer in net.walk()}
    assert {node.name for node in model.graph.node} <= paths
    assert all([node.name] == list(node.output) for node in model.graph.node)
    assert [end.name for end in (*model.graph.input, *model.graph.output)] == ["input", "fc1"]
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 21)]


def test_normalization_and_softmax_can_be_part_of_the_file(tmp_path):
    net = built([Conv2D(4, 3), Flatten(), Linear(5)])
    images = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), dtype=np.uint8)
    mean_image = images[:3].mean(axis=0).astype(np.float32)
    for mean in ([90, 100, 110, 120], mean_image):
        net.normalization, net.classes = data.Normalization(mean, [50, 60, 70, 80]), list("abcde")
        for layout, file_input in (("NHWC", images), ("NCHW", images.transpose(0, 3, 1, 2))):
            interop.to_onnx(net, tmp_path / "net.onnx", normalization=True, softmax=True, layout=layout)
            session = runtime.InferenceSession(str(tmp_path / "net.onnx"))
            (scores,) = session.run(None, {"input": file_input})
            expect_close(scores, net.predict(images, softmax=True))
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["gpuconv"])
    assert metadata["classes"] == list("abcde")


def test_a_layer_may_be_named_softmax(tmp_path):
    net = built([Flatten(), Linear(2, name="softmax")])
    interop.to_onnx(net, tmp_path / "net.onnx", softmax=True)
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"))
    x = np.random.default_rng(0).standard_normal((2, *net.input_shape)).astype(np.float32)
    (scores,) = session.run(None, {"input": x.transpose(0, 3, 1, 2)})
    expect_close(scores, net.predict(x, softmax=True, normalize=False))


def test_a_net_of_larger_inputs_has_an_input_of_variable_size(tmp_path):
    net = Sequential([Input((5, 5, 2), larger=True), Conv2D(3, 3, padding=1), MaxPool2D(2)])
    interop.to_onnx(net, tmp_path / "net.onnx")
    session = runtime.InferenceSession(str(tmp_path / "net.onnx"))
    for size in ((5, 5), (8, 11)):
        x = np.random.default_rng(0).standard_normal((2, *size, 2)).astype(np.float32)
        (y,) = session.run(None, {"input": x.transpose(0, 3, 1, 2)})
        expect_close(y.transpose(0, 2, 3, 1), net.infer(x))


class UserDefinedReLU(layers.ReLU, op="relu"):
    """A user's layer, which must not be exported as its base class."""


def test_nets_without_an_onnx_form_and_invalid_options_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    net = built([Flatten(), Linear(2)])
    open_cover = Sequential([Input((5, 5, 2), larger=True), MaxPool2D(2, fit="cover")])
    large = built([Flatten(), Linear(2)])
    large["fc1.bias"][0] = 1e5
    for exported, options, message in (
        (built([UserDefinedReLU()]), {}, "the layer UserDefinedReLU has no ONNX form"),
        (Sequential([Linear(2)]), {}, "the net has no weights yet"),
        (Sequential([Input((3,)), Linear(2)], initialize=False), {}, "the net has no weights yet"),
        (net, dict(normalization=True), "normalization=True needs net.normalization"),
        (net, dict(softmax="no"), "softmax must be True or False, received 'no'"),
        (net, dict(layout="HWC"), "unknown layout 'HWC'"),
        (net, dict(dtype="bfloat16"), "unknown dtype 'bfloat16'"),
        (open_cover, {}, "pool1: fit='cover' has no ONNX form"),
        (large, dict(dtype="float16"), r"fc1\.bias holds 100000, which is out of the range of float16"),
        ("net", {}, "to_onnx takes a net, received str"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            interop.to_onnx(exported, path, **options)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"ONNX files need the onnx package: .*'gpuconv\[onnx\]'"):
        interop.to_onnx(net, path)
    assert not path.exists()


def test_a_layer_outside_a_net_is_exported_like_a_net_of_it(tmp_path):
    for layer in (Conv2D(3, 3), layers.Residual([Conv2D(2, 3, padding=1), layers.ReLU()])):
        layer.build((5, 5, 2), seed=1)
        expect_close(*outputs(layer, tmp_path / "layer.onnx"))
        assert layer.path == ""
