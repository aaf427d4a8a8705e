"""Mutation runs of the kernels: a mutant is killed only if a test fails. Pytest also runs in a process that has used
kernels before."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.sources import ROOT

STORES = "tests/kernels/test_stmatrix.py::test_matrices_are_stored_directly_and_transposed"
STARTS_PYTEST_AFTER_KERNELS = """
import pytest
from gpuconv.backends.cuda.emulator.runtime import runtime
runtime()
raise SystemExit(pytest.main(["-q", "--collect-only", "-p", "no:cacheprovider", "tests/tools/test_python_faults.py"]))
"""


def verdicts(file: str) -> tuple[int, list[tuple[str, str]]]:
    """The exit status of a run on four mutants with one test, and the verdict on each mutant and its reason."""
    options = ["--file", file, "--tests", STORES, "--sample", "4", "--seed", "3", "--verbose", "--processes", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "tools.mutation.kernels", *options], cwd=ROOT, capture_output=True, text=True
    )
    return done.returncode, re.findall(rf"^\d/\d {file}:\d+  (.*)\n  - .*\n  \+ .*\n  (.*)$", done.stdout, re.M)


@pytest.mark.slow
def test_mutants_that_the_test_runs_are_killed_by_it():
    status, mutants = verdicts("stmatrix.cuh")
    assert status == 0
    no_build = "does not compile"  # two of the four mutants use a variable that is not declared
    assert sorted(verdict for verdict, _ in mutants) == [no_build, no_build, "killed", "killed"]
    assert {reason for verdict, reason in mutants if verdict == "killed"} == {f"{STORES} fails"}


@pytest.mark.slow
def test_mutants_that_the_test_compiles_but_does_not_run_survive():
    status, mutants = verdicts("bulk_copy.cuh")
    assert status == 1
    assert {verdict for verdict, _ in mutants} == {"survived"}  # known survivors may be drawn, but are not run


def test_tests_are_collected_where_the_emulated_device_was_used_before():
    run = subprocess.run(
        [sys.executable, "-c", STARTS_PYTEST_AFTER_KERNELS], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
