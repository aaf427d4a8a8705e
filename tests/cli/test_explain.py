"""`gpuconv explain`: one value of a trained net, and maps of a whole image."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import gpuconv as gc
from gpuconv.cli import main
from gpuconv.layers import Branches, Conv2D, Flatten, Input, Linear, MaxPool2D, ReLU, Residual

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def work(work, monkeypatch):
    monkeypatch.setattr("gpuconv.plots.saving.save", lambda figure, path: path.write_bytes(b"drawn"))
    rng = np.random.default_rng(0)
    net = gc.Sequential(
        Input((8, 8, 1)),
        *[Conv2D(4, 3, padding=1), ReLU(), Residual([Conv2D(4, 3, padding=1)])],
        *[MaxPool2D(2), Flatten(), Linear(3)],
        seed=1,
    )
    net.classes = ["cat", "dog", "frog"]
    data = rng.integers(0, 256, (12, 8, 8, 1)).astype(np.uint8), rng.integers(0, 3, 12)
    gc.training.Trainer(net, "sgd", lr=0.01).fit(data, epochs=1, run_dir="run", progress=False)
    Image.fromarray(data[0][0, :, :, 0]).save("a.png")
    return work


def run_line(line):
    return main(line.split())


def document_of(capsys, *arguments):
    capsys.readouterr()
    assert main(["explain", "run", "a.png", "--device", "numpy", "--json", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("pictures")
def test_a_value_is_explained_in_text_and_json(work, capsys):
    document = document_of(capsys, "--layer", "residual1.conv1", "--at", "4,3,2", "--most", 5, "--picture", "value.png")
    assert (document["layer"], document["at"], document["direction"]) == ("residual1.conv1", [4, 3, 2], "forward")
    assert [value["by"] for value in document["computed"]] == ["float64", "numpy"]
    assert all(value["error"] <= value["bound"] for value in document["computed"])
    assert len(document["terms"]) == 5
    total = np.sum(np.array(document["window"]) * document["weight"]) + document["bias"]
    assert total == pytest.approx(document["total"], abs=1e-12)
    assert (work / "value.png").read_bytes() == b"drawn"
    assert run_line("explain run a.png --layer pool1 --at 0,0,1 --device numpy") == 0
    output = capsys.readouterr().out
    assert "the largest of 4 inputs" in output
    assert "inputs that matter most" in output
    assert run_line("explain run a.png --layer conv1 --at 4,4,0 --backward --target dog --device numpy") == 0
    assert "outputs that contribute most" in capsys.readouterr().out


def test_only_outputs_that_contribute_to_a_gradient_are_listed(work, capsys):
    """Of the four inputs of a pool's window only the largest has a gradient, and from one output."""
    printed = []
    for at in ("0,0,1", "0,1,1", "1,0,1", "1,1,1"):
        assert run_line(f"explain run a.png --layer pool1 --at {at} --backward --device numpy") == 0
        printed.append(capsys.readouterr().out)
    listing = [each for each in printed if "outputs that contribute most" in each]
    assert len(listing) == 1
    assert listing[0].count(" x 1 = ") == 1
    assert sum("no outputs contribute" in each for each in printed) == 3
    assert run_line("explain run a.png --layer pool1 --at 0,0,1 --backward --json --device numpy") == 0
    assert len(json.loads(capsys.readouterr().out)["terms"]) == ("outputs that contribute most" in printed[0])


@pytest.mark.usefixtures("pictures")
def test_each_map_has_the_size_of_the_image_and_is_drawn(work, capsys):
    for name in ("saliency", "occlusion", "grad-cam"):
        document = document_of(capsys, "--map", name, "--target", "frog", "--picture", f"{name}.png")
        assert np.shape(document["values"]) == (8, 8, 1)
        assert (work / f"{name}.png").read_bytes() == b"drawn"
    assert document_of(capsys, "--map", "Grad_CAM", "--layer", "conv1", "--picture", "x.png")["map"] == "grad-cam"


@pytest.mark.usefixtures("pictures")
def test_a_map_of_zeros_has_no_largest_value(work, capsys, monkeypatch):
    for value, text in ((0.0, "grad-cam: 0 everywhere\n"), (1.0, "grad-cam: largest at [0, 0]\n")):
        monkeypatch.setattr("gpuconv.inspect.grad_cam", lambda *_, value=value, **__: np.full((8, 8), value))
        assert run_line("explain run a.png --map grad-cam --picture map.png --device numpy") == 0
        assert text in capsys.readouterr().out


@pytest.mark.kernels
def test_on_the_emulated_device_explain_names_the_kernel_thread_and_bytes_written(work, capsys):
    assert run_line("explain run a.png --layer conv1 --at 1,2,3 --device emulated") == 0
    output = capsys.readouterr().out
    assert "kernel conv2d_fprop" in output
    assert "thread (" in output
    assert "of shared " in output
    (written,) = re.findall(r"writes (\d+) bytes of argument '\w+', from (\d+) to (\d+)\n", output)
    count, first, last = map(int, written)
    assert last == first + count - 1


@pytest.fixture
def branched(work):
    """A run, "branched", of a net whose first layer concatenates its input and two convolutions."""
    rows = [[], [Conv2D(2, 3, padding=1)], [Conv2D(2, 1), ReLU()]]
    net = gc.Sequential(Input((8, 8, 1)), Branches(rows), Flatten(), Linear(3), seed=1)
    data = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1)).astype(np.uint8), np.arange(12) % 3
    gc.training.Trainer(net, "sgd", lr=0.01).fit(data, epochs=1, run_dir="branched", progress=False)


@pytest.mark.usefixtures("branched")
def test_the_json_names_the_branch_that_a_concatenated_value_comes_from(capsys):
    branches = []
    for channel in (0, 1, 3):
        line = f"explain branched a.png --layer branches1 --at 1,2,{channel} --device numpy --json"
        capsys.readouterr()
        assert run_line(line) == 0
        branches.append(json.loads(capsys.readouterr().out)["branch"])
    assert branches == ["branch1", "branch2", "branch3"]


@pytest.mark.kernels
@pytest.mark.usefixtures("branched")
def test_the_kernel_that_wrote_a_slice_of_a_concatenation_is_named(capsys):
    for channel, kernel in ((0, "copy"), (1, "conv2d_fprop"), (3, "relu_forward")):
        capsys.readouterr()
        assert run_line(f"explain branched a.png --layer branches1 --at 1,2,{channel} --device emulated") == 0
        output = capsys.readouterr().out
        assert f"kernel {kernel}" in output, output
        assert "thread (" in output


def test_invalid_positions_targets_and_pictures_are_refused_in_one_line(work, capsys):
    for line, message in {
        "": "say which value",
        "--layer conv1": "say which value",
        "--layer conv1 --at 1,x": "expected numbers with commas",
        "--layer conv9 --at 1,1,1": "unknown layer 'conv9'",
        "--layer conv1 --at 1,1": "(size 8 x 8 x 4) is given by 3 whole numbers, counted from 0",
        "--layer conv1 --at 8,0,0": "received [8, 0, 0]",
        "--layer conv1 --at 0,0,0 --most 0": "--most",
        "--layer conv1 --at 0,0,0 --target cat": "--target is for --backward and --map",
        "--layer conv1 --at 0,0,0 --backward --target cow": "unknown class 'cow'",
        "--layer conv1 --at 0,0,0 --picture x.jpg": "must end in .png",
        "--map heat --picture x.png": "unknown map 'heat'",
        "--map saliency": "say where with --picture",
        "--map saliency --at 1,1,1 --picture x.png": "leave --at",
        "--map occlusion --layer conv1 --picture x.png": "--layer is for --map grad-cam",
        "--map grad-cam --layer fc1 --picture x.png": "needs a layer with maps",
    }.items():
        capsys.readouterr()
        assert main(["explain", "run", "a.png", "--device", "numpy", *line.split()]) == 2, line
        output = capsys.readouterr().err
        assert message in output, output
        assert output.count("\n") == 1
    assert not (work / "x.png").exists()
    assert run_line("explain run none.png --layer conv1 --at 0,0,0 --device numpy") == 2
    assert run_line("explain nowhere a.png --layer conv1 --at 0,0,0") == 2
