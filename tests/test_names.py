"""Names that are looked up in tables."""

from __future__ import annotations

import pytest

from gpuconv.names import canonical, canonical_keys, distinct, lookup

TABLE = {"one-cycle": 1, "leaky_relu": 2, "cosine": 3}


@pytest.mark.parametrize("name", ["one-cycle", "one_cycle", "One-Cycle", "ONE_CYCLE"])
def test_a_name_is_found_in_any_case_and_with_dashes_or_underscores(name):
    assert lookup("schedule", name, TABLE) == 1
    assert canonical("schedule", name, TABLE) == "one-cycle"


def test_a_name_given_twice_in_two_spellings_counts_once():
    assert distinct("schedule", ["cosine", "One_Cycle", "one-cycle"], TABLE) == ["cosine", "one-cycle"]


def test_an_option_given_twice_in_two_spellings_is_refused():
    assert canonical_keys("schedule", {"Cosine": 1, "ONE_CYCLE": 2}, TABLE) == {"cosine": 1, "one-cycle": 2}
    with pytest.raises(ValueError, match=r"^schedule 'one-cycle' is given twice, the second time as 'one_cycle'$"):
        canonical_keys("schedule", {"one-cycle": 1, "one_cycle": 2}, TABLE)


def test_an_unknown_name_gives_the_nearest_and_all_known_ones():
    with pytest.raises(
        ValueError, match=r"^unknown schedule 'cosin'; did you mean 'cosine'\? \(known: one-cycle, leaky_r"
    ):
        lookup("schedule", "cosin", TABLE)
    with pytest.raises(ValueError, match=r"^unknown schedule 'xyz' \(known: one-cycle, leaky_relu, cosine\)$"):
        canonical("schedule", "xyz", TABLE)


def test_a_name_that_is_no_text_is_refused():
    for name in (None, 3, ["cosine"]):
        with pytest.raises(TypeError, match=f"^the schedule is chosen by name, received {type(name).__name__}: "):
            lookup("schedule", name, TABLE)
