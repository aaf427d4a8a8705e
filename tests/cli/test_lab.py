"""gpuconv lab, on prepared results: what it passes to the library, its tables, and when it times a kernel."""

from __future__ import annotations

import json

import pytest

from gpuconv import lab, verify
from gpuconv.cli import main
from tests.cli.prepared_rows import FAIL, HEAD, PASS, RIGHT, SMALL, WRONG


@pytest.fixture
def run_lab(monkeypatch, capsys, tmp_path):
    """Runs the command on prepared rows and a user's kernel, and returns (status, lines). Its attribute `received`
    holds the arguments of each call that the command makes to the library."""
    file, received = tmp_path / "own.cu", []
    file.write_text(lab.template("relu"))

    def run(rows, *arguments, device="emulated"):
        received.clear()
        monkeypatch.setattr(lab, "check", lambda *arguments: received.append(arguments) or iter(rows))
        timing = lab.Timing(SMALL, 0.5, 0.1, 0.25, 0.1)
        monkeypatch.setattr(lab, "compare", lambda *arguments: received.append(arguments) or iter([timing]))
        monkeypatch.setattr("gpuconv.cli.lab.choose_device", lambda options: device)
        status = main(["lab", str(file), "--op", "relu", *arguments])
        return status, capsys.readouterr().out.splitlines()

    run.received, run.file = received, file
    return run


def test_lab_checks_all_named_dtypes_and_times_the_first(run_lab):
    run_lab([RIGHT], "--dtype", "fp16", "--dtype", "Float32", device="cuda:1")
    assert run_lab.received == [
        (run_lab.file, "relu", "cuda:1", ("float16", "float32"), None),
        (run_lab.file, "relu", "cuda:1", "float16", None),
    ]
    run_lab([RIGHT])
    assert run_lab.received == [(run_lab.file, "relu", "emulated", tuple(verify.DTYPES), None)]


def test_lab_times_float32_if_no_dtype_is_named_and_the_op_has_it(run_lab, monkeypatch):
    run_lab([RIGHT], device="cuda:1")
    assert run_lab.received[1] == (run_lab.file, "relu", "cuda:1", "float32", None)
    monkeypatch.setattr(lab, "served_dtypes", lambda *_: ("float16", "bfloat16"))
    run_lab([RIGHT], device="cuda:1")
    assert run_lab.received[1] == (run_lab.file, "relu", "cuda:1", "float16", None)


def test_lab_names_the_dtype_that_it_times(run_lab, capsys):
    _, lines = run_lab([RIGHT], "--dtype", "fp16", device="cuda:1")
    assert lines[5].startswith("case, in float16 ")
    _, lines = run_lab([RIGHT], "--dtype", "fp16", "--json", device="cuda:1")
    (timing,) = json.loads("\n".join(lines))["timings"]
    assert timing == {"case": SMALL.name, "dtype": "float16", "yours_ms": 0.5, "shipped_ms": 0.25}


def test_lab_times_only_on_a_gpu(run_lab):
    status, lines = run_lab([RIGHT])
    assert (status, lines[2:]) == (0, [HEAD, PASS, "", "not timed: a kernel's speed can be measured only on a GPU"])
    assert lines[0].endswith("own.cu in place of activation.cu")
    status, lines = run_lab([RIGHT], device="cuda:1")
    assert (status, lines[4:]) == (
        0,
        [
            "",
            f"{'case, in float32':<60}   yours ms shipped ms   ratio",
            f"{SMALL.name:<60}     0.5000     0.2500   2.00x",
        ],
    )


def test_lab_does_not_time_a_wrong_kernel(run_lab):
    status, lines = run_lab([RIGHT, WRONG], device="cuda")
    assert (status, lines[3:]) == (1, [PASS, *FAIL, "", "not timed: the kernel's results are wrong"])


def test_lab_needs_a_file_and_a_device_that_runs_kernels(run_lab, capsys, tmp_path):
    assert run_lab([RIGHT], device="numpy")[0] == 2
    for arguments, message in (([], "give your .cu file"), ([str(tmp_path / "none.cu")], "none.cu: no such file")):
        assert main(["lab", "--op", "relu", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["lab", "own.cu", "--op", "relu", "--template"]) == 2
    assert "--template prints the shipped file; leave own.cu out, or write > own.cu" in capsys.readouterr().err
    assert main(["lab", "--op", "relu", "--template"]) == 0
    assert capsys.readouterr().out == lab.template("relu")
