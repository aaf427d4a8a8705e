"""All commands that README.md, CONTRIBUTING.md and the docs show are valid, and those that take only seconds run.
Commands after a variable assignment, nsys, mpiexec or torchrun are left out."""

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.cli import main as bench
from gpuconv.cli.errors import UserError
from gpuconv.cli.main import COMMANDS, main, parsers
from tests.sources import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
SHOWN = re.compile(rf"^(?:    |\$ )?(?:python -m |.* && )?gpuconv ({'|'.join(COMMANDS)})\b(?!:)(.*)$", re.M)
NAMES = {
    "RUN": "runs/digits-digits-net-1",
    "RUN_A": "runs/one",
    "RUN_B": "runs/two",
    "folder:/new/photos": "folder:moved",
}
EXITS_WITH_1 = "bisect runs/one runs/two"  # because these runs differ
NOT_RUN = {  # patterns of whole command lines, and why these are not run
    r".*cifar10.*": "needs a download of 170 MB",
    r".*--device cuda.*": "needs a GPU",
    r"live.*": "serves a page until Ctrl-C (tests/live)",
    r"verify --device emulated": "compiles and runs every kernel (pytest -m kernels)",
    r"kernels --report": "compiles every kernel for every architecture (ci/kernels.sh)",
    r"reproduce.*": "trains for minutes (tests/cli/test_reproduce.py)",
    r"shadow replay FILE": "needs a call that was wrong (tests/cli/test_shadow.py)",
}


def shown():
    """The page, the words and the output file (after `>`) of each command, without comments."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for command, rest in SHOWN.findall(text):
            words = [NAMES.get(word, word) for word in shlex.split(rest, comments=True)]
            words, target = (words[:-2], words[-1]) if ">" in words else (words, None)
            yield page.name, [command, *words], target


def test_every_shown_command_is_valid():
    _, commands = parsers()
    for page, (command, *options), _ in shown():
        if "--help" in options:
            continue
        try:
            commands[command].parse_args(options)
        except UserError as refused:
            pytest.fail(f"{page}: gpuconv {shlex.join([command, *options])}: {refused}")


def test_the_shown_commands_are_found():
    commands = [words for _, words, _ in shown()]
    assert len(commands) > 60
    assert ["train"] in commands
    assert ["lab", "my_activation.cu", "--op", "relu", "--device", "emulated", "--dtype", "float32"] in commands


@pytest.mark.slow
def test_the_commands_that_take_seconds_run(tmp_path, monkeypatch, capsys):
    image = pytest.importorskip("PIL.Image")
    for module in ("matplotlib", "onnx", "tensorboardX"):
        pytest.importorskip(module)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder in ("photos/cats", "photos/dogs"):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(20):
            image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / folder / f"{number}.png")
    shutil.copytree("photos", "moved")
    for name in ("photo.png", "seven.png"):
        image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / name)
    for made in ("train", "train --data folder:photos --model tiny-vgg"):  # the runs that other commands read
        assert main([*made.split(), "--epochs", "1"]) == 0
    tried = []
    for page, words, target in shown():
        line = shlex.join(words)
        if line in tried or any(re.fullmatch(pattern, line) for pattern in NOT_RUN):
            continue
        tried.append(line)
        short = ["--epochs", "1"] if words[0] == "train" and not {"--epochs", "--resume"} & {*words} else []
        capsys.readouterr()
        try:
            status = main([*words, *short])
        except SystemExit as end:  # --help
            status = end.code or 0
        printed = capsys.readouterr()
        assert status == int(line.startswith(EXITS_WITH_1)), f"{page}: gpuconv {line}\n{printed.err}"
        if target:
            Path(target).write_text(printed.out, encoding="utf-8")
    assert len(tried) > 40


def test_each_pattern_of_commands_not_run_matches_a_shown_command():
    lines = [shlex.join(words) for _, words, _ in shown()]
    assert [pattern for pattern in NOT_RUN if not any(re.fullmatch(pattern, line) for line in lines)] == []


@pytest.mark.slow
def test_the_predictions_of_the_performance_page_run():
    page = (ROOT / "docs/performance-model.md").read_text(encoding="utf-8")
    lines = [line for line in re.findall(r"^python -m bench (predict .*)$", page, re.M) if "OUT" not in line]
    assert len(lines) == 5
    for line in lines:
        assert bench(shlex.split(line, comments=True)) in (None, 0), line
