"""Two records are compared: gpuconv is slower or faster in an entry if the time differs by more than the noise."""

from __future__ import annotations

import pytest

from bench import compare_records
from tests.bench.fake_sides import record, side, timed


@pytest.mark.slow  # sides are really timed
def test_a_planted_slow_kernel_is_reported_slower(tmp_path):
    a, b = record(tmp_path / "a"), record(tmp_path / "b")
    timed(a, side(seconds=3e-4), rounds=8)
    timed(b, side(seconds=3e-3), rounds=8)
    (change,) = compare_records.changes(a, b)
    assert change.ratio > 3
    assert change.verdict == compare_records.SLOWER
    (change,) = compare_records.changes(b, a)
    assert change.verdict == compare_records.FASTER
    assert "1 faster, 0 slower, 0 within the noise" in compare_records.text(b, a)


@pytest.mark.parametrize(
    ("after", "noise", "verdict"),
    [(1.05, 0.10, "noise"), (1.15, 0.10, "slower"), (0.95, 0.10, "noise"), (0.85, 0.10, "faster"), (1.0, 0.0, "noise")],
)
def test_only_a_difference_above_the_noise_counts_as_slower_or_faster(tmp_path, after, noise, verdict):
    for noises in ((noise, 0.0), (0.0, noise)):  # the larger noise of the two records counts
        a, b = record_of(tmp_path / "a", 1.0, noises[0]), record_of(tmp_path / "b", after, noises[1])
        (change,) = compare_records.changes(a, b)
        assert change.verdict == verdict


@pytest.mark.parametrize(("noises", "verdict"), [((0.0, 0.1, 0.1), "noise"), ((0.0, 0.0, 0.1), "slower")])
def test_an_entry_has_at_least_the_median_noise_of_its_record(tmp_path, noises, verdict):
    first, *_ = compare_records.changes(
        record_of(tmp_path / "a", 1.0, *noises), record_of(tmp_path / "b", 1.05, *noises)
    )
    assert (first.key, first.verdict) == ("0", verdict)


def record_of(folder, median, *noises):
    """A record with one entry for each noise, all with this median time."""
    sides = [{"role": "ours", "name": "gpuconv", "status": "timed", "median": median}]
    entries = [{"key": str(number), "noise": noise, "sides": sides} for number, noise in enumerate(noises)]
    return record(folder, entries=entries)


def test_records_of_different_hardware_are_not_compared(tmp_path):
    a, b = record(tmp_path / "a"), record(tmp_path / "b", hardware="nvidia-x")
    with pytest.raises(ValueError, match="different hardware"):
        compare_records.changes(a, b)
