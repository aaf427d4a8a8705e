"""gpuconv export: the ONNX file that it writes, and what it needs."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from gpuconv import data, ops
from gpuconv.cli import main
from gpuconv.layers import Conv2D, Flatten, Linear
from tests.interop.onnx_rows import SHAPE, built, expect_close

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def test_the_export_command_writes_a_model(tmp_path, capsys, monkeypatch):
    net = built([Conv2D(4, 3), Flatten(), Linear(5)])
    net.normalization = data.Normalization([90, 100, 110, 120], [50, 60, 70, 80])
    net.save(tmp_path / "net.safetensors")
    arguments = ["export", str(tmp_path / "net.safetensors"), str(tmp_path / "net.onnx")]
    assert main([*arguments, "--normalization", "--softmax", "--layout", "NHWC"]) == 0
    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), dtype=np.uint8)
    (scores,) = runtime.InferenceSession(str(tmp_path / "net.onnx")).run(None, {"input": images})
    expect_close(scores, ops.softmax(net.predict(images)))
    assert main([*arguments, "--dtype", "fp16"]) == 0
    assert runtime.InferenceSession(str(tmp_path / "net.onnx")).get_inputs()[0].type == "tensor(float16)"
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(arguments) == 2
    assert "gpuconv: error: ONNX files need the onnx package" in capsys.readouterr().err


def test_export_replaces_neither_the_net_nor_a_file_of_its_run(tmp_path, capsys):
    net, run = tmp_path / "net.safetensors", tmp_path / "run"
    built([Flatten(), Linear(5)]).save(net)
    before = net.read_bytes()
    assert main(["export", str(net), str(net)]) == 2
    assert "net.safetensors holds the net to export; give the ONNX file another name" in capsys.readouterr().err
    assert net.read_bytes() == before
    run.mkdir()
    for name in ("run.json", "best.safetensors"):
        (run / name).write_text("kept")
    (run / "last.safetensors").write_bytes(before)
    assert main(["export", str(run), str(run / "run.json")]) == 2
    assert "run.json is a file of the run; give the ONNX file another name" in capsys.readouterr().err
    assert (run / "run.json").read_text() == "kept"
