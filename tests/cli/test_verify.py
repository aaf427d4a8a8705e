"""gpuconv verify: its table, its counts, its exit status, and its report on a wrong kernel."""

from __future__ import annotations

import re

import pytest

from gpuconv import lab, verify
from gpuconv.backends import cpu
from gpuconv.backends.cuda.runtime import replaced_files
from gpuconv.cli import main
from tests.cli.prepared_rows import FAIL, HEAD, PASS, RIGHT, WRONG

TINY = ["verify", "--device", "emulated", "--tier", "tiny"]


@pytest.mark.slow
def test_each_op_and_dtype_with_cases_is_one_row_and_counted_once(capsys):
    """sgd_step has cases for all dtypes, and cases with masters only for 16-bit dtypes."""
    ops = ["sgd_step", "random_permutation", "softmax"]
    dtypes = ["float32", "float16"]
    options = [word for op in ops for word in ("--op", op)] + [word for name in dtypes for word in ("--dtype", name)]
    assert main([*TINY, *options]) == 0
    output = capsys.readouterr().out
    rows = re.findall(r"^(\w+) +(\w+) .* PASS$", output, re.M)
    assert sorted(rows) == [
        ("random_permutation", "float32"),
        ("sgd_step", "float16"),
        ("sgd_step", "float32"),
        ("softmax", "float16"),
        ("softmax", "float32"),
    ]
    assert output.endswith("\nall 5 pass on emulated\n")


def test_a_wrong_kernel_is_reported_with_its_smallest_failing_case(capsys, tmp_path):
    wrong = tmp_path / "arithmetic.cu"
    text, line = lab.template("scale"), "factor_at : factor) / denominator);"
    assert line in text
    wrong.write_text(text.replace(line, line.replace(");", ") + Real(1);")))
    with replaced_files.replace_files({"arithmetic.cu": wrong}):
        assert main([*TINY, "--op", "scale", "--op", "add", "--dtype", "float32"]) == 1
    output = capsys.readouterr().out
    pattern = r"^scale +float32 .* FAIL\n +smallest failing case \(tiny\): 1\n +result\[0\] is .*, expected "
    assert re.search(pattern, output, re.M)
    assert re.search(r"^add +float32 .* PASS$", output, re.M)
    assert output.endswith("\n1 of 2 failed\n")


def test_a_fault_of_the_numpy_backend_is_found(monkeypatch, capsys):
    correct = cpu.arithmetic.scale
    monkeypatch.setattr(cpu.arithmetic, "scale", lambda x, **options: correct(x, **options) + x.dtype.type(0.5))
    options = ["--tier", "tiny", "--dtype", "float32", "--op", "scale", "--op", "add"]
    status = main(["verify", "--device", "numpy", *options])
    output = capsys.readouterr().out
    assert status == 1
    assert "smallest failing case (tiny): 1" in output
    assert output.endswith("\n1 of 2 failed\n")


def test_verify_fails_if_no_case_is_left_to_run(capsys):
    assert main([*TINY, "--op", "random_permutation", "--dtype", "float64"]) == 2
    assert "no case for random_permutation in float64" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--op", "conv2"], "did you mean 'conv2d'"),
        (["--dtype", "float31"], "did you mean 'float32'"),
        (["--tier", "tinny"], "did you mean 'tiny'"),
        (["--seed", "-1"], "--seed: expected a whole number of at least 0, received '-1'"),
    ],
)
def test_bad_arguments_of_verify_are_refused(capsys, arguments, message):
    assert main(["verify", "--device", "emulated", *arguments]) == 2
    assert message in capsys.readouterr().err


# --- on prepared results -------------------------------------------------------------------------


@pytest.fixture
def run_verify(monkeypatch, capsys):
    """Runs the command on prepared rows.

    Returns the arguments that `verify.verify` received, the status, the lines of stdout, and stderr."""

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
    assert lines[1:] == [f"cases      {len(cases)} of 1 op, tiers tiny", "", HEAD, PASS, "", "all 1 pass on emulated"]


def test_a_dtype_or_tier_that_is_given_twice_is_verified_once(run_verify):
    twice = ["--dtype", "float32", "--dtype", "FLOAT32", "--dtype", "fp32", "--tier", "tiny", "--tier", "TINY"]
    (cases, dtypes, *_), _, lines, _ = run_verify([RIGHT], *twice)
    assert (dtypes, {case.tier for case in cases}) == (["float32"], {"tiny"})
    assert len(cases) == len({case.name for case in cases})
    assert lines[1] == f"cases      {len(cases)} of 1 op, tiers tiny"


def test_verify_names_the_smallest_failing_case(run_verify):
    chosen = ["--dtype", "float32", "--dtype", "float16", "--seed", "3"]
    (_, dtypes, _, seed), status, lines, _ = run_verify([RIGHT, WRONG], *chosen)
    assert (dtypes, seed, status) == (["float32", "float16"], 3, 1)
    assert lines[3:] == [HEAD, PASS, *FAIL, "", "1 of 2 failed"]


def test_verify_runs_every_dtype_and_tier_by_default(run_verify):
    (cases, dtypes, _, _), _, lines, _ = run_verify([RIGHT])
    assert dtypes == list(verify.DTYPES)
    assert lines[1].endswith(f" of 1 op, tiers {', '.join(verify.TIERS)}")
    assert {case.tier for case in cases} >= {"tiny", "odd"}


def test_the_seed_chooses_the_random_cases_of_verify(run_verify):
    cases, *_ = run_verify([RIGHT], "--tier", "random", "--seed", "3")[0]
    drawn = {seed: [case for case in verify.cases(("random",), seed=seed) if case.op == "relu"] for seed in (0, 3)}
    assert [case.name for case in cases] == [case.name for case in drawn[3]] != [case.name for case in drawn[0]]
