"""Snapshots take their share of the time, and no more."""

from __future__ import annotations

from gpuconv.live.budget import Budget, Limits


def test_snapshots_take_no_more_than_their_share_of_time():
    now = [0.0]
    budget = Budget({"picture": Limits(every=0.1, share=0.02)}, timer=lambda: now[0])
    spent = 0.0
    for _ in range(100_000):
        now[0] += 0.001
        if budget.due("picture"):
            with budget.spend("picture"):
                now[0] += 0.05
                spent += 0.05
    assert 0.019 < spent / now[0] < 0.0202  # just after a picture the share is a little above 0.02
    quick = Budget({"state": Limits(every=0.1, share=0.02)}, timer=lambda: now[0])
    snapshots = 0
    for _ in range(769):  # steps in 10 s
        now[0] += 0.013
        if quick.due("state"):
            with quick.spend("state"):
                snapshots += 1
    assert 98 <= snapshots <= 101
