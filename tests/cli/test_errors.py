"""Errors of commands: one line for a user's mistake, a traceback for a defect of gpuconv."""

from __future__ import annotations

import pytest

from gpuconv.cli import main
from gpuconv.cli.main import COMMANDS, Parser, module
from gpuconv.training import Trainer
from tests.cli.command import output_of


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean 'train'"),
        (["train", "--epohcs", "3"], "did you mean --epochs"),
        (["train", "--model", "tiny-vg"], "did you mean 'tiny-vgg'"),
        (["train", "--data", "digit"], "did you mean 'digits'"),
        (["train", "--device", "cudda"], "did you mean 'cuda'"),
        (["train", "--optimizer", "adm"], "did you mean 'adam'"),
        (["train", "--optimizer", "sgd:lr=0.3", "--lr", "0.1"], "--lr is 0.1 and --optimizer says lr=0.3"),
        (["train", "--optimizer", "sgd:lr=0.1; x"], "lr must be a number, received '0.1; x'"),
        (["train", "--optimizer", "sgd:lr=-1"], "lr must lie in [0, inf), received -1"),
        (["train", "--optimizer", "adam:beta1=1.5"], "beta1 must lie in [0, 1), received 1.5"),
        (["check", "--optimizer", "adam:beta1=2"], "beta1 must lie in [0, 1), received 2"),
        (["check", "--optimizer", "adam:eps=a"], "eps must be a number, received 'a'"),
        (["train", "--data", "synthetic:n=8,size=1x1x3", "--model", "seed-net", "--tta", "shift"], "at least 2 pixels"),
        (["train", "--data", "synthetic:n=999999999999,size=320x320x3"], "Unable to allocate"),
        (
            ["train", "--data", "synthetic:n=66,size=4x4x3", "--model", "resnet20", "--batch-size", "5"],
            "another batch size than 5 for 66 images",
        ),
        (["train", "--checkpoint-every", "0"], "of at least 1, received '0'"),
        (["train", "--schedule", "cosin"], "did you mean 'cosine'"),
        (["train", "--loss", "softmx"], "did you mean 'softmax'"),
        (["train", "--loss", "svm:label_smoothing=0.1"], "label_smoothing"),
        (["train", "--loss", "softmax:label_smoothing=2"], "label_smoothing"),
        (["train", "--augment", "flop"], "did you mean 'flip'"),
        (["summary", "--model", "vgg-16"], "did you mean 'vgg16'"),
        (["data", "cifar-1", "--to", "x"], "did you mean 'cifar10'"),
        (["train", "--epochs", "0"], "of at least 1, received '0'"),
        (["train", "--epochs", "many"], "of at least 1, received 'many'"),
        (["train", "--lr", "-1"], "above 0, received '-1'"),
        (["train", "--lr", "nan"], "above 0, received 'nan'"),
        (["train", "--data", "cifar10:nowhere"], "no CIFAR-10 in nowhere"),
        (["train", "--data", "folder:nowhere"], "nowhere"),
        (["train", "--data", "synthetic:n=0"], "n must be at least 1"),
        (["train", "--model", "lenet"], "a window spans 5"),  # digits are 8x8
        (["train", "--resume", "nowhere"], "nowhere holds no run"),
        (["train", "--qqqq"], "unknown argument '--qqqq' (see"),
        (["lab", "--template"], "required: --op"),
        (["kernels", "--report", "--workers", "0"], "of at least 1, received '0'"),
        (["kernels", "--arch", "sm_90a"], "--arch goes with --report"),
        (["kernels", "--arch", "sm_90", "--all"], "--arch and --all go with --report"),
        (["lr-find", "--from", "1", "--to", "0.1"], "--from must be below --to, received 1 and 0.1"),
        (["lr-find", "--from", "1", "--to", "1"], "--from must be below --to, received 1 and 1"),
        (["lr-find", "--from", "0"], "above 0, received '0'"),
        (["lr-find", "--to", "inf"], "above 0, received 'inf'"),
        (["lr-find", "--steps", "1"], "of at least 2, received '1'"),
        (["lr-find", "--out", "/dev/null"], "--out /dev/null must be a folder"),
        (["lr-find", "--lr", "1"], "unknown argument '--lr'"),
        (["lr-find", "--optimizer", "adm"], "did you mean 'adam'"),
        (["lr-find", "--optimizer", "sgd:lr=0.1", "--model", "seed-net"], "are tried; leave lr out"),
        (["lr-find", "--model", "lenet"], "a window spans 5"),
        (["lr-find", "--data", "folder:nowhere"], "nowhere"),
        (["lr-fnd"], "did you mean 'lr-find'"),
        (["train", "--resume", "here", "--run-dir", "there"], "not allowed with"),
        (["evaluate", "nowhere"], "nowhere holds no run"),
        (["predict", "x.png", "--run-dir", "nowhere"], "nowhere holds no run"),
        (["predict"], "required: IMAGE"),
        (["summary", "--model", "tiny-vgg", "--input", "32x32"], "32x32x3"),
        (["summary", "--model", "tiny-vgg", "--precision", "float8"], "unknown precision 'float8'"),
        (["summary", "--run-dir", "runs/1", "--classes", "3"], "--classes goes with --model"),
        (["summary", "--precision", "tf32", "--input", "8x8x3"], "--input and --precision go with --model"),
    ],
)
def test_a_wrong_argument_gives_an_error_of_one_line_and_changes_nothing(
    arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert message in output_of(capsys, *arguments, status=2)
    assert list(tmp_path.iterdir()) == []


def test_no_option_of_any_command_accepts_an_empty_value(capsys, tmp_path, monkeypatch):
    """An unset shell variable gives an empty value, as in `gpuconv train --resume "$RUN"`."""
    monkeypatch.chdir(tmp_path)
    tried = 0
    for command in COMMANDS:
        parser = Parser()
        module(command).configure(parser)
        earlier = []  # values of the positional arguments before this one
        for action in parser._actions:
            if action.nargs == 0:
                continue
            for empty in ("", " "):
                given = action.option_strings[:1] or earlier
                text = output_of(capsys, command, *given, empty, status=2)
                name = "/".join(action.option_strings) or action.metavar or action.dest
                message = f"expected a value, received {empty!r}; is a shell variable unset?"
                assert f"error: argument {name}: {message}" in text
                tried += 1
            earlier += [] if action.option_strings else [next(iter(action.choices or "x"))]
    assert tried > 80
    for arguments in (["train", "--resume="], ["predict", "a.png", "", "--run-dir", "run"]):
        assert "is a shell variable unset?" in output_of(capsys, *arguments, status=2)
    assert list(tmp_path.iterdir()) == []


def test_an_unavailable_device_gives_an_error_of_one_line(capsys, tmp_path, monkeypatch):
    from gpuconv import backends

    if backends.choose()[0] != "numpy":
        pytest.skip("this machine has a GPU")
    monkeypatch.chdir(tmp_path)
    output_of(capsys, "train", "--device", "cuda", status=2)
    assert list(tmp_path.iterdir()) == []


def test_a_memory_error_without_a_message_is_reported_as_not_enough_memory(monkeypatch, capsys):
    from gpuconv import models

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(models, "build", fail)
    assert "not enough memory" in output_of(capsys, "train", status=2)


def test_an_error_without_a_message_is_reported_by_its_class(monkeypatch, capsys):
    from gpuconv import models

    def fail(*_, **__):
        raise ValueError

    monkeypatch.setattr(models, "build", fail)
    assert output_of(capsys, "train", status=2).endswith("\ngpuconv: error: ValueError\n")


@pytest.mark.parametrize(("raised", "message"), [("", "not enough memory"), ("no 9 bytes more", "no 9 bytes more")])
def test_running_out_of_memory_during_training_is_reported(raised, message, monkeypatch, tmp_path, capsys):
    def exhausted(self, *arguments, **options):
        raise MemoryError(raised)

    monkeypatch.setattr(Trainer, "step_on", exhausted)
    tiny = ("--model", "seed-net", "--data", "synthetic:n=64,size=8x8x3", "--run-dir", tmp_path / "run")
    assert main(["train", *map(str, tiny)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"gpuconv: error: {message}"


def test_debug_shows_the_traceback():
    with pytest.raises(Exception, match="unknown model"):
        main(["train", "--model", "nothing", "--debug"])


def test_a_defect_shows_its_traceback(monkeypatch):
    from gpuconv import models

    def broken(*_, **__):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(models, "build", broken)
    with pytest.raises(ZeroDivisionError):
        main(["train"])


def test_a_defect_inside_training_shows_its_traceback(monkeypatch, tmp_path):
    def broken(*_, **__):
        raise ValueError("a defect")

    monkeypatch.setattr(Trainer, "step_on", broken)
    with pytest.raises(ValueError, match="a defect"):
        main(["train", "--run-dir", str(tmp_path / "run")])


def test_a_run_directory_that_cannot_be_created_gives_an_error_of_one_line(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "file" in output_of(capsys, "train", "--run-dir", tmp_path / "file" / "run", status=2)


def test_a_nan_loss_is_reported(capsys, tmp_path):
    run = tmp_path / "run"
    message = output_of(
        capsys,
        "train",
        "--data",
        "synthetic:n=64,size=8x8x1",
        "--model",
        "seed-net",
        "--lr",
        "1e30",
        "--optimizer",
        "sgd",
        "--schedule",
        "constant",
        "--run-dir",
        run,
        status=2,
    )
    assert "lower learning rate" in message


def test_a_damaged_checkpoint_gives_an_error_of_one_line(capsys, tmp_path):
    run = tmp_path / "run"
    gray = ["--data", "synthetic:n=20,size=8x8x1", "--model", "seed-net"]
    assert main(["train", *gray, "--epochs", "1", "--run-dir", str(run)]) == 0
    complete = (run / "last.safetensors").read_bytes()
    (run / "last.safetensors").write_bytes(complete[: len(complete) // 2])
    for command in ("evaluate", "train --resume"):
        assert "last.safetensors" in output_of(capsys, *command.split(), run, status=2)


@pytest.mark.parametrize("command", ["check", "train"])
def test_data_with_a_single_class_is_refused(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([command, "--data", "synthetic:n=32,size=8x8x3,classes=1", "--model", "seed-net"]) == 2
    assert "one class, 'class 0': there is nothing to classify" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
