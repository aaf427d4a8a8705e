"""The checks that kernels are right: verify, the tests, the sanitizer."""

from __future__ import annotations

import pytest

from ci.gate import correctness_checks
from ci.gate.results import FailedError, LateError, NotReachedError
from tests.ci.gate.scripts import write_tool


def test_verify_names_the_ops_that_fail_or_give_malformed_output_or_run_out_of_time(prepared):
    prepared.facts["ops"] = ["relu", "add", "scale", "conv2d"]
    passing = (0, "all 3 pass on cuda:0")
    with pytest.raises(FailedError, match=r"1 of 4 ops pass; failed: add; .*they passed: relu; out of time: scale"):
        correctness_checks.verify(
            prepared.prepare(add=(1, "FAIL"), scale=(124, ""), relu=(0, "all 0 pass on x"), conv=passing), 30
        )
    with pytest.raises(LateError, match="3 of 4 ops pass; out of time: scale"):
        correctness_checks.verify(prepared.prepare(scale=(124, ""), verify=passing), 30)
    assert correctness_checks.verify(prepared.prepare(verify=passing), 30)[0] == "4 of 4 ops pass"
    assert prepared.commands_run[0][-1] == "conv2d"
    # Parallel processes would distort times, so nothing is timed.
    assert {environment["GPUCONV_AUTOTUNE"] for environment in prepared.environments} == {"0"}
    prepared.facts.clear()  # as after a failed check of the environment
    with pytest.raises(NotReachedError, match="named no operations"):
        correctness_checks.verify(prepared.prepare(), 30)


def test_the_suite_runs_on_the_device_with_one_process_per_file_and_kernels_first(prepared, monkeypatch):
    for name in ("a/test_a.py", "kernels/test_k.py", "training/test_devices.py"):
        (prepared.home / "tests" / name).parent.mkdir(parents=True)
        (prepared.home / "tests" / name).write_text("")
    prepared.prepare(test_a=(0, "3 passed, 1 skipped in 1s"), test_k=(0, "4 passed in 1s"), devices=(5, "no tests ran"))
    monkeypatch.setattr(correctness_checks, "workers", lambda: 1)
    assert correctness_checks.tests(prepared, 30)[0] == "3 of 3 files, 7 passed, 1 skipped"
    assert [command[-1].rpartition("/")[2] for command in prepared.commands_run] == [
        "test_k.py",
        "test_devices.py",
        "test_a.py",
    ]
    first = prepared.environments[0]
    assert (first["GPUCONV_TEST_DEVICES"], first["GPUCONV_AUTOTUNE"]) == ("cuda", "0")
    with pytest.raises(FailedError, match=r"failed: kernels\.test_k"):
        correctness_checks.tests(prepared.prepare(test_k=(1, "1 failed, 3 passed in 1s"), test=(0, "1 passed")), 30)


@pytest.mark.parametrize("name", ["memcheck", "racecheck"])
def test_a_missing_or_silent_sanitizer_does_not_pass(prepared, monkeypatch, tmp_path, name):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    check = correctness_checks.sanitizer_check(name)
    with pytest.raises(NotReachedError, match="compute-sanitizer is not on the PATH"):
        check(prepared, 30)
    write_tool(tmp_path / "bin", "compute-sanitizer", "")
    with pytest.raises(FailedError, match="did not print that they passed"):
        check(prepared, 30)
    summary = "========= RACECHECK SUMMARY: 0 hazards" if name == "racecheck" else "========= ERROR SUMMARY: 0 errors"
    assert check(prepared.prepare(sanitizer=(0, summary)), 30)[0] == "14 of 14 ops clean"
    assert {environment["GPUCONV_AUTOTUNE"] for environment in prepared.environments} == {"0"}
    with pytest.raises(FailedError, match="failed: bias_grad"):
        check(prepared.prepare(bias_grad=(9, summary), sanitizer=(0, summary)), 30)
    with pytest.raises(FailedError, match="did not print that they passed: conv2d"):
        check(prepared.prepare(sanitizer=(0, summary.replace(": 0", ": 7"))), 30)
