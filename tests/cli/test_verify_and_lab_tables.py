"""verify and lab on prepared results: the table, the counts, the exit status."""

from __future__ import annotations

import pytest

from gpuconv import lab, verify
from gpuconv.cli import main
from gpuconv.verify.run import Outcome, Row

HEAD = "op                          dtype     cases  worst error  its bound  share"
SMALL, LARGE = (
    next(case for case in verify.cases(("tiny", "odd")) if (case.op, case.tier) == ("relu", tier))
    for tier in ("tiny", "odd")
)
RIGHT, WRONG = Row("relu", "float32"), Row("relu", "float16")
RIGHT.outcomes = [Outcome(SMALL, "float32", 0.0, 1e-6, 0.0), Outcome(LARGE, "float32", 5e-7, 1e-6, 0.5)]
WRONG.outcomes = [
    Outcome(SMALL, "float16", 2.0, 1e-3, 2000.0, "y[0] is 2"),
    Outcome(LARGE, "float16", 3.0, 1e-3, 3000.0, "y[1] is 3"),
]
PASS = "relu                        float32       2        5e-07      1e-06    50%  PASS"
FAIL = [
    "relu                        float16       2            3      0.001 300000%  FAIL",
    f"    smallest failing case (tiny): {SMALL.name}",
    "    y[0] is 2",
]


@pytest.fixture
def run_verify(monkeypatch, capsys):
    """Runs the command on prepared rows: (the arguments that `verify.verify` received, status, lines, stderr)."""

    def run(rows, *arguments):
        received = []
        monkeypatch.setattr(verify, "verify", lambda *arguments: received.append(arguments) or iter(rows))
        status = main(["verify", "--device", "emulated", "--op", "relu", *arguments])
        captured = capsys.readouterr()
        return received[0], status, captured.out.splitlines(), captured.err

    return run


def test_verify_prints_a_row_per_dtype_and_the_number_of_passes(run_verify):
    (cases, dtypes, device, seed), status, lines, errors = run_verify([RIGHT], "--dtype", "float32", "--tier", "tiny")
    assert ({(case.op, case.tier) for case in cases}, dtypes) == ({("relu", "tiny")}, ["float32"])
    assert (device, seed, status, errors) == ("emulated", 0, 0, "")
    assert lines[1:] == [f"cases      {len(cases)} of 1 ops, tiers tiny", "", HEAD, PASS, "", "all 1 pass on emulated"]


def test_verify_names_the_smallest_failing_case(run_verify):
    chosen = ["--dtype", "float32", "--dtype", "float16", "--seed", "3"]
    (_, dtypes, _, seed), status, lines, _ = run_verify([RIGHT, WRONG], *chosen)
    assert (dtypes, seed, status) == (["float32", "float16"], 3, 1)
    assert lines[3:] == [HEAD, PASS, *FAIL, "", "1 of 2 failed"]


def test_verify_runs_every_dtype_and_tier_by_default(run_verify):
    (cases, dtypes, _, _), _, lines, _ = run_verify([RIGHT])
    assert dtypes == list(verify.DTYPES)
    assert lines[1].endswith(f" of 1 ops, tiers {', '.join(verify.TIERS)}")
    assert {case.tier for case in cases} >= {"tiny", "odd"}


# --- lab ---------------------------------------------------------------------------------------


@pytest.fixture
def run_lab(monkeypatch, capsys, tmp_path):
    """Runs the command on prepared rows and a user's kernel: (status, lines). `received`: its calls of the library."""
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
    run_lab([RIGHT], "--dtype", "float16", "--dtype", "Float32", device="cuda:1")
    assert run_lab.received == [
        (run_lab.file, "relu", "cuda:1", ("float16", "float32"), None),
        (run_lab.file, "relu", "cuda:1", "float16", None),
    ]
    run_lab([RIGHT])
    assert run_lab.received == [(run_lab.file, "relu", "emulated", tuple(verify.DTYPES), None)]


def test_lab_times_only_on_a_gpu(run_lab):
    status, lines = run_lab([RIGHT])
    assert (status, lines[2:]) == (0, [HEAD, PASS, "", "not timed: a kernel's speed can be measured only on a GPU"])
    assert lines[0].endswith("own.cu in place of activation.cu")
    status, lines = run_lab([RIGHT], device="cuda:1")
    assert (status, lines[4:]) == (
        0,
        ["", f"{'case':<60}   yours ms shipped ms   ratio", f"{SMALL.name:<60}     0.5000     0.2500   2.00x"],
    )


def test_lab_does_not_time_a_wrong_kernel(run_lab):
    status, lines = run_lab([RIGHT, WRONG], device="cuda")
    assert (status, lines[3:]) == (1, [PASS, *FAIL, "", "not timed: the kernel's results are wrong"])


def test_lab_needs_a_file_and_a_device_that_runs_kernels(run_lab, capsys, tmp_path):
    assert run_lab([RIGHT], device="numpy")[0] == 2
    for arguments, message in (([], "give your .cu file"), ([str(tmp_path / "none.cu")], "none.cu: no such file")):
        assert main(["lab", "--op", "relu", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert main(["lab", "--op", "relu", "--template"]) == 0
    assert capsys.readouterr().out == lab.template("relu")


def test_the_seed_chooses_the_random_cases_of_verify(run_verify):
    cases, *_ = run_verify([RIGHT], "--tier", "random", "--seed", "3")[0]
    drawn = {seed: [case for case in verify.cases(("random",), seed=seed) if case.op == "relu"] for seed in (0, 3)}
    assert [case.name for case in cases] == [case.name for case in drawn[3]] != [case.name for case in drawn[0]]
