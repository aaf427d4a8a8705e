"""gpuconv train --graph: steps as CUDA graphs."""

from __future__ import annotations

import pytest

from gpuconv.cli import main
from tests.cli.small_run import train


@pytest.mark.kernels
def test_a_run_with_graphs_leaves_the_same_bytes(tmp_path, monkeypatch):
    from gpuconv.backends.cuda.runtime.graph import EmulatedRecorder

    captures, capture = [], EmulatedRecorder.capture
    monkeypatch.setattr(
        EmulatedRecorder, "capture", lambda *arguments: captures.append(arguments) or capture(*arguments)
    )
    data = ["--data", "synthetic:n=24,size=6x6x1,classes=3", "--model", "seed-net", "--batch-size", "4"]
    checkpoints = []
    for graph in ("--graph", "--no-graph", None):
        run, before = tmp_path / str(graph), len(captures)
        option = [] if graph is None else [graph]
        assert main(["train", *data, "--device", "emulated", "--epochs", "2", "--run-dir", str(run), *option]) == 0
        assert (len(captures) > before) == (graph == "--graph")
        checkpoints.append((run / "last.safetensors").read_bytes())
    assert checkpoints[0] == checkpoints[1] == checkpoints[2]


def test_a_graph_is_refused_on_numpy(tmp_path, capsys):
    assert train("--graph", "--run-dir", tmp_path / "run") == 2
    assert "graph=True captures the launches of a CUDA or the emulated device, and the net is on numpy" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
