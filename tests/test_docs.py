"""The examples in the docs run unchanged, and each row of a table is one line."""

import doctest
import re
from pathlib import Path

import pytest

import gpuconv as gc

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
SHOWN = sorted(path for path in DOCS.rglob("*.md") if "\n>>> " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.stem)
def test_examples_print_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert tried
    assert not failed


def test_the_tutorial_is_one_of_the_pages_with_examples():
    assert "tutorial" in {page.stem for page in SHOWN}


PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "kernels").glob("*.md")])


def broken_rows(text):
    """The table rows, outside of code blocks, that do not end on their line. Markdown cannot continue a row."""
    outside = "".join(re.split(r"^```.*?^```", text, flags=re.M | re.S))
    return [line for line in outside.splitlines() if line.startswith("|") and not line.rstrip().endswith("|")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_table_rows_end_on_their_line(page):
    assert not broken_rows(page.read_text(encoding="utf-8"))


def test_a_continued_table_row_is_found():
    page = "| a | b |\n|---|---|\n| a cell that\ngoes on |\n```\n| in a picture\n```\n"
    assert broken_rows(page) == ["| a cell that"]


@pytest.mark.slow
def test_the_code_in_nets_md_runs_unchanged(tmp_path, monkeypatch, capsys):
    """Each block runs by itself, with a net with a residual block, its twin in PyTorch, and pictures in files."""
    torch, image = pytest.importorskip("torch"), pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    layers, nn = gc.layers, torch.nn
    train, test = gc.data.load("digits")
    train = train.subset(slice(0, 100))
    inner = layers.Residual([layers.Conv2D(4, 3, padding=1)])
    net = gc.Sequential(
        [layers.Input((8, 8, 1)), layers.Conv2D(4, 3, padding=1), inner, layers.Flatten(), layers.Linear(10)]
    )
    gc.Trainer(net, "adam").fit(train, epochs=1, run_dir="runs/digits-digits-net-1", validation=0.2, progress=False)
    for name in ("cat.png", "dog.jpg"):
        image.fromarray(test.images[0, :, :, 0]).save(name)
    conv = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    names = {
        "gc": gc,
        "train": train.subset(train.labels < 3),
        "images": test.images[:3],
        "x": train.images[:2].astype("float32"),
        "module": nn.Sequential(*conv, nn.Flatten(), nn.Linear(256, 10)),
        "my_conv": lambda x, w, padding: nn.functional.conv2d(
            torch.tensor(x), torch.tensor(w), padding=padding
        ).numpy(),
        "state": net.state_dict(),
    }
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "nets.md").read_text(encoding="utf-8"), re.S)
    assert len(blocks) >= 5
    for block in blocks:
        exec(block, names | {"net": net.copy()})
    assert "(2, 8, 8, 4)" in capsys.readouterr().out  # the hook's line
