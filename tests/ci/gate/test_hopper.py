"""The checks of the kernels for Hopper, run without a GPU, and the output of a failing check."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ci.gate import __main__ as command_line
from ci.gate import hopper
from ci.gate.commands import Done, Gate
from ci.gate.hopper_kernels import NOTHING, algorithms, warpgroup
from ci.gate.hopper_kernels.__main__ import CHECKS
from ci.gate.hopper_kernels.__main__ import main as run_check
from ci.gate.hopper_kernels.wrong_values import differences, ranges
from ci.gate.results import FailedError, LateError, NotReachedError
from gpuconv.algorithms import ALGORITHMS
from gpuconv.backends.cuda import cache
from gpuconv.backends.cuda.gemm import plan, prover, verdicts
from gpuconv.backends.cuda.gemm.plan import unproved_plans
from gpuconv.backends.cuda.gemm.verdicts import Verdict
from tests import standin
from tests.sources import ROOT
from tests.standin import proving
from tests.standin.proving import NAME, command, new_family


@pytest.mark.kernels
@pytest.mark.parametrize("name", [name for name in CHECKS if name not in algorithms.DIRECTIONS])
def test_every_check_except_the_proofs_passes_on_the_emulator(name, capsys):
    assert CHECKS[name]("emulated", True) == 0
    *cases, end = capsys.readouterr().out.splitlines()
    assert cases
    assert all(case.endswith(": PASS") for case in cases)
    assert end.startswith(f"all {len(cases)} ")


def test_numbers_that_are_read_from_the_wrong_place_are_printed(monkeypatch, capsys):
    """Rows 3 and 4 of B are exchanged from depth 8 on; A is read correctly."""

    def misread(device, dtype, columns, layout, a, b):
        moved = np.array(b, np.float64)
        moved[[3, 4], 8:] = moved[[4, 3], 8:]
        return (np.asarray(a, np.float64) @ moved.T).astype(np.float32)

    monkeypatch.setattr(warpgroup, "multiply_on_gpu", misread)
    assert warpgroup.check("cuda", (0,), True) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "bfloat16 64x64, A and B K-major, 128-byte swizzle: FAIL"
    assert "    columns 3-4" in lines
    assert "    B: 112 of 4096 numbers are read from another place" in lines
    assert "      (row 3, depth 8) is read where (row, depth) (4, 8) lies" in lines
    assert "    A: 0 of 4096 numbers are read from another place" in lines
    assert lines[-1] == "4 of 4 products of a warpgroup fail"


def test_a_product_that_hangs_is_named_by_the_last_line(monkeypatch, capsys):
    """The gate interrupts a check at the check's time limit, and kills the check if it does not end."""

    def hang(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(warpgroup, "multiply_on_gpu", hang)
    monkeypatch.setattr("sys.argv", ["hopper_kernels", "mn-major", "--small"])
    assert run_check() == 130
    captured = capsys.readouterr()
    assert captured.out == "bfloat16 64x64, A K-major, B MN-major, 128-byte swizzle: "
    assert not captured.err


def test_wrong_values_are_described_in_lines_of_text():
    expected, result = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    result[0, 1:, 2] = 7, np.nan
    result[1, 2, 0] = -1
    assert differences(expected, result) == [
        "    3 of 24 values are wrong, 1 are NaN",
        "    rows 1-2, 5",
        "    columns 0, 2",
        "    [1, 2] is 7, expected 0",
        "    [2, 2] is nan, expected 0",
        "    [5, 0] is -1, expected 0",
    ]
    assert ranges(range(0, 60, 2)).endswith("20, 22 and 18 more")


def only_the_new_algorithm(*arguments):
    return [candidate for candidate in unproved_plans(*arguments) if candidate.algorithm.name == NAME]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["none", "a wrong value", "hangs"])
def test_the_check_of_a_direction_reports_a_right_a_wrong_and_a_hanging_algorithm(monkeypatch, tmp_path, capsys, fault):
    stored = cache.Cache(tmp_path)
    monkeypatch.setattr(verdicts, "cache", SimpleNamespace(default=lambda: stored))
    monkeypatch.setattr(prover, "command", command("90", "late", fault))
    monkeypatch.setattr(prover, "LIMIT", 3.0 if fault == "hangs" else 30.0)
    monkeypatch.setattr(prover, "_prover", prover.Prover())
    planted = proving.planted(fault if fault != "hangs" else "none")
    with standin.installed(["90"]), new_family(), planted, monkeypatch.context() as patch:
        patch.setattr(plan, "unproved_plans", only_the_new_algorithm)
        status = algorithms.check("fprop", "cuda", True)
    prover.close()
    lines = capsys.readouterr().out.splitlines()
    assert status == (0 if fault == "none" else 1)
    verdict = "PASS" if fault == "none" else "FAIL"
    assert lines[0].startswith(f"{verdict} {NAME} fprop 2x8x8x64-64x3x3-p1.1.1.1 float32 ")
    if fault == "none":
        assert NAME in lines[2]
        assert "TFLOP/s; simt-" in lines[2]
    elif fault == "a wrong value":
        assert "    tile 32 x 32, split 4" in lines
        assert "    [127, 63] is 1000, expected" in "\n".join(lines)
    else:
        assert "did not answer within 3 s" in lines[1]
        assert len(lines) == 3


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
def test_wgmma_is_proved_in_every_direction_on_the_stand_in(direction):
    """The proofs run in a child process, which also has the stand-in's GPU."""
    words = ["-m", "tests.standin", "-m", "ci.gate.hopper_kernels", direction, "--small"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    tiles = sum(
        algorithm.name.startswith("wgmma-") and f"conv2d_{direction}" in algorithm.kernels for algorithm in ALGORITHMS
    )
    assert done.stdout.count("PASS wgmma-") == tiles
    assert done.stdout.endswith(f"all {tiles} proofs of {direction} pass\n")


def test_an_algorithm_that_hangs_costs_one_time_limit(monkeypatch, capsys):
    """Otherwise it would take ten seconds for each product, and the other algorithms would not be checked in time."""
    proofs_of = []

    def prove(product, candidate, place):
        proofs_of.append(candidate.algorithm.name)
        hangs = proofs_of[-1] == "wgmma-128x256"
        return Verdict(not hangs, "the prover did not answer within 10 s" if hangs else "good", 10.0, True)

    monkeypatch.setattr(verdicts, "prove", prove)
    assert algorithms.check("wgrad", "emulated", False) == 1
    lines = capsys.readouterr().out.splitlines()
    assert proofs_of.count("wgmma-128x256") == 1
    assert proofs_of.count("wgmma-128x128") == len([*algorithms.products("wgrad", False)])
    skipped = [line for line in lines if line.startswith("SKIP wgmma-128x256 wgrad ")]
    assert len(skipped) == proofs_of.count("wgmma-128x128") - 1
    assert lines[-1] == f"1 of {len(proofs_of)} proofs of wgrad fail"


def test_all_epilogues_of_fprop_are_proved_in_bfloat16_and_one_in_float16():
    """This saves three of eight proofs of fprop, so that the check ends within its time."""
    assert [len(algorithms.epilogues("fprop", dtype, False)) for dtype in ("bfloat16", "float16")] == [4, 1]
    assert len(algorithms.epilogues("wgrad", "bfloat16", False)) == 1  # only fprop has further epilogues
    assert len(algorithms.epilogues("fprop", "bfloat16", True)) == 1  # the small run


def test_a_direction_without_anything_to_prove_counts_as_not_reached(monkeypatch, capsys):
    monkeypatch.setattr(plan, "unproved_plans", lambda *arguments: ())
    assert algorithms.check("dgrad", "emulated", True) == NOTHING
    assert capsys.readouterr().out == "no algorithm of dgrad is to be proved\n"


@pytest.mark.parametrize(
    ("done", "error"),
    [
        (Done(0, "PASS a\nall 1 pass\n", 1.0), None),
        (Done(1, "FAIL a\n1 of 1 fail\n", 1.0), FailedError),
        (Done(NOTHING, "nothing\n", 1.0), NotReachedError),
        (Done(-9, "PASS a\n", 60.0, late=True), LateError),
    ],
    ids=["passes", "fails", "nothing", "late"],
)
def test_the_output_of_a_check_is_in_the_record(tmp_path, monkeypatch, done, error):
    gate = Gate(tmp_path, tmp_path, tmp_path, facts={"arch": "sm_90a"})
    monkeypatch.setattr(Gate, "ask", lambda self, log, words, seconds, **environment: done)
    check = hopper.check_of("ring")
    if error is None:
        assert check(gate, 60.0) == ("all 1 pass", {"printed": ["PASS a", "all 1 pass"]})
        return
    with pytest.raises(error) as raised:
        check(gate, 60.0)
    assert raised.value.details == {"printed": done.text.splitlines()}


def test_on_a_gpu_of_another_architecture_a_check_counts_as_not_reached(tmp_path):
    gate = Gate(tmp_path, tmp_path, tmp_path, facts={"arch": "sm_100a"})
    with pytest.raises(NotReachedError, match=r"needs the architecture sm_90a; this GPU has sm_100a"):
        hopper.check_of("ring")(gate, 60.0)


def test_the_part_hopper_is_run_only_when_named():
    assert [part.name for part in command_line.chosen_parts(["hopper"])] == ["start", "hopper"]
    (part,) = [part for part in command_line.chosen_parts(["hopper"]) if part.name == "hopper"]
    assert part.minutes == 6
    assert [check.name for check in part.checks] == [*CHECKS]
    assert "hopper" not in [part.name for part in command_line.chosen_parts([])]
