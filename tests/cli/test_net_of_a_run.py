"""The net of a run, opened by its folder."""

from __future__ import annotations

from gpuconv.cli import main, runs


def test_a_net_is_opened_on_the_requested_device(trained):
    assert [runs.open_run(trained, device).net.device for device in ("numpy", "emulated")] == ["numpy", "emulated"]


def test_summary_shows_the_net_of_a_run(monkeypatch, trained, capsys):
    monkeypatch.setattr("gpuconv.summary.summary", lambda net, **options: f"{net.input_shape} {net.device} {options}")
    assert main(["summary", "--run-dir", str(trained), "--device", "emulated", "--batch-size", "7"]) == 0
    assert capsys.readouterr().out == "(9, 7, 3) numpy {'batch_size': 7, 'device': 'emulated'}\n"
