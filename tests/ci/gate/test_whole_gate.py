"""The whole gate: without a GPU, with one that cannot be used, and on the stand-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ci.gate import parts, speed_checks
from ci.gate.experiments import QUESTIONS
from ci.gate.results import FAILED, LATE, NOT_REACHED, PASSED
from ci.gate.tree import ROOT
from tests.ci.gate.scripts import write_tool


def run_script(tmp_path: Path, *words: str, lists_gpus: bool = False, timeout: float = 120, **environment: str):
    write_tool(tmp_path / "bin", "nvidia-smi", "exit 0" if lists_gpus else "exit 9")
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    variables = os.environ | {"PATH": path, "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable} | environment
    command = [str(ROOT / "ci" / "gpu.sh"), *words, "--out", str(tmp_path / "out")]
    done = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=timeout)
    return done, done.stdout + done.stderr


def report(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out" / "gate.json").read_text())


@pytest.mark.slow
def test_without_a_gpu_the_gate_completes_and_says_what_it_could_not_do(tmp_path):
    before = sorted(path.name for path in (ROOT / "gpuconv").iterdir())
    done, output = run_script(tmp_path)
    assert done.returncode == 3, output
    assert sorted(path.name for path in (ROOT / "gpuconv").iterdir()) == before
    assert "NO GPU: nothing was proved" in output
    checks = [(part.name, check.name) for part in parts.PARTS for check in part.checks]
    reported = report(tmp_path)["checks"]
    assert [(check["part"], check["check"]) for check in reported] == checks
    assert {check["status"] for check in reported} == {NOT_REACHED}
    assert all(check["reason"].startswith("no GPU") for check in reported)


@pytest.mark.slow
def test_an_unusable_gpu_is_a_failure(tmp_path):
    done, output = run_script(tmp_path, "why", lists_gpus=True)
    assert done.returncode == 1, output
    environment, _, ncu = report(tmp_path)["checks"]
    assert (environment["status"], ncu["status"]) == (FAILED, NOT_REACHED)
    assert "the GPU cannot be used: " in environment["reason"]


SANITIZER = """[ "$1" = --version ] && exit 0
shift 4
[ "$GPUCONV_AUTOTUNE" = 0 ] || exit 8
"$@" || exit 9
echo "========= ERROR SUMMARY: 0 errors"
echo "========= RACECHECK SUMMARY: 0 hazards displayed"
"""
NCU = """[ "$1" = --version ] && exit 0
[ "$GPUCONV_AUTOTUNE" = 0 ] || exit 8
while [ "$1" != -m ]; do [ "$1" = --export ] && echo made up > "$2.ncu-rep"; shift; done
"$PYTHON" "$@" || exit 9
cat <<'END'
"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","conv2d_fprop_mma","gpu__time_duration.sum","us","15"
"0","conv2d_fprop_mma","smsp__issue_active.avg.pct_of_peak_sustained_active","%","81.5"
"0","conv2d_fprop_mma","lts__t_sectors.avg.pct_of_peak_sustained_elapsed","%","31.5"
END
"""


@pytest.mark.slow
def test_the_whole_gate_runs_on_the_stand_in(tmp_path):
    """The gate runs at a small size, with kernels on the emulator, made-up times, and a fake Nsight and sanitizer."""
    write_tool(tmp_path / "bin", "compute-sanitizer", SANITIZER)
    write_tool(tmp_path / "bin", "ncu", NCU)
    python = f"{sys.executable} -m tests.standin"
    done, output = run_script(tmp_path, "--rehearse", python, "--commit", "abc", timeout=1500)
    results = {check["check"]: (check["status"], check["reason"]) for check in report(tmp_path)["checks"]}
    # These checks need something that a rehearsal lacks, or their result depends on measured times.
    may_fail = {"cubins", "record", "loader", "choices", "driver", "model"}
    failed = {name: result for name, result in results.items() if result[0] != PASSED and name not in may_fail}
    assert failed == {}, output
    for status, reason in results.values():
        assert status != LATE
        assert "Traceback" not in reason
        assert "the gate:" not in reason
    assert done.returncode == 1
    assert report(tmp_path)["running"] is None
    answered = [verdict["question"] for verdict in report(tmp_path)["verdicts"]]
    assert answered == [
        speed_checks.ISSUE,
        *([speed_checks.MODEL] if speed_checks.MODEL in answered else []),
        speed_checks.RECORD,
        *QUESTIONS.values(),
    ]
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) <= 8, "a machine that runs the gate may return at most 8 files"
    assert all(len(path.relative_to(tmp_path / "out").parts) <= 3 for path in files)
    with zipfile.ZipFile(tmp_path / "out" / "logs.zip") as logs:
        assert {"bench-steps.log", "experiments/capture.log", "verify/relu.log"} <= set(logs.namelist())
