"""`gpuconv lr-find`: its table, its losses, and the files that it writes."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from gpuconv import models, plots, training
from gpuconv.cli import main
from gpuconv.data import Augmentation, Loader, Normalization, load
from tests.cli.command import output_of
from tests.cli.small_run import TINY_DATA, TINY_RUN

SHORT = [*TINY_RUN, "--from", "1e-3", "--to", "1", "--steps", "8"]


pytestmark = pytest.mark.usefixtures("work")


def test_lr_find_prints_a_table_and_a_suggestion_and_writes_no_file(work, capsys):
    out = output_of(capsys, "lr-find", *SHORT)
    assert "rates      0.001 to 1 over 8 steps" in out
    assert "step  rate      loss" in out
    assert "falls fastest" in out
    rate = out.split("suggested learning rate ")[1].split()[0]
    assert f"gpuconv train --data {TINY_DATA} --model seed-net --batch-size 32 --lr {rate}\n" in out
    assert [*work.iterdir()] == []
    quiet = output_of(capsys, "lr-find", *SHORT, "--quiet", "--out", work)
    assert quiet.startswith("step  rate")
    assert quiet.splitlines()[-1] == f"suggested learning rate {rate}"


def test_the_losses_are_those_of_the_librarys_lr_find(capsys):
    words = ["--seed", 3, "--optimizer", "sgd", "--loss", "svm", "--augment", "flip", "--clip", "0.1"]
    document = json.loads(output_of(capsys, "lr-find", *SHORT, *words, "--json"))
    train, _ = load(TINY_DATA)
    net = models.build("seed-net", train.image_shape, 4, seed=3)
    normalization = Normalization.from_dataset(train)
    loader = Loader(train, 32, normalization=normalization, augmentation=Augmentation.parse("flip"), seed=3)
    options = dict(start=1e-3, end=1.0, steps=8, loss="svm", seed=3)
    expected = training.lr_find(net, loader, "sgd", **options, clip=0.1)
    assert document["records"] == expected.records() != training.lr_find(net, loader, "sgd", **options).records()
    assert document["suggestion"] == expected.suggestion
    assert document["diverged"] == expected.diverged


def test_initial_weights_and_the_precision_change_the_first_loss(work, capsys):
    output_of(capsys, "train", *TINY_RUN, "--epochs", 2, "--run-dir", "run", "--quiet")
    first_loss = {}
    for name, options in {"fresh": [], "trained": ["--weights", "run"], "half": ["--precision", "bfloat16"]}.items():
        first_loss[name] = json.loads(output_of(capsys, "lr-find", *SHORT, *options, "--json"))["records"][0]["loss"]
    assert first_loss["trained"] < first_loss["fresh"]
    assert first_loss["half"] == pytest.approx(first_loss["fresh"], rel=0.05)
    assert first_loss["half"] != first_loss["fresh"]


def test_the_folder_given_by_out_gets_the_losses_as_csv_and_the_picture_if_it_can_be_drawn(work, capsys, monkeypatch):
    monkeypatch.setattr(plots, "draw", lambda path, make: path.write_bytes(b"picture"))
    out = output_of(capsys, "lr-find", *SHORT, "--out", "new/rates")
    assert "picture    new/rates/lr-find.png" in out
    assert sorted(path.name for path in (work / "new/rates").iterdir()) == ["lr-find.csv", "lr-find.png"]
    rows = [*csv.DictReader((work / "new/rates/lr-find.csv").read_text().splitlines())]
    assert [*rows[0]] == ["step", "lr", "loss", "smoothed"]
    assert [float(row["lr"]) for row in rows] == pytest.approx(np.geomspace(1e-3, 1, 8)[: len(rows)])
    output_of(capsys, "lr-find", *SHORT, "--out", "new/rates")  # replaces both files

    def refuse(*_):
        raise plots.PlotError("no pictures here")

    monkeypatch.setattr(plots, "draw", refuse)
    assert main(["lr-find", *SHORT, "--out", "other"]) == 0
    assert "no lr-find.png: no pictures here" in capsys.readouterr().err
    assert [path.name for path in (work / "other").iterdir()] == ["lr-find.csv"]


@pytest.mark.usefixtures("pictures")
def test_the_option_out_writes_a_picture(work, capsys):
    pytest.importorskip("matplotlib")
    output_of(capsys, "lr-find", *SHORT, "--out", ".")
    assert (work / "lr-find.png").read_bytes().startswith(b"\x89PNG")
    assert (work / "lr-find.png").stat().st_size > 10_000


def test_an_output_that_is_no_folder_and_an_impossible_batch_give_errors_of_one_line(work, capsys):
    (work / "file").touch()
    for out in ("file", "file/below", "file/below/it"):
        assert f"--out {out} must be a folder, and file is not one" in output_of(
            capsys, "lr-find", *SHORT, "--out", out, status=2
        )
    # 66 images in batches of 5 leave one image, for which the last stage has 1 x 1 values: too few for batch norm.
    one_left_over = ["--data", "synthetic:n=66,size=4x4x3", "--model", "resnet20", "--batch-size", "5"]
    assert "another batch size than 5 for 66 images" in output_of(capsys, "lr-find", *one_left_over, status=2)
    assert [path.name for path in work.iterdir()] == ["file"]
