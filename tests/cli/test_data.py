"""gpuconv data: the folder of a download and the next command."""

from __future__ import annotations

from gpuconv.cli import main


def test_a_download_prints_its_folder_and_the_next_command(monkeypatch, capsys):
    monkeypatch.setattr("gpuconv.data.cifar10.download", lambda folder: f"{folder}/cifar-10-batches-bin")
    assert main(["data", "cifar10", "--to", "my data"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "CIFAR-10 is in my data/cifar-10-batches-bin",
        "try next:  gpuconv train --data 'cifar10:my data'",
    ]
