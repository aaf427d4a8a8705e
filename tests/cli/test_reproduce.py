"""The accuracy table of the docs, and the command that reproduces it."""

import json
import signal
from pathlib import Path

import pytest

from gpuconv.cli import reproduce
from gpuconv.cli.main import main
from gpuconv.cli.reproduce import Row
from gpuconv.data import Loader
from gpuconv.dtypes import PRECISIONS

DOCS = Path(__file__).parent.parent.parent / "docs" / "recipes.md"


def test_the_table_in_the_docs_is_the_one_that_reproduce_prints():
    rows = [Row(*row, correct) for row, correct in reproduce.REFERENCE.items()]
    assert "\n".join(reproduce.table(rows)) in DOCS.read_text(encoding="utf-8")


def test_differences_are_named_seed_by_seed(monkeypatch):
    monkeypatch.setattr(reproduce, "REFERENCE", {("numpy", "float32"): (350, 351, 352)})
    assert [*reproduce.differences(Row("numpy", "float32", (350, 351)))] == []
    assert [*reproduce.differences(Row("numpy", "float32", (350, 353, 351)))] == [
        "numpy, float32, seed 1: 98.06 %, in the table 97.50 % (2 more of 360 images right)",
        "numpy, float32, seed 2: 97.50 %, in the table 97.78 % (1 fewer of 360 images right)",
    ]
    assert [*reproduce.differences(Row("cuda", "tf32", (1,)))] == ["cuda, tf32: the table has no such row"]


def test_every_precision_of_a_device_is_trained_from_every_seed(monkeypatch, capsys):
    runs = []
    monkeypatch.setattr(reproduce, "count_correct", lambda *run: runs.append(run) or 351)
    assert main(["reproduce", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    trained = {(row["device"], row["precision"]) for row in rows}
    assert trained == {(device, precision) for device in ("numpy", "emulated") for precision in PRECISIONS}
    assert {*reproduce.REFERENCE} == trained
    assert len(runs) == len({*runs}) == reproduce.SEEDS * len(rows)


def test_ctrl_c_ends_the_command_without_the_result_of_an_incomplete_run(monkeypatch, capsys):
    epoch = Loader.epoch

    def interrupt(loader, *arguments, **options):
        monkeypatch.setattr(Loader, "epoch", epoch)
        signal.raise_signal(signal.SIGINT)
        return epoch(loader, *arguments, **options)

    monkeypatch.setattr(Loader, "epoch", interrupt)
    assert main(["reproduce", "--quick", "--device", "numpy"]) == 130
    assert capsys.readouterr().out == ""


def test_an_unknown_device_is_refused():
    assert main(["reproduce", "--quick", "--device", "nowhere"]) == 2


@pytest.mark.slow
def test_the_quick_mode_trains_a_net_with_over_95_percent_right(capsys):
    assert main(["reproduce", "--quick", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["right"][0] > 0.95 * reproduce.IMAGES  # the exact number depends on the machine's BLAS
