"""The commands that the README and the docs show: all are valid, and those that take seconds run."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from gpuconv.cli.errors import UserError
from gpuconv.cli.main import COMMANDS, main, parsers

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
SHOWN = re.compile(rf"^(?:    |\$ )?(?:python -m |.* && )?gpuconv ({'|'.join(COMMANDS)})\b(?!:)(.*)$", re.M)
NAMES = {"RUN": "runs/digits-digits-net-1", "RUN_A": "runs/one", "RUN_B": "runs/two"}
STATUS = {"bisect runs/one runs/two": 1}  # they differ
NOT_RUN = {  # by what stands in the line
    "cifar10": "needs a download",
    "--device cuda": "needs a GPU",
    "gpuconv live": "serves a page until Ctrl-C (tests/live)",
    "--device emulated": "takes minutes, or a compiler (tests/cli/test_verify.py, tests/cli/test_explain.py)",
    "numpy emulated": "takes minutes (tests/cli/test_bisect.py)",
    "gpuconv kernels": "takes minutes (ci/kernels.sh)",
    "gpuconv check": "takes minutes (tests/test_checks.py)",
    "gpuconv reproduce": "takes minutes (tests/cli/test_reproduce.py)",
    "vgg16": "its step takes minutes",
    "shadow replay FILE": "needs a wrong call (tests/cli/test_shadow.py)",
    "/new/photos": "needs photos that were moved (tests/cli/test_stored.py)",
    "export": "needs onnx (tests/interop)",
    "--log tensorboard": "needs tensorboardX (tests/training/test_tensorboard.py)",
}


def shown():
    """The arguments of each command, without comments and redirections."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for command, rest in SHOWN.findall(text):
            words = shlex.split(rest, comments=True)
            words = words[: words.index(">")] if ">" in words else words
            yield page.name, [command, *(NAMES.get(word, word) for word in words)]


def test_every_shown_command_is_valid():
    _, commands = parsers()
    for page, (command, *options) in shown():
        if "--help" in options:
            continue
        try:
            commands[command].parse_args(options)
        except UserError as refused:
            pytest.fail(f"{page}: gpuconv {shlex.join([command, *options])}: {refused}")


def test_they_are_found():
    found = [words for _, words in shown()]
    assert len(found) > 60
    assert ["train"] in found
    assert ["lab", "my_activation.cu", "--op", "relu", "--device", "emulated", "--dtype", "float32"] in found


def runs(words):
    line = shlex.join(["gpuconv", *words])
    return not any(part in line for part in NOT_RUN)


@pytest.mark.slow
def test_the_commands_that_take_seconds_run(tmp_path, monkeypatch, capsys):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("photos/cats", "photos/dogs"):
        (tmp_path / name).mkdir(parents=True)
        for number in range(20):
            image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / name / f"{number}.png")
    for name in ("photo.png", "seven.png"):
        image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / name)
    assert main(["train", "--epochs", "1"]) == 0  # runs/digits-digits-net-1, which others read
    tried = []
    for page, words in shown():
        if not runs(words) or words in tried:
            continue
        tried.append(words)
        short = ["--epochs", "1"] if words[0] == "train" and not {"--epochs", "--resume"} & {*words} else []
        try:
            status = main([*words, *short])
        except SystemExit as end:  # --help
            status = end.code or 0
        assert status == STATUS.get(shlex.join(words), 0), (
            f"{page}: gpuconv {shlex.join([*words, *short])}\n{capsys.readouterr().err}"
        )
    assert len(tried) > 20
