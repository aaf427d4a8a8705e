"""The records in the repository hold entries of the suite and are from committed code, and docs/benchmarks.md shows the
newest ones."""

from __future__ import annotations

import pytest

from bench import goals, report, suite
from bench.machine import ROOT
from bench.record import RESULTS, Record, newest_records

PATHS = sorted(RESULTS.glob("*/*.json"))


def test_the_repository_has_a_cpu_record():
    assert "numpy" in {record.data["kind"] for record in newest_records()}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_record_is_from_committed_code_and_has_entries_of_the_suite(path):
    data = Record.load(path).data
    assert not data["dirty"]
    assert path.parent.name == data["hardware"]
    assert path.stem == f"{data['date'][:10]}-{data['commit']}"
    known = {entry.key for kind in ("ops", "steps") for entry in suite.suite(kind)}
    assert {entry["key"] for entry in data["entries"]} <= known
    assert all(side["samples"] for entry in data["entries"] for side in entry["sides"] if side["status"] == "timed")


@pytest.mark.parametrize("record", newest_records(), ids=lambda record: record.data["hardware"])
def test_the_page_shows_the_newest_record(record):
    text = (ROOT / "docs/benchmarks.md").read_text()
    assert report.block(record) in text
    assert f"(benchmark-{record.data['hardware']}.png)" in text
    assert (ROOT / "docs" / f"benchmark-{record.data['hardware']}.png").is_file()


@pytest.mark.parametrize("record", newest_records(), ids=lambda record: record.data["hardware"])
def test_the_goals_of_a_record_follow_from_its_entries(record):
    evaluated = goals.evaluate(record.data)
    expected = [(goal["name"], goal["limit"], pytest.approx(goal["value"], rel=2e-3)) for goal in evaluated]
    assert [(goal["name"], goal["limit"], goal["value"]) for goal in record.data["goals"]] == expected
    assert all(goal["met"] == (goal["value"] <= goal["limit"]) for goal in record.data["goals"])
