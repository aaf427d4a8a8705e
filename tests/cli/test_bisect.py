"""`gpuconv train --digests` and `gpuconv bisect`."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from gpuconv import lab
from gpuconv.backends.cuda.runtime import replaced_files
from gpuconv.cli import main, train
from gpuconv.cli.bisect_repeat import Repetition
from gpuconv.cli.main import parsers
from gpuconv.inspect.bisect_runs import Element
from gpuconv.training.tensor_digests import read
from tests import blank_pictures
from tests.cli.small_run import TINY_DATA

TINY = ["--data", TINY_DATA, "--model", "seed-net", "--device", "numpy", "--epochs", "1"]


def test_train_writes_digests_into_the_run_or_a_file_and_fewer_with_the_option_digests_every(work, capsys):
    assert main(["train", *TINY, "--run-dir", "run", "--digests", "--seed", "3"]) == 0
    assert main(["train", *TINY, "--run-dir", "other", "--digests", "file.jsonl", "--seed", "3"]) == 0
    assert read("run/digests.jsonl") == read("file.jsonl")
    assert len(read("file.jsonl")) > 0
    assert main(["train", "--resume", "run", "--digests", "--device", "numpy"]) == 0
    assert read("run/digests.jsonl") == read("file.jsonl")
    capsys.readouterr()
    three_steps = [*TINY, "--batch-size", "32", "--run-dir", "seldom"]
    assert main(["train", *three_steps, "--digests", "--digests-every", "2"]) == 0
    first, second, third = (len(step.tensors) for step in read("seldom/digests.jsonl"))
    assert first == second > third > 0
    capsys.readouterr()
    assert main(["train", *TINY, "--digests-every", "5"]) == 2
    assert "--digests-every is for --digests, which is not given" in capsys.readouterr().err
    assert main(["train", *TINY, "--digests", "no/folder.jsonl"]) == 2
    output = capsys.readouterr().err
    assert "no/folder.jsonl: the folder to put it in does not exist" in output
    assert output.count("\n") == 1


def test_digests_that_cannot_be_written_are_refused_before_the_run_folder_is_created(work, capsys):
    for path, message in (
        (".", "must be a file, and is a folder"),
        ("no/d.jsonl", "the folder to put it in"),
        ("run/last.safetensors", "is another file of the run"),
    ):
        assert main(["train", *TINY, "--run-dir", "run", "--digests", path]) == 2
        error = capsys.readouterr().err
        assert f"--digests {path}" in error
        assert message in error
        assert [*work.iterdir()] == []


def test_digests_may_lie_in_a_folder_that_the_run_creates(work):
    for run, path in (
        (["--run-dir", "a/run"], "a/run/d.jsonl"),
        (["--run-dir", "b/run"], "b/d.jsonl"),
        (["--run-dir", "c/run"], f"{work}/c/run/d.jsonl"),
        ([], "runs/d"),
    ):
        assert main(["train", *TINY, *run, "--digests", path, "--quiet"]) == 0
        assert Path(path).is_file()


def test_equal_runs_agree_and_the_first_difference_of_unequal_ones_is_named(work, capsys):
    for name, *options in (("a",), ("b",), ("seed", "--seed", "1"), ("rate", "--lr", "0.5")):
        assert main(["train", *TINY, "--run-dir", name, "--digests", "--quiet", *options]) == 0
    capsys.readouterr()
    assert main(["bisect", "a", "b"]) == 0
    assert "agree over 2 steps" in capsys.readouterr().out
    assert main(["bisect", "a", "seed"]) == 1
    output = capsys.readouterr().out
    assert output.startswith("settings differ: ")
    assert "seed is 0 there and 1 here" in output
    assert "differ first at step 1: the output of input, forward" in output  # a different order of the images
    assert main(["bisect", "a", "rate", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["bits"]["step"], result["bits"]["a"]["direction"]) == (1, "update")
    pytest.importorskip("matplotlib")
    with blank_pictures.drawn():
        assert main(["bisect", "a", "rate", "--picture", "differences.png"]) == 1
    assert "picture    differences.png" in capsys.readouterr().out
    assert Path("differences.png").stat().st_size > 10_000


def replace_in(path, *changes):
    text = Path(path).read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    Path(path).write_text(text)


def test_the_element_that_differs_is_found_by_repeating_both_runs(work, capsys):
    for name, *options in (("a",), ("rate", "--lr", "0.5"), ("shards", "--shards", "2")):
        assert main(["train", *TINY, "--run-dir", name, "--digests", "--quiet", *options]) == 0
    before = {path: path.read_bytes() for path in Path("a").iterdir()}
    capsys.readouterr()
    for options in ([], ["--element"]):
        assert main(["bisect", "a", "rate", "--json", *options]) == 1
        result = json.loads(capsys.readouterr().out)
        element = result["bits"]["element"]
        assert result["no_element"] is None
        assert element["differing"] == element["size"] == result["bits"]["a"]["size"]
        assert len(element["at"]) == 4
        assert element["a"] != element["b"]
    assert main(["bisect", "a", "rate"]) == 1
    printed = capsys.readouterr()
    assert "  largest difference at [" in printed.out
    assert printed.err == ""
    assert {path: path.read_bytes() for path in Path("a").iterdir()} == before
    assert main(["bisect", "a", "rate", "--no-element"]) == 1
    output = capsys.readouterr().out
    assert "largest difference" not in output
    assert "element" not in output
    assert main(["bisect", "a", "shards"]) == 1
    assert "the element is not known: the repeated tensors differ in shape" in capsys.readouterr().out


def test_ctrl_c_ends_the_repetition_of_runs(work, monkeypatch, capsys):
    for name, *options in (("a",), ("rate", "--lr", "0.5")):
        assert main(["train", *TINY, "--run-dir", name, "--digests", "--quiet", *options]) == 0
    capsys.readouterr()
    monkeypatch.setattr(train, "run", lambda *_, **__: 128 + signal.SIGINT)
    with pytest.raises(SystemExit) as ended:
        main(["bisect", "a", "rate"])
    assert ended.value.code == 130
    assert "element" not in capsys.readouterr().out


def test_bisect_prints_why_a_run_cannot_be_repeated(work, capsys):
    for name, *options in (("a",), ("b", "--lr", "0.5")):
        assert main(["train", *TINY, "--run-dir", name, "--digests", "--quiet", *options]) == 0
    for old, new, file, message in (
        ("synthetic:", "cifar10:", "run.json", "c cannot be repeated: "),
        ('"on": "numpy: ', '"on": "numpy: other ', "digests.jsonl", "c was recorded on numpy: other NumPy"),
        ('"on": "numpy: ', '"on": "cuda:7: GPU', "digests.jsonl", "cuda"),
        ('"checksum": "', '"checksum": "0', "run.json", "c cannot be repeated: "),
        ("xxh3:", "crc32:", "digests.jsonl", "c has hashes of an older version"),
        ("xxh3:", "splitmix:", "digests.jsonl", "c has hashes of an older version"),
        ("xxh3:", "xxh3:0", "digests.jsonl", "from step 1 on, c has other bits when repeated, first in "),
    ):
        shutil.rmtree("c", ignore_errors=True)
        shutil.copytree("b", "c")
        replace_in(f"c/{file}", (old, new))
        capsys.readouterr()
        assert main(["bisect", "a", "c"]) == 1
        lines = capsys.readouterr().out.splitlines()
        (reason,) = [line for line in lines if line.startswith("the element is not known: ")]
        assert message in reason
        assert main(["bisect", "a", "c", "--element"]) == 2
        output = capsys.readouterr().err
        assert message in output
        assert output.count("\n") == 1
    Path("b/last.safetensors").write_text("damaged")
    assert main(["bisect", "a", "b"]) == 1
    assert "the element is not known: b/last.safetensors (7 bytes) is truncated" in capsys.readouterr().out
    assert main(["bisect", "a/digests.jsonl", "b/digests.jsonl"]) == 1
    assert "the element is not known: only two run directories can be repeated" in capsys.readouterr().out


def test_a_run_is_repeated_from_its_nearest_checkpoint(work, capsys):
    class StopInTheSecondEpoch:
        def on_step(self, trainer, record):
            if trainer.epoch == 1:
                raise KeyboardInterrupt

    three_epochs = [*TINY, "--epochs", "3", "--digests", "--quiet"]
    for name, schedule in (("a", "constant"), ("b", "step:2")):
        options = [*three_epochs, "--schedule", schedule, "--run-dir"]
        assert main(["train", *options, name]) == 0
        arguments = parsers("train")[1]["train"].parse_args([*options, f"{name}-begun"])
        with pytest.raises(KeyboardInterrupt):
            train.run(arguments, [StopInTheSecondEpoch()])
        shutil.copy(f"{name}-begun/last.safetensors", f"{name}/best.safetensors")
    capsys.readouterr()
    repetition = Repetition("a", 5)
    assert (repetition.steps_per_epoch, repetition.steps, repetition.checkpoint) == (2, 3, Path("a/best.safetensors"))
    assert main(["bisect", "a", "b"]) == 1
    output = capsys.readouterr().out
    assert "differ first at step 5: " in output
    assert "the element is not known: to find it, 3 and 3 steps of the runs, more than an epoch" in output
    assert main(["bisect", "a", "b", "--element"]) == 1
    assert "  largest difference at [" in capsys.readouterr().out


@pytest.mark.kernels
def test_between_runs_of_two_devices_only_a_difference_beyond_rounding_counts(work, capsys):
    emulated = ["--device", "emulated"]
    for name, *options in (("a",), ("b", *emulated), ("c", "--lr", "0.5", *emulated)):
        assert main(["train", *TINY, "--run-dir", name, "--digests", "--quiet", *options]) == 0
    capsys.readouterr()
    assert main(["bisect", "a", "b"]) == 0
    capsys.readouterr()
    assert main(["bisect", "a", "c", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert not result["one_machine"]
    assert result["beyond"]["element"]["differing"] > 0


def test_repeated_gradients_of_a_float16_run_are_divided_by_the_loss_scale(work):
    assert main(["train", *TINY, "--run-dir", "half", "--digests", "--quiet", "--precision", "float16"]) == 0
    step = read("half/digests.jsonl")[0]
    for direction in ("backward", "gradient", "forward"):
        digest = next(tensor for tensor in step.tensors if tensor.direction == direction)
        values = Repetition("half", 1).values((direction, digest.name, 0))
        assert np.linalg.norm(values) == pytest.approx(digest.norm, rel=1e-4), digest.name


# A line of the kernel sgd_step that a float32 net does not need: it writes the 16-bit copy of a parameter.
COPY_TO_16_BITS = "copy.at[j] = round_to<GRAD>(values[0]);"


def write_sgd_step(line):
    """Write my.cu: the shipped kernel of sgd_step with this line in place of COPY_TO_16_BITS."""
    Path("my.cu").write_text(lab.template("sgd_step").replace(COPY_TO_16_BITS, line, 1))


WRONG_ELEMENT = "if (blockIdx.x == 0 && i == 0 && j == 1) numbers[0].at[j] += DTYPE(0.5);"


@pytest.mark.kernels
def test_a_run_with_a_users_kernel_is_repeated_only_with_that_kernel(work, capsys):
    """With the shipped kernel, the repeated run has other bits than recorded. With the user's kernel, it has the
    recorded bits, and the wrong element is found."""
    write_sgd_step(WRONG_ELEMENT)
    options = ["--optimizer", "sgd", "--device", "emulated", "--digests", "--quiet"]
    assert main(["train", *TINY, "--run-dir", "right", *options]) == 0
    with replaced_files.replace_files({lab.shipped_file("sgd_step", None): Path("my.cu").resolve()}):
        assert main(["train", *TINY, "--run-dir", "wrong", *options]) == 0
    capsys.readouterr()
    assert main(["bisect", "right", "wrong"]) == 1
    output = capsys.readouterr().out
    assert "differ first at step 1: conv1.weight after the update" in output
    assert "the element is not known: from step 1 on, wrong has other bits when repeated" in output
    assert "first in update of conv1.weight" in output
    values = Repetition("right", 1).values(("update", "conv1.weight", 0))
    with replaced_files.replace_files({lab.shipped_file("sgd_step", None): Path("my.cu").resolve()}):
        element = Element.of(values, Repetition("wrong", 1).values(("update", "conv1.weight", 0)))
    assert (element.at, element.differing) == ((0, 0, 0, 1), 1)


def test_runs_and_settings_that_cannot_be_compared_are_refused_in_one_line(work, capsys):
    assert main(["train", *TINY, "--run-dir", "a", "--digests", "--quiet"]) == 0
    assert main(["train", *TINY, "--run-dir", "without", "--quiet"]) == 0
    Path("late.jsonl").write_text('{"step": 9, "on": "x", "tensors": []}\n')
    Path("empty.jsonl").write_text("")
    Path("relu.cu").write_text(lab.template("relu"))
    for line, message in {
        "bisect a": "required",
        "bisect a a": "a and a are the same run",
        "bisect a a/digests.jsonl": "are the same run",
        "bisect a late.jsonl --picture a.jpg": "a picture is a PNG file, so its name must end in .png, received a.jpg",
        "bisect numpy float16 --picture no/a.png": "no/a.png: the folder to put it in does not exist",
        "bisect a without": "without has no digests; a run records them with `gpuconv train --digests`",
        "bisect a late.jsonl": "no step in common: one has steps 1 to 2, the other steps 9 to 9",
        "bisect a empty.jsonl": "no step in common: one has steps 1 to 2, the other none",
        "bisect a a/run.json": "a/run.json, line 1, is not a line of digests",
        "bisect a nowhere": "cannot read the digests nowhere",
        "bisect a numpy": "cannot read the digests numpy",
        "bisect a b --steps 3 --seed 1": "runs are compared as they were recorded; leave --seed, --steps out",
        "bisect numpy emulated --element": "--element and --no-element are for two runs",
        "bisect numpy numpy": "A and B are both numpy,float32; name two sides",
        "bisect cpu numpy": "A and B are both numpy,float32; name two sides",
        "bisect numpy float32": "A and B are both numpy,float32; name two sides",
        "bisect numpy,bf16 numpy,bfloat16": "A and B are both numpy,bfloat16; name two sides",
        "bisect numpy,simt-64x64 numpy,SIMT_64x64": "A and B are both numpy,float32,simt-64x64; name two sides",
        "bisect numpy emulatd": "unknown device, precision, algorithm or run 'emulatd'; did you mean 'emulated'",
        "bisect numpy,cuda emulated": "names two of a kind, numpy and cuda; give one",
        "bisect numpy emulated --steps 0": "expected a whole number of at least 1",
        "bisect numpy emulated --kernel none.cu": "--kernel FILE and --op NAME belong together",
        "bisect numpy emulated --kernel none.cu --op relu": "none.cu: no such file",
        "bisect numpy emulated --kernel late.jsonl --op relu": "late.jsonl must define relu_forward of activation.cu",
        "bisect emulated numpy --kernel relu.cu --op relu": "numpy runs no kernels: B must be cuda or emulated",
        "bisect numpy emulated,mma-128x128 --model seed-net": "mma-128x128",
    }.items():
        capsys.readouterr()
        assert main(line.split()) == 2, line
        output = capsys.readouterr().err
        assert message in output, output
        assert output.count("\n") == 1


SHORT_TRAINING = ["--data", TINY_DATA, "--model", "seed-net", "--batch-size", "8"]
MY_SGD_STEP = ["--optimizer", "sgd", "--kernel", "my.cu", "--op", "sgd_step"]


def test_two_precisions_agree_within_rounding(work, capsys):
    assert main(["bisect", "numpy", "numpy,float16", *SHORT_TRAINING, "--steps", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["agree"]
    assert min(result["calls"]) > 10
    assert "shares" not in result
    pytest.importorskip("matplotlib")
    with blank_pictures.drawn():
        assert main(["bisect", "float32", "bfloat16", *SHORT_TRAINING, "--picture", "errors.png"]) == 0
    assert Path("errors.png").stat().st_size > 10_000
    assert "agree over 2 steps: " in capsys.readouterr().out


@pytest.mark.kernels
def test_bisect_names_the_wrong_element_of_a_users_kernel(work, capsys):
    write_sgd_step(WRONG_ELEMENT)
    assert main(["bisect", "numpy", "emulated", *SHORT_TRAINING, *MY_SGD_STEP]) == 1
    output = capsys.readouterr().out
    assert "differ first at step 1: sgd_step of conv1.weight, update, on B" in output
    assert "params[0][0, 0, 0, 1]" in output


@pytest.mark.kernels
def test_a_kernel_that_faults_gives_an_error_of_one_line(work, capsys):
    write_sgd_step("chunk.param[1 << 30] = DTYPE(1);")
    assert main(["bisect", "numpy", "emulated", *SHORT_TRAINING, *MY_SGD_STEP]) == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert "kernel sgd_step, block (0, 0, 0), thread (0, 0, 0): out of bounds" in output


def test_ctrl_c_and_sigterm_end_bisect_with_their_own_status(work, monkeypatch):
    from gpuconv.verify.call import Call

    def interrupt(call):
        signal.raise_signal(number)
        return compare(call)

    def end(number, frame):
        sys.exit(128 + number)

    compare = Call.compare
    monkeypatch.setattr(Call, "compare", interrupt)
    number = signal.SIGINT
    assert main(["bisect", "numpy", "numpy,float16", *SHORT_TRAINING]) == 130
    number = signal.SIGTERM
    before = signal.signal(number, end)
    try:
        with pytest.raises(SystemExit, match="143"):
            main(["bisect", "numpy", "numpy,float16", *SHORT_TRAINING])
        signal.signal(number, lambda *_: None)  # if the caller's handler returns, bisect ends as by Ctrl-C
        assert main(["bisect", "numpy", "numpy,float16", *SHORT_TRAINING]) == 130
    finally:
        signal.signal(number, before)
