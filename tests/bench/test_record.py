"""Records are read back and accumulate; other files are refused; folders are named after the hardware."""

from __future__ import annotations

import pytest

from bench import machine
from bench import record as records
from bench.record import Record, RecordError
from tests.bench.fake_sides import entry, record, side, timed


def test_a_record_is_read_back(tmp_path):
    stored = record(tmp_path)
    timed(stored, side(), side("peer", "eager"))
    loaded = Record.load(stored.path)
    assert loaded.data == records.round_numbers(stored.data)
    (row,) = loaded.data["entries"]
    samples = row["sides"][0]["samples"]["wall"]
    assert samples == [float(f"{sample:.4g}") for sample in stored.data["entries"][0]["sides"][0]["samples"]["wall"]]


def test_a_second_run_adds_to_the_file_and_replaces_entries_it_times_again(tmp_path):
    first = Record.start("numpy", 2, results=tmp_path, commit="abc")
    timed(first, side(), entries=[entry(8), entry(9)])
    second = Record.start("numpy", 2, results=tmp_path, commit="abc")
    assert second.path == first.path
    timed(second, side(seconds=5e-4), entries=[entry(9), entry(10)])
    entries = Record.load(first.path).entries
    assert list(entries) == [entry(size).key for size in (8, 9, 10)]
    assert entries[entry(9).key]["sides"][0]["least"] >= 5e-4
    assert Record.start("numpy", 2, results=tmp_path, commit="other").path != first.path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 99}', "has schema 99, but this version reads 1"),
        ("[]", "no schema"),
        ("{}", "no schema"),
        ('{"schema": 1', "not a benchmark record"),
        ('{"schema": 1, "hardware": "x"}', "it has no kind, date, commit, dirty, entries"),
        ("", "not a benchmark record"),
    ],
)
def test_a_file_that_is_not_a_record_of_this_version_is_refused(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=message):
        Record.load(path)


def test_a_failing_write_leaves_the_old_file(tmp_path):
    stored = record(tmp_path)
    before = stored.path.read_text()
    stored.data["peaks"] = object()  # JSON cannot hold an object
    with pytest.raises(TypeError):
        stored.save()
    assert stored.path.read_text() == before
    assert list(stored.path.parent.iterdir()) == [stored.path]


def test_the_newest_record_of_each_device_is_found(tmp_path):
    old = record(tmp_path, date="2026-01-02T10:00:00+00:00", commit="old")
    new = record(tmp_path, date="2026-01-02T11:00:00+00:00", commit="new")
    gpu = record(tmp_path, date="2025-01-02T10:00:00+00:00", hardware="nvidia-x", kind="cuda")
    assert old.path != new.path
    assert [newest.path for newest in records.newest_records(tmp_path)] == [gpu.path, new.path]


def test_records_of_one_day_are_sorted_by_their_time(tmp_path):
    last = record(tmp_path, date="2026-01-02T12:00:00+00:00", commit="a")
    first = record(tmp_path, date="2026-01-02T10:00:00+00:00", commit="b")
    record(tmp_path, date="2026-01-02T11:00:00+00:00", hardware="nvidia-x", kind="cuda")
    assert [each.path for each in records.records_by_date(tmp_path, "cpu-*")] == [first.path, last.path]
    assert len(records.records_by_date(tmp_path)) == 3


@pytest.mark.parametrize("commit", ["", "feature/x"])
def test_a_version_whose_name_cannot_be_part_of_a_file_name_is_refused(tmp_path, commit):
    with pytest.raises(ValueError, match=f"must not be empty or have a slash, received '{commit}'"):
        Record.start("numpy", 2, results=tmp_path, commit=commit)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("Intel(R) Xeon(R) Processor", "cpu-xeon-2-threads"),
        ("Intel(R) Xeon(R) Platinum 8480+ @ 2.00GHz", "cpu-xeon-platinum-8480-2-threads"),
        ("AMD Ryzen 9 7950X 16-Core Processor", "cpu-ryzen-9-7950x-2-threads"),
        ("", "cpu-unknown-2-threads"),
    ],
)
def test_a_folder_is_named_after_the_hardware(monkeypatch, name, folder):
    monkeypatch.setattr(machine, "processor", lambda: name)
    assert machine.folder("numpy", 2) == folder


def test_the_folder_of_a_gpu_is_named_after_its_model(monkeypatch):
    monkeypatch.setattr(machine.backends, "describe", lambda device: "NVIDIA H200, compute capability 90")
    assert machine.folder("cuda:0", 2) == "nvidia-h200"
