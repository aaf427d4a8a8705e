"""All images of a separate test folder are used, and its classes are matched by name."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

from gpuconv.cli import main
from tests.cli.command import output_of

Image = pytest.importorskip("PIL.Image")


def photos(root, count, size=(8, 8), classes=("cats", "dogs")):
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.random.default_rng(number).integers(0, 128, (*size, 3)) + 127 * (label % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:03}.png")


@pytest.fixture
def work(work):
    photos(work / "train", 6)
    photos(work / "test", 5, size=(10, 12))
    return work


TRAIN = ("train", "--model", "seed-net", "--device", "numpy", "--epochs", "1", "--run-dir", "run")


def test_later_commands_also_test_on_all_images_of_a_separate_test_folder(work, capsys):
    """Training uses all images of both folders, in the size of the training images, and later commands find both."""
    out = output_of(capsys, *TRAIN, "--data", "folder:train,size=8x8", "--test", "folder:test")
    assert "train: 12 images to train on, 10 to test on, 8x8x3, 2 classes" in out
    assert f'"folder:{work}/test' in (work / "run" / "run.json").read_text()
    assert "test: 10 test images" in output_of(capsys, "evaluate", "run")
    (work / "test").rename(work / "moved")
    assert "/test: there is no such folder" in output_of(capsys, "evaluate", "run", status=2)
    assert "moved: 10 test images" in output_of(capsys, "evaluate", "run", "--test", "folder:moved")
    assert "test accuracy" in output_of(capsys, "train", "--resume", "run", "--test", "folder:moved")


@pytest.mark.parametrize("options", [["--test", "folder:test"], ["--data", "folder:test,test=1"]], ids=["test", "data"])
def test_evaluate_can_test_on_all_of_a_folder(work, capsys, options):
    output_of(capsys, *TRAIN, "--data", "folder:train,size=8x8")
    assert main(["evaluate", "run", *options]) == 0
    out, err = capsys.readouterr()
    assert "test: 10 test images\n" in out
    assert err == ""


def test_evaluate_says_which_part_of_a_folder_it_uses(work, capsys):
    output_of(capsys, *TRAIN, "--data", "folder:train,size=8x8")
    out = output_of(capsys, "evaluate", "run", "--data", "folder:test")
    assert "test: 2 test images of 10; test=1 in --data uses all of them\n" in out


def test_evaluate_mentions_the_data_option_test_1_only_for_data_that_takes_it(work, capsys):
    data = "synthetic:n=20,size=8x8x1"
    output_of(capsys, *TRAIN, "--data", data)
    assert "synthetic: 4 test images\n" in output_of(capsys, "evaluate", "run", "--data", data)


def test_a_class_that_only_the_test_or_only_the_training_folder_has_is_named(work, capsys):
    output_of(capsys, *TRAIN, "--data", "folder:train,size=8x8")
    shutil.copytree(work / "test" / "cats", work / "test" / "ants")
    wrong = output_of(capsys, "evaluate", "run", "--test", "folder:test", status=2)
    assert wrong.endswith("gpuconv: error: 'test' must have the training data's classes: it has unknown 'ants'\n")
    shutil.rmtree(work / "test" / "cats")
    wrong = output_of(capsys, "evaluate", "run", "--test", "folder:test", status=2)
    assert "it lacks 'cats' and has unknown 'ants'" in wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*TRAIN, "--data", "folder:train,test=0.5", "--test", "folder:test"], "all of train is for training; leave"),
        ([*TRAIN, "--data", "folder:train", "--test", "folder:test,test=0.5"], "for testing; leave test=0.5 out"),
        ([*TRAIN, "--data", "folder:train,test=1"], "and none for training"),
        ([*TRAIN, "--data", "folder:train", "--test", "folder:tset"], "tset: there is no such folder"),
        ([*TRAIN, "--data", "folder:train", "--test", "folder:test"], "of 8 x 8 x 3 .* received 10 x 12 x 3"),
        ([*TRAIN, "--data", "folder:train", "--test", "folder:test,sized=8x8"], "unknown option 'sized'; did you mean"),
        ([*TRAIN, "--data", "folder:train", "--test", "flder:test"], "unknown data set 'flder'; did you mean 'folder'"),
    ],
    ids=["part-of-train", "part-of-test", "none-to-train", "missing", "sizes", "option", "data-set"],
)
def test_a_test_set_that_does_not_fit_is_refused(work, capsys, arguments, message):
    err = output_of(capsys, *arguments, status=2)
    assert re.search(message, err)
    assert not (work / "run").exists()
