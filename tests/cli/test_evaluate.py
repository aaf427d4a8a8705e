"""gpuconv evaluate: what it passes to the library, and what it prints."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np

from gpuconv.cli import evaluate as command
from gpuconv.cli import main
from gpuconv.data import Normalization, load
from gpuconv.training import evaluate
from tests.cli.small_run import DATA, last_line


def test_evaluate_passes_its_options_on_and_prints_the_result(passed_to, trained, capsys):
    for tta, views in ((None, ""), ("mirror", "2"), ("mirror+shift", "6")):
        capsys.readouterr()
        assert main(["evaluate", str(trained), "--device", "numpy", *(["--tta", tta] if tta else [])]) == 0
        output = capsys.readouterr().out.splitlines()
        (((net, loader), options),) = passed_to["evaluate"]
        expected = evaluate(net, loader, **options)
        averaging = [f"averaging  over {views} views of each image"] if views else []
        assert output[: 4 + len(averaging)] == [
            f"run        {trained}",
            "device     numpy (as you asked)",
            "checkpoint last, after 2 of 2 epochs",
            "data       synthetic: 4 test images",
            *averaging,
        ]
        assert output[len(output) - 2 :] == [
            f"test loss {expected.loss:.4f}",
            f"test accuracy {100 * expected.accuracy:.2f}%",
        ]
        assert output[4 + len(averaging)] == output[-3] == ""
        assert options == {"loss": "softmax:label_smoothing=0.2", "confusion": True, "tta": tta or "none"}
        ((dataset, batch_size), loading) = passed_to["Loader"][-1]
        np.testing.assert_array_equal(dataset.images, load(DATA)[1].images)
        np.testing.assert_array_equal(loading.pop("normalization").mean, Normalization.from_dataset(load(DATA)[0]).mean)
        assert (batch_size, loading) == (256, {"device": "numpy", "dtype": np.float32, "shuffle": False})
        passed_to["evaluate"].clear()


def test_evaluate_says_how_long_the_net_of_an_interrupted_run_was_trained(capsys):
    run = Path(__file__).parents[1] / "fixtures/runs/float32/interrupted"
    for which, text in (("last", "after 1 of 3 epochs and 2 steps"), ("best", "after 1 of 3 epochs")):
        assert main(["evaluate", str(run), "--which", which]) == 0
        assert f"\ncheckpoint {which}, {text}\n" in capsys.readouterr().out


def test_evaluate_refuses_data_together_with_a_test_folder(trained, capsys):
    assert main(["evaluate", str(trained), "--data", "digits", "--test", "folder:x"]) == 2
    assert "error: --test folder:x already gives the test images; leave --data digits out" in capsys.readouterr().err


def test_evaluate_agrees_with_training_and_counts_the_classes(drawn_run, tmp_path, capsys):
    run = shutil.copytree(drawn_run, tmp_path / "run")
    assert main(["train", "--resume", str(run)]) == 0
    accuracy = last_line(capsys)
    assert main(["evaluate", str(run)]) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[-1] == accuracy
    rows = re.findall(r"^class (\d) +(\d+) +(\d+) +[\d.]+ %", output, re.M)
    assert [int(label) for label, _, _ in rows] == [0, 1, 2, 3]
    images, right = (sum(int(row[column]) for row in rows) for column in (1, 2))
    assert images == 19
    assert accuracy == f"test accuracy {100 * right / 19:.2f}%"


def test_evaluate_averages_over_views_on_request(drawn_run, capsys):
    assert main(["evaluate", str(drawn_run), "--tta", "mirror+shift"]) == 0
    assert "over 6 views of each image" in capsys.readouterr().out
    assert main(["evaluate", str(drawn_run), "--tta", "miror"]) == 2
    assert "did you mean 'mirror'?" in capsys.readouterr().err


def test_evaluate_refuses_images_of_another_shape_than_the_nets_input(drawn_run, capsys):
    assert main(["evaluate", str(drawn_run), "--data", "digits"]) == 2
    assert "the net takes volumes of 9 x 7 x 3 (height x width x depth), received 8 x 8 x 1" in capsys.readouterr().err


def test_evaluate_prints_a_table_of_classes():
    """A class without images has no accuracy; a class without mistakes names no other class."""
    confusion = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    assert command.table(confusion, ["cat", "a\tdog", "none"]).splitlines() == [
        "class   images   right  accuracy  most often mistaken for",
        "cat          4       3   75.00 %  a\\tdog (1)",
        "a\\tdog       2       2  100.00 %",
        "none         0       0         -",
    ]
    assert confusion[0, 0] == 3
    assert command.table(np.eye(2, dtype=int), ["a", "b"]).splitlines()[1] == "a           1       1  100.00 %"
