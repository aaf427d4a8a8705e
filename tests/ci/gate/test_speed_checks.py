"""The checks that kernels are fast: Nsight Compute, the benchmark, its record, the predictions."""

from __future__ import annotations

import json

import pytest

from ci.gate import speed_checks
from ci.gate.results import FailedError, LateError, NotReachedError
from tests.ci.gate.scripts import write_tool

HEADER = '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"'
TIME, ISSUE, L2 = (speed_checks.METRICS[name] for name in ("time", "issue", "l2"))


def csv_of(*rows):
    return "\n".join(["==PROF== Connected", HEADER, *(",".join(f'"{cell}"' for cell in row) for row in rows)])


def test_ncu_sums_times_and_takes_the_percentages_of_the_longest_launch(prepared, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(NotReachedError, match="ncu is not on the PATH"):
        speed_checks.ncu(prepared, 30)
    write_tool(tmp_path / "bin", "ncu", "")
    text = csv_of(
        (0, "conv2d_fprop_mma", TIME, "ns", "1,500"),
        (0, "conv2d_fprop_mma", ISSUE, "%", "20"),
        (0, "conv2d_fprop_mma", L2, "%", "10"),
        (1, "relu_forward", TIME, "us", "0.25"),
        (2, "conv2d_fprop_mma", TIME, "usecond", "2"),
        (2, "conv2d_fprop_mma", ISSUE, "%", "80"),
        (2, "conv2d_fprop_mma", L2, "%", "30"),
        (3, "cupy_fill", TIME, "ms", "9"),
    )
    measured = speed_checks.kernel_measurements(text)
    assert measured["conv2d_fprop_mma"] == {"time": pytest.approx(3.5e-6), "issue": 80, "l2": 30}
    assert list(measured) == ["relu_forward", "conv2d_fprop_mma"]
    seen, _ = speed_checks.ncu(prepared.prepare(csv=(0, text)), 30)
    assert seen.startswith("conv2d_fprop_mma: issue 80 %")
    assert seen.endswith("no ncu.zip: no report, or one too large to keep")
    assert {environment["GPUCONV_AUTOTUNE"] for environment in prepared.environments} == {"0"}
    with pytest.raises(FailedError, match="L2 90 %"):
        speed_checks.ncu(prepared.prepare(csv=(0, text.replace('"30"', '"90"'))), 30)
    for broken in (text.replace("_mma", "_simt"), text.replace('"80"', '"nan"'), text.replace('"80"', '"4000"')):
        with pytest.raises(NotReachedError):
            speed_checks.ncu(prepared.prepare(csv=(0, broken)), 30)
    with pytest.raises(FailedError, match="reported no kernel"):
        speed_checks.ncu(prepared.prepare(csv=(0, "==ERROR== no permission")), 30)


def record_of(prepared, entries, hardware="nvidia-x", home=False, date="2026-01-01T00:00:00+00:00", commit="abc"):
    folder = (prepared.home / "bench" if home else prepared.out) / "results" / hardware
    folder.mkdir(parents=True, exist_ok=True)
    data = {"hardware": hardware, "date": date, "entries": entries}
    (folder / f"{date[:10]}-{commit}.json").write_text(json.dumps(data))


def entry(key="fprop 1x1 bfloat16", kind="convolution", median=1e-3, date="2999-01-01T00:00:00+00:00", **changes):
    ours = {"role": "ours", "name": "gpuconv", "status": "timed", "median": median} | changes
    peer = {"role": "peer", "name": "eager", "status": "absent"}
    return {"key": key, "kind": kind, "date": date, "sides": [ours, peer]}


def test_the_benchmark_reports_missing_and_failed_sides_and_ignores_old_entries(prepared):
    record_of(prepared, [entry(kind="step"), entry()])
    steps = speed_checks.timing_check("steps", speed_checks.STEPS)
    ops = speed_checks.timing_check("ops", speed_checks.KERNELS)
    assert steps(prepared, 60)[0] == "entries timed: 1; eager absent"
    assert ops(prepared, 60)[0] == "entries timed: 1; eager absent"
    with pytest.raises(LateError, match="entries timed: 1; eager absent; stopped after"):
        ops(prepared.prepare(bench=(124, "")), 60)
    with pytest.raises(FailedError, match="wrong and not timed"):
        ops(prepared.prepare(bench=(1, "wrong and not timed: x")), 60)
    for change, message in (
        (dict(status="failed", reason="no memory"), "no memory"),
        (dict(median=float("nan")), "no times"),
        (dict(median=0.0), "no times"),
        (dict(median=-1.0), "no times"),
    ):
        record_of(prepared, [entry(**change)])
        with pytest.raises(FailedError, match=message):
            ops(prepared.prepare(), 60)
    record_of(prepared, [entry(date="2026-01-01T00:00:00+00:00")])
    with pytest.raises(LateError, match="no entry was timed"):
        ops(prepared.prepare(), 60)
    prepared.prepare(missing=(0, "entries missing in the record: 0"))
    missing = speed_checks.timing_check("ops", speed_checks.SUITE, missing=True)
    assert missing(prepared, 60)[0] == "nothing to time: the record has every entry"


def test_the_benchmark_continues_in_a_new_process_after_a_gpu_crash(prepared, monkeypatch):
    monkeypatch.setattr(speed_checks, "entries_of", lambda gate: [entry(kind="step")])
    crashed = (2, "bench: error: cuda:0 no longer answers after x")
    prepared.prepare(missing=(0, "entries missing in the record: 2"), bench=crashed)
    assert speed_checks.timing_check("steps", speed_checks.STEPS)(prepared, 60)[0].startswith("entries timed: 1")
    assert ["--missing" in command for command in prepared.commands_run] == [False, True]


def test_times_are_compared_with_those_of_the_earlier_record(prepared):
    record_of(prepared, [entry(median=1e-3)])
    with pytest.raises(NotReachedError, match="no earlier record"):
        speed_checks.record(prepared, 30)
    record_of(prepared, [entry(median=2e-3)], home=True)
    assert speed_checks.record(prepared, 30)[0] == "mean share of the record's time over 1 convolutions: fprop 0.50"
    record_of(prepared, [entry(median=0.9e-3)], home=True)
    with pytest.raises(FailedError, match="slower: fprop 1x1 bfloat16"):
        speed_checks.record(prepared, 30)
    record_of(prepared, [entry(median=4e-3)], home=True, date="2026-01-01T01:00:00+00:00", commit="aaa")
    assert speed_checks.record(prepared, 30)[0].endswith("fprop 0.25"), "the newer of two records of one day counts"


@pytest.mark.parametrize(
    ("output", "error"),
    [("rms error 14.9 % over 24 rows", None), ("rms error 15.1 % over 24 rows", FailedError), ("", NotReachedError)],
    ids=["within", "refuted", "nothing measured"],
)
def test_a_refuted_prediction_is_reported(prepared, output, error):
    prepared.facts["name"] = "NVIDIA H200"
    prepared.prepare(predict=(0, f"gpu\n{output}\n"))
    if error is None:
        assert speed_checks.model(prepared, 30)[0] == "14.9 % over 24 convolutions"
    else:
        with pytest.raises(error):
            speed_checks.model(prepared, 30)
