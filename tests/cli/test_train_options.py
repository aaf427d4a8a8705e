"""Options of `gpuconv train` beyond the recipe's: a validation part, stopping, plateaus, clipping, averages,
accumulation, shards, batch norm over ranks, initial weights."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from gpuconv.cli import main
from tests.cli.command import output_of
from tests.cli.small_run import TINY_DATA, TINY_RUN, weights

pytestmark = pytest.mark.usefixtures("work")


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


# --- a part to validate on -----------------------------------------------------------------------


def test_with_a_validation_part_the_test_images_are_used_once_at_the_end(work, capsys):
    out = output_of(capsys, "train", *TINY_RUN, "--epochs", 2, "--validation", 0.25, "--run-dir", "run")
    assert "72 images to train on, 24 to validate on, 19 to test on" in out
    assert "validation 0.25" in out
    epochs, test = metrics(work / "run")[:-1], metrics(work / "run")[-1]
    assert test["event"] == "test"
    assert all("validation_loss" in record and "test_loss" not in record for record in epochs)
    assert f"test accuracy {100 * test['test_accuracy']:.2f}%" in out.splitlines()
    before = (work / "run" / "last.safetensors").read_bytes()
    assert "test accuracy" in output_of(capsys, "train", "--resume", "run")
    assert metrics(work / "run")[-1] == test
    assert (work / "run" / "last.safetensors").read_bytes() == before
    main(["evaluate", "run", "--device", "numpy"])
    out, err = capsys.readouterr()
    assert "warning" not in err  # the data is that of the run
    assert f"test accuracy {100 * test['test_accuracy']:.2f}%" in out
    for wrong in ("1", "-0.1", "nan", "half"):
        assert f"expected a fraction from 0 to below 1, received '{wrong}'" in output_of(
            capsys, "train", *TINY_RUN, f"--validation={wrong}", status=2
        )


def test_early_stopping_is_by_validation_accuracy_or_training_loss(work, capsys):
    unchanging = [*TINY_RUN, "--lr", 1e-12, "--schedule", "constant", "--epochs", 9, "--early-stopping", 2]
    out = output_of(capsys, "train", *unchanging, "--validation", 0.25, "--run-dir", "judged")
    assert "early stopping 2" in out
    assert "early stopping: no better validation_accuracy in 2 epochs" in out
    assert [record["event"] for record in metrics(work / "judged")] == ["epoch"] * 3 + ["test"]
    output_of(capsys, "train", "--resume", "judged")  # it stays stopped
    assert [record["event"] for record in metrics(work / "judged")] == ["epoch"] * 3 + ["test"]
    output_of(capsys, "train", *TINY_RUN, "--epochs", 3, "--early-stopping", 2, "--run-dir", "learning")
    assert len(metrics(work / "learning")) == 3
    rising = [*TINY_RUN, "--lr", 5, "--schedule", "constant", "--epochs", 9, "--early-stopping", 2]
    out = output_of(capsys, "train", *rising, "--run-dir", "rising")
    assert "early stopping: no better train_loss in 2 epochs" in out


def test_a_plateau_lowers_the_rate_and_is_stored_with_the_run(work, capsys):
    unchanging = [*TINY_RUN, "--lr", 1e-12, "--schedule", "constant", "--epochs", 3]
    for validation in ([], ["--validation", 0]):
        error = output_of(capsys, "train", *unchanging, *validation, "--plateau", 1, "--run-dir", "run", status=2)
        assert "watches validation_loss, and there is no validation data; give --validation 0.1 too, or watch" in error
        assert not (work / "run").exists()
    assert "did you mean 'train_loss'" in output_of(
        capsys, "train", *unchanging, "--plateau", "1,watch=trainloss", status=2
    )
    out = output_of(capsys, "train", *unchanging, "--validation", 0.25, "--plateau", "0,factor=0.5", "--run-dir", "run")
    assert "plateau 0,factor=0.5" in out
    lines = [line for line in out.splitlines() if line.startswith("epoch")]
    assert ["  rate x 0.5 " in line for line in lines] == [False, True, False]
    assert "  rate x 0.25 " in lines[2]
    assert [record["lr"] for record in metrics(work / "run")[:-1]] == [1e-12, 1e-12, 5e-13]
    assert 'plateau = "0,factor=0.5"' in (work / "run" / "config.toml").read_text()
    output_of(capsys, "train", "--resume", "run")
    by_config = [*unchanging, "--config", "run/config.toml", "--run-dir", "again"]
    assert "plateau 0,factor=0.5" in output_of(capsys, "train", *by_config)
    output_of(capsys, "train", *unchanging, "--plateau", "0,watch=train_loss", "--run-dir", "trained")
    assert metrics(work / "trained")[-1]["plateau"] == pytest.approx(0.01)


def test_clipping_is_stored_with_the_run(work, capsys):
    assert "must be above 0" in output_of(capsys, "train", *TINY_RUN, "--clip", 0, "--run-dir", "run", status=2)
    assert not (work / "run").exists()
    for clip in ("1e-9", "value:1e-9"):
        run = f"run-{clip[0]}"
        out = output_of(
            capsys, "train", *TINY_RUN, "--epochs", 1, "--lr", 1, "--optimizer", "sgd", "--clip", clip, "--run-dir", run
        )
        assert f", clip {clip}" in out
        assert f'clip = "{clip}"' in (work / run / "config.toml").read_text()
        assert metrics(work / run)[-1]["train_loss"] == pytest.approx(2.3, abs=0.3)
        output_of(capsys, "train", "--resume", run)


def test_the_average_of_the_weights_is_tested_stored_and_evaluated(work, capsys):
    assert "from 0 to below 1" in output_of(capsys, "train", *TINY_RUN, "--ema", 1, "--run-dir", "run", status=2)
    out = output_of(capsys, "train", *TINY_RUN, "--epochs", 2, "--ema", 0.9, "--run-dir", "run")
    assert ", ema 0.9" in out
    assert "ema = 0.9" in (work / "run" / "config.toml").read_text()
    accuracy = re.findall(r"test accuracy +([0-9.]+%)", out)[-1]
    assert f"test accuracy {accuracy}" in output_of(capsys, "evaluate", "run", "--which", "last")
    output_of(capsys, "train", "--resume", "run")
    output_of(capsys, "train", *TINY_RUN, "--epochs", 2, "--run-dir", "plain")
    assert metrics(work / "run")[-1]["test_loss"] != metrics(work / "plain")[-1]["test_loss"]


def test_accumulated_batches_are_stored_with_the_run(work, capsys):
    assert "of at least 1" in output_of(capsys, "train", *TINY_RUN, "--accumulate", 0, "--run-dir", "run", status=2)
    out = output_of(capsys, "train", *TINY_RUN, "--epochs", 1, "--accumulate", 2, "--shards", 2, "--run-dir", "both")
    assert ", 2 shards, 2 batches per update" in out
    out = output_of(capsys, "train", *TINY_RUN, "--epochs", 1, "--accumulate", 2, "--run-dir", "run")
    assert ", 2 batches per update" in out
    assert "accumulate = 2" in (work / "run" / "config.toml").read_text()
    output_of(capsys, "train", *TINY_RUN, "--epochs", 1, "--run-dir", "single")
    steps = metrics(work / "single")[-1]["step"]
    assert metrics(work / "run")[-1]["step"] == math.ceil(steps / 2)
    output_of(capsys, "train", "--resume", "run")


def test_shards_are_stored_with_the_run(work, capsys):
    out = output_of(capsys, "train", *TINY_RUN, "--epochs", 1, "--shards", 2, "--run-dir", "cut")
    assert ", 2 shards" in out
    assert "shards = 2" in (work / "cut" / "config.toml").read_text()
    stored = json.loads((work / "cut" / "run.json").read_text())["settings"]
    assert (stored["shards"], stored["options"]["command"]["shards"]) == (2, 2)
    output_of(capsys, "train", "--resume", "cut")
    for wrong, shown in (("3", "a power of two, such as 1, 2, 4 or 8, received 3"), ("-2", "'-2'"), ("two", "'two'")):
        assert shown in output_of(capsys, "train", *TINY_RUN, f"--shards={wrong}", status=2)


def test_batch_norm_over_all_ranks_is_stored_with_the_run(work, capsys):
    assert "expected 1 or 0, received '2'" in output_of(capsys, "train", *TINY_RUN, "--sync-batch-norm", "2", status=2)
    out = output_of(capsys, "train", *TINY_RUN, "--epochs", 1, "--sync-batch-norm", "--run-dir", "run")
    assert ", batch norm over all ranks" in out
    assert "sync_batch_norm = 1" in (work / "run" / "config.toml").read_text()
    output_of(capsys, "train", "--resume", "run")
    out = output_of(capsys, "train", *TINY_RUN, "--epochs", 1, "--sync-batch-norm", "--shards", 2, "--run-dir", "cut")
    assert ", 2 shards, batch norm over all ranks" in out


# --- initial weights -----------------------------------------------------------------------------


@pytest.mark.slow
def test_training_starts_from_the_weights_of_a_run_a_checkpoint_or_a_saved_net(work, capsys):
    from gpuconv import load

    output_of(capsys, "train", *TINY_RUN, "--epochs", 1, "--seed", 5, "--run-dir", "first")
    load("first").save("saved.safetensors")
    unchanging = [*TINY_RUN, "--lr", 1e-30, "--schedule", "constant", "--epochs", 1]
    for number, path in enumerate(("first", "first/last.safetensors", "saved.safetensors")):
        assert "weights of /" in output_of(capsys, "train", *unchanging, "--weights", path, "--run-dir", f"run{number}")
        for name, value in weights("first").items():
            np.testing.assert_array_equal(weights(f"run{number}")[name], value)
    before = (work / "run0" / "last.safetensors").read_bytes()
    (work / "first").rename(work / "gone")  # the checkpoint of run0 holds the weights
    assert "test accuracy" in output_of(capsys, "train", "--resume", "run0")
    assert (work / "run0" / "last.safetensors").read_bytes() == before
    for path, message in (
        ("nowhere", "'.*nowhere' does not exist; a saved net or a run directory is expected"),
        ("gone/run.json", "truncated, corrupt or not a safetensors file"),
        (".", "holds no run"),
    ):
        err = output_of(capsys, "train", *unchanging, "--weights", path, "--run-dir", "not", status=2)
        assert re.search(message, err)
    five_classes = [*unchanging, "--data", TINY_DATA.replace("classes=4", "classes=5")]
    err = output_of(capsys, "train", *five_classes, "--weights", "gone", "--run-dir", "not", status=2)
    assert re.search(r"fc1.weight has shape \(4, \d+\) there and \(5, \d+\) here", err)
    err = output_of(
        capsys, "train", *unchanging, "--model", "three-layer", "--weights", "gone", "--run-dir", "not", status=2
    )
    assert "is not part of this net" in err or "is missing" in err or "has shape" in err
    assert not (work / "not").exists()
