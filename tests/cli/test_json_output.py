"""--json and --quiet, which every command takes: the document with the results, and the shorter output."""

from __future__ import annotations

import json

import numpy as np
import pytest

from gpuconv.cli import json_output, main
from tests.cli.command import stdout_of
from tests.cli.small_run import TINY_DATA

TINY = ["--data", TINY_DATA, "--model", "seed-net", "--device", "numpy"]
pytestmark = pytest.mark.usefixtures("work")


def document_of(capsys, *arguments, status=0):
    """The single JSON document on standard output."""
    return json.loads(stdout_of(capsys, *arguments, "--json", status=status))


def test_the_documents_of_train_evaluate_and_predict_hold_their_results(work, capsys):
    Image = pytest.importorskip("PIL.Image")
    trained = document_of(capsys, "train", *TINY, "--epochs", 2, "--run-dir", "run")
    assert [record["epoch"] for record in trained["epochs"]] == [1, 2]
    assert trained["test_accuracy"] == trained["epochs"][-1]["test_accuracy"]
    assert (trained["run"], trained["stopped"], trained["steps"]) == ("run", "finished", 4)
    tested = document_of(capsys, "evaluate", "run", "--device", "numpy")
    assert tested["test_accuracy"] == trained["test_accuracy"]
    assert tested["images"] == np.array(tested["confusion"]).sum() == 19
    assert sum(row["images"] for row in tested["classes"]) == 19
    assert np.trace(tested["confusion"]) == sum(row["right"] for row in tested["classes"])
    Image.fromarray(np.zeros((9, 7, 3), np.uint8)).save("a.png")
    (work / "b.png").write_bytes(b"no image")
    predict = ["predict", "a.png", "b.png", "--run-dir", "run", "--device", "numpy"]
    first, second = document_of(capsys, *predict, status=1)["images"]
    assert first["image"] == "a.png"
    assert sum(guess["probability"] for guess in first["best"]) == pytest.approx(1)
    assert [*second] == ["image", "error"]
    quiet = stdout_of(capsys, "train", *TINY, "--epochs", 1, "--run-dir", "other", "--quiet")
    assert quiet.startswith("test accuracy ")
    assert quiet.count("\n") == 1
    assert stdout_of(capsys, "evaluate", "run", "--device", "numpy", "--quiet").startswith("class ")


def test_the_documents_of_further_commands_hold_their_results(capsys):
    nets = document_of(capsys, "summary")["nets"]
    assert nets[0]["name"] == "seed-net"
    summary = document_of(capsys, "summary", "--model", "seed-net")
    assert summary["total"]["parameters"] == sum(row["parameters"] for row in summary["layers"])
    files = document_of(capsys, "kernels", "--file", "metrics.cu")["files"]
    assert [*files[0]["kernels"]] == ["metrics_add"]
    verified = document_of(
        capsys, "verify", "--op", "relu", "--tier", "tiny", "--dtype", "float32", "--device", "numpy"
    )
    assert (verified["passed"], verified["failed"], verified["rows"][0]["op"]) == (1, 0, "relu")
    one_step = ["profile", "--model", "seed-net", "--batch-size", 2, "--steps", 1, "--no-peaks", "--device", "numpy"]
    assert "conv1" in [row["layer"] for row in document_of(capsys, *one_step)["rows"]]
    assert "devices" in document_of(capsys, "info")
    assert "relu" in document_of(capsys, "lab", "--op", "relu", "--template")["template"]


def test_a_failing_check_is_in_the_document(capsys):
    checked = document_of(capsys, "check", *TINY, "--lr", 1000, status=1)
    assert not checked["passed"]
    assert not all(check["passed"] for check in checked["checks"])
    assert checked["gradients"]
    assert all(row["worst"] is not None for row in checked["gradients"])


def test_errors_are_a_line_on_stderr_and_no_document(capsys):
    assert main(["evaluate", "nowhere", "--json"]) == 2
    captured = capsys.readouterr()
    assert (captured.out, captured.err.count("\n")) == ("", 1)


def test_a_document_holds_plain_json_values():
    value = {"nan": np.float32("nan"), "inf": [float("inf")], "n": np.int64(3), "a": np.ones(2), "b": np.bool_(True)}
    assert json_output.plain(value) == {"nan": None, "inf": [None], "n": 3, "a": [1.0, 1.0], "b": True}
    json_output.note(anything=1)  # without effect: no document is being collected
    json_output.add("rows", 1)
    with json_output.collect() as collected:
        print("dropped")
        json_output.note(x=1)
        json_output.add("rows", {"y": 2})
    assert collected == {"x": 1, "rows": [{"y": 2}]}
