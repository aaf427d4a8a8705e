"""The report shows the newest record, says when there is no GPU record, and rewrites only its own block."""

from __future__ import annotations

import pytest

from bench import goals, report, suite
from tests.bench.fake_sides import record


def timed_entry(op, shape, ours, peers, dtype="float32"):
    sides = [("ours", "gpuconv", ours), *(("peer", name, time) for name, time in peers.items())]
    return {
        "key": f"{op} {shape} {dtype}",
        "op": op,
        "shape": shape,
        "dtype": dtype,
        "floor": 0.001,
        "noise": 0.01,
        "sides": [
            {"role": role, "name": name, "status": "timed", "median": time, "least": 0.9 * time}
            for role, name, time in sides
        ],
    }


C3, C64 = "64x32x32x3-64x3x3-p1.1.1.1", "64x32x32x64-64x3x3-p1.1.1.1"
ENTRIES = [
    timed_entry("fprop", C3, 0.006, {"eager": 0.002, "channels_last": 0.004}),
    timed_entry("backward", C3, 0.005, {"eager": 0.006, "channels_last": 0.002}),
    timed_entry("fprop", C64, 0.005, {"eager": 0.002}),
    timed_entry("step", "tiny-vgg-n64", 0.010, {"eager": 0.008}),
]


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "benchmarks.md"
    path.write_text(f"# A\n\nbefore\n\n{report.BEGIN}\nold\n{report.END}\n\nafter\n")
    return path


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def test_the_report_shows_the_newest_record_and_keeps_the_rest_of_the_page(page, results):
    record(results, date="2026-01-01T00:00:00+00:00", commit="older", entries=ENTRIES[:1])
    record(results, date="2026-01-03T00:00:00+00:00", commit="newer", entries=ENTRIES)
    record(results, date="2026-01-02T00:00:00+00:00", commit="middle")
    written = report.write(page, results)
    text = page.read_text()
    assert text.startswith(f"# A\n\nbefore\n\n{report.BEGIN}\n")
    assert text.endswith(f"{report.END}\n\nafter\n")
    assert "old\n" not in text
    assert "commit newer" in text
    assert "older" not in text
    assert "middle" not in text
    assert "2026-01-03" in text
    assert "| fprop | float32 | 2 | 2.75 (2.50 to 3.00) | 18% |" in text
    assert "| step tiny-vgg-n64, 10 ms | float32 | 1 | 1.25 | 10% |" in text
    # Forward and backward together: eager takes 0.008 s, channels_last 0.006 s.
    assert "| 32x32 3->64 | 3.00 (3.00) | 4 | 1.83 (1.83) | 3 |" in text
    assert "2 of 4 met" not in text
    assert "3 of 4 met" in text
    assert "| 32x32 64->64 | 2.50 (2.50) | 2 **not met** |" in text
    (picture,) = written[1:]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "(benchmark-cpu-x-2-threads.png)" in text
    report.write(page, results)
    assert page.read_text() == text


def test_without_a_gpu_record_the_report_says_not_yet_measured(page, results):
    record(results, entries=ENTRIES)
    report.write(page, results)
    assert "GPU: not yet measured" in page.read_text()
    record(results, hardware="nvidia-x", kind="cuda", device="NVIDIA X", entries=ENTRIES[:2])
    report.write(page, results)
    text = page.read_text()
    assert "not yet measured" not in text
    assert text.index("**NVIDIA X") < text.index("**CPU X")


def test_without_any_record_the_report_has_no_figures(page, results):
    assert report.write(page, results) == [page]
    assert "|" not in page.read_text()
    assert report.NOT_MEASURED in page.read_text()


@pytest.mark.parametrize("text", ["no block", f"{report.END}{report.BEGIN}", report.BEGIN])
def test_a_page_without_the_block_is_an_error(page, results, text):
    page.write_text(text)
    with pytest.raises(ValueError, match=r"benchmarks\.md must hold the lines"):
        report.write(page, results)
    assert page.read_text() == text


def test_a_record_without_a_peer_has_no_ratio(page, results):
    record(results, entries=[timed_entry("fprop", C64, 0.005, {})])
    report.write(page, results)
    assert "| fprop | float32 | 1 | no peer | 20% |" in page.read_text()


def test_goals_are_evaluated_against_their_limits():
    measures = [{"name": name, "value": limit + 1, "unit": ""} for name, limit in goals.MEASURES.items()]
    data = {"kind": "numpy", "entries": ENTRIES, "measures": measures}
    evaluated = {goal["name"]: (goal["value"], goal["limit"], goal["met"]) for goal in goals.evaluate(data)}
    assert evaluated == {
        "32x32 3->64 forward": (pytest.approx(3), 4, True),
        "32x32 3->64 forward + backward": (pytest.approx(11 / 6), 3, True),
        "32x32 64->64 forward": (2.5, 2, False),
        "step tiny-vgg-n64": (1.25, 3, True),
        "import gpuconv": (151, 150, False),
        "memory of tiny-vgg-n64": (4, 3, False),
    }


def test_every_goal_refers_to_an_entry_of_the_suite():
    keys = {entry.key for kind in ("ops", "steps") for entry in suite.suite(kind)}
    assert {f"step {goals.STEP_SHAPE} float32"} <= keys
    for problem in suite.CONVOLUTIONS["cpu"]:
        assert {f"{op} {problem} float32" for op in ("fprop", "backward")} <= keys


def test_the_block_names_sides_that_were_not_timed_and_counts_entries_not_reached(page, results):
    entry = timed_entry("fprop", C3, 0.006, {"eager": 0.002})
    for name, status in (("compile", "left out"), ("graph", "absent"), ("channels_last", "out of memory")):
        entry["sides"].append({"role": "peer", "name": name, "status": status, "reason": "of a kind"})
    record(results, entries=[entry, ENTRIES[1]], **{"not reached": ["a", "b", "c"]})
    report.write(page, results)
    text = page.read_text()
    absent = '"channels_last" out of memory (1), "compile" left out (1), "graph" absent (1)'
    assert f"Sides that were not timed, and in how many of 2 entries: {absent}." in " ".join(text.split())
    assert "Not reached when the run was stopped or its time was up: 3 entries." in " ".join(text.split())


def test_the_block_mentions_no_omissions_if_everything_was_timed(page, results):
    record(results, entries=ENTRIES)
    report.write(page, results)
    assert "not timed" not in page.read_text()
    assert "Not reached" not in page.read_text()


def test_goals_are_printed_with_their_limits():
    found = goals.evaluate({"kind": "numpy", "entries": ENTRIES, "measures": []})
    missed, met = (next(line for line in goals.lines(found) if name in line) for name in ("64->64 forward", "step"))
    assert (
        " ".join(missed.split())
        == "32x32 64->64 forward 2.5 x PyTorch goal 2 NOT MET (2.5 by the minimum of the samples)"
    )
    assert " ".join(met.split()) == "step tiny-vgg-n64 1.25 x PyTorch goal 3 met (1.25 by the minimum of the samples)"
