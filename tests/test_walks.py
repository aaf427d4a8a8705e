"""The files that an array enters are those of the two tables in docs/design.md, in the same order."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import gpuconv as gc
from gpuconv import backends
from gpuconv.cli.main import main
from tests import standin

PACKAGE = Path(gc.__file__).parent

DESIGN = (PACKAGE.parent / "docs" / "design.md").read_text(encoding="utf-8")


def files_in_table(title):
    """The files in the first column of the table below `title` in docs/design.md. A name without a folder is a file
    directly in the package, or else a file in the folder of the file named before it."""
    table = DESIGN.partition(title)[2].partition("|---|---|\n")[2].partition("\n\n")[0]
    files = []
    for row in table.splitlines():
        for name in re.findall(r"`([\w/.]+)`", row.split("|")[1]):
            in_package = "/" in name or (PACKAGE / name).exists()
            files.append(name if in_package else (Path(files[-1]).parent / name).as_posix())
    return files


TO_A_KERNEL = files_in_table("The `x` of a convolution enters")
# Only the first call with given shapes checks them: x enters these files after ops/check_cache.py.
CHECKS = ["ops/conv/conv2d.py", "ops/conv/expect.py", "ops/expect.py"]
EMULATED = "backends/cuda/emulator/library.py"


def file_of(frame):
    path = Path(frame.f_code.co_filename)
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else None


def holds(values, x):
    """Whether x is among the values, or in a list among them."""
    return any(
        value is x or (isinstance(value, (list, tuple)) and any(each is x for each in value)) for value in values
    )


def walk(x, call):
    """The files of the functions that `call` passes x to, in the order of the calls. Successive calls into one file are
    listed once. Comprehensions have frames of their own up to Python 3.11, and count as part of their function."""
    files = []

    def enter(frame, event, _):
        if event != "call" or frame.f_code.co_name.startswith("<"):
            return
        if (file := file_of(frame)) and holds(frame.f_locals.values(), x):
            files.extend([file] if files[-1:] != [file] else [])

    sys.setprofile(enter)
    try:
        call()
    finally:
        sys.setprofile(None)
    return files


def walks_of_conv2d(device, channels):
    """The walks of a convolution's x in the first and second call with these shapes, which no other test uses."""
    x = gc.asarray(np.ones((1, 7, 19, channels), np.float32), device)
    w = gc.asarray(np.ones((8, 3, 3, channels), np.float32), device)
    return [walk(x, lambda: gc.ops.conv2d(x, w, padding=1)) for _ in range(2)]


@pytest.mark.parametrize("channels", [4, 16])
@pytest.mark.parametrize("device", ["cuda", "emulated"])
def test_x_of_conv2d_enters_the_files_that_the_docs_list(device, channels, monkeypatch):
    monkeypatch.setenv("GPUCONV_AUTOTUNE", "0")  # trials would launch the kernel too
    with standin.installed(schedule="early") if device == "cuda" else nullcontext():
        first, second = walks_of_conv2d(device, channels)
    expected = TO_A_KERNEL + ([EMULATED] if device == "emulated" else [])
    assert len(TO_A_KERNEL) == 11
    if channels == 4:
        expected.remove("backends/cuda/runtime/rows.py")
    assert second == expected  # each file once; the first call also runs the checks
    checks = expected.index("ops/check_cache.py") + 1
    assert first == [*expected[:checks], *CHECKS, *expected[checks:]]


TO_A_LAYER = files_in_table("A batch of `gpuconv train` comes")
IN_A_FUSED_NET = [*TO_A_LAYER[:-1], "layers/fused.py"]


@pytest.mark.parametrize(
    ("device", "op_name", "expected"),
    [
        ("numpy", "conv2d", [*TO_A_LAYER, "ops/conv/conv2d.py"]),
        ("emulated", "conv2d_relu", [*IN_A_FUSED_NET, "ops/conv/conv2d_relu.py"]),
    ],
    ids=["numpy", "emulated, fused"],
)
def test_a_batch_of_gpuconv_train_enters_the_files_that_the_docs_list(tmp_path, monkeypatch, device, op_name, expected):
    """The files are those of the calls from the command line to the first convolution."""
    monkeypatch.chdir(tmp_path)
    files = []

    def watch(op, *arrays, **options):
        if getattr(op, "args", [op])[-1].__name__ == op_name and not files:  # NumPy's ops come as a partial
            frame = sys._getframe(1)
            while frame:
                file = file_of(frame)
                files.extend([file] if file and files[-1:] != [file] else [])
                frame = frame.f_back
        return op(*arrays, **options)

    data = ["--data", "synthetic:n=8,size=32x32x1,classes=2", "--epochs", "1", "--batch-size", "4"]
    with backends.watch_calls(watch):
        assert main(["train", *data, "--model", "lenet", "--device", device, "--quiet", "--run-dir", "run"]) == 0
    assert files[::-1] == expected
