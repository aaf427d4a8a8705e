"""The docs and the README: examples run unchanged, links lead to files, and the lists in the pages are complete."""

import doctest
import re
import textwrap
from pathlib import Path

import pytest

import gpuconv as gc
from tests.python_process import python

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


NAMED_FILE = re.compile(r"`((?:bench|ci|examples|gpuconv|kernels|tests|tools)/[\w./-]*)`")
PLACEHOLDERS = {  # names in kernels/README.md that stand for the files of any op
    "gpuconv/ops/op.py",
    "gpuconv/backends/reference/op.py",
    "gpuconv/backends/cpu/op.py",
    "gpuconv/backends/cuda/ops/op.py",
    "kernels/op.cu",
    "tests/kernels/test_op_kernels.py",
}


def missing_files(page, text):
    """The missing files that a page names. The package installs `kernels` as `gpuconv/kernels`, so a page may use
    either name."""
    named = {name.replace("gpuconv/kernels/", "kernels/") for name in NAMED_FILE.findall(text)} - PLACEHOLDERS
    return sorted(name for name in named if not ((ROOT / name).exists() or (page.parent / name).exists()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_files_that_a_page_names_exist(page):
    assert missing_files(page, page.read_text(encoding="utf-8")) == []


def test_a_missing_file_is_found():
    page = "`tests/test_docs.py`, `tests/gone.py`, `gpuconv/ops/`, `kernels/op.cu`"
    assert missing_files(ROOT / "README.md", page) == ["tests/gone.py"]


# Outputs shown in the docs name lines of kernel files, such as `gemm.cuh:101`. For each file: a part of those lines.
SHOWN_LINES = {
    "activation.cu": "y[i] = round_to<DTYPE>(f.apply(load(x[i])))",
    "gemm.cuh": "(partials + offset) = values;",
    "gemm_reduce.cu": "*to = finished;",
}


def test_lines_of_kernels_in_shown_outputs_are_those_of_the_shipped_files():
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    shown = {(name, int(line)) for name, line in re.findall(r"\b(?:my_)?(\w+\.cuh?):(\d+)", text)}
    assert {name for name, _ in shown} == SHOWN_LINES.keys()
    for name, line in shown:
        assert SHOWN_LINES[name] in (ROOT / "kernels" / name).read_text(encoding="utf-8").splitlines()[line - 1]


@pytest.mark.slow
def test_the_code_in_nets_md_runs_unchanged(tmp_path, monkeypatch, capsys):
    """Each block runs by itself. It finds a net with a residual block, a PyTorch module, and picture files."""
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
    assert "(2, 8, 8, 4)" in capsys.readouterr().out  # the hook of nets.md prints this


def test_every_package_with_a_page_of_the_documentation_is_an_attribute_of_gpuconv():
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "api").glob("*.md"))
    documented = set(re.findall(r"automodule:: gpuconv\.(\w+)", pages))
    documented -= {"torch", "inverse_normal"}  # programs import these two modules by name
    assert len(documented) > 15
    missing = f"[name for name in {sorted(documented)} if not hasattr(gc, name)]"
    assert python(f"import gpuconv as gc; print({missing})") == "[]"


@pytest.mark.slow
def test_the_example_in_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    *_, accuracy, shapes = python(code + "\nprint(maps.shape, scores.shape)").splitlines()
    assert shapes == "(64, 32, 32, 12) (64, 10)"
    assert float(accuracy) > 0.9


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_links_lead_to_files():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_op_shown_in_contributing_is_the_shipped_one():
    shipped = [*(ROOT / "gpuconv").rglob("activation.py"), *(ROOT / "kernels").glob("activation.cu*")]
    source = "\n\n".join(path.read_text() for path in shipped)
    shown = re.findall(r"^   ```(?:python|cuda)\n(.*?)^   ```", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
    assert len(shown) == 5
    for block in shown:
        for part in textwrap.dedent(block).strip().split("\n\n"):
            assert part in source, part


def test_the_docs_name_every_command_and_net():
    from gpuconv import models
    from gpuconv.cli.main import COMMANDS

    text = (ROOT / "docs/commands.md").read_text()
    assert [name for name in COMMANDS if f"gpuconv {name}" not in text] == []
    assert [name for name in models.MODELS if name not in text] == []
