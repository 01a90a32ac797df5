"""The worked change of examples/orders: each release works with the one before and the one after it on one schema."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Story

# Live release, new release, the verdict on what is pending, and the columns that speak for it.
STEPS = [
    ("r7", "r8", "safe", set()),
    ("r8", "r9", "safe", set()),
    ("r9", "r10", "safe", set()),
    ("r10", "r12", "refused", {"state", "confirmed_at"}),  # the last step too early
    ("r10", "r11", "safe", set()),
    ("r11", "r12", "needs_approval", {"state", "confirmed_at"}),
]
# The same change by shadow table and swap.
SWAP = [
    ("r7", "s8", "needs_approval", set()),
    ("s8", "s9", "needs_approval", set()),
    ("s9", "s10", "needs_approval", {"state", "confirmed_at"}),
]
WHY = {
    "refused": "the live release reads and writes this column",
    "needs_approval": "no release that runs uses this column, but its data is gone for good",
}


def speaks(judged: dict[str, Any], verdict: str) -> set[str]:
    """The columns that speak for a verdict, each with the reason that it should have."""
    found = [one for item in judged["migrations"] for one in item["reasons"] if one["verdict"] == verdict]
    return {one["column"] for one in found if one["column"] and one["why"].startswith(WHY[verdict])}


def names(steps: list[Any]) -> list[str]:
    """Of the tests."""
    return [f"{old}-{new}" for old, new, *_ in steps]


@pytest.mark.parametrize(("old", "new", "verdict", "columns"), STEPS, ids=names(STEPS))
def test_a_step_is_judged_and_both_releases_work_on_its_schema(
    story: Story, old: str, new: str, verdict: str, columns: set[str]
) -> None:
    story[old].ask("migrate")
    story[old].ask("order")
    if old == "r9":  # the backfill comes before the reads
        for name in ("archive_writes", "archive_backfill"):
            story[old].ask("switch", name=name)
        assert "done" in story[old].ask("manage", command="archive_orders")
    judged = story.judge(old, new)
    assert judged["verdict"] == verdict, judged
    if verdict != "safe":
        assert speaks(judged, verdict) == columns, judged
    if verdict != "refused":
        story[new].ask("migrate")
        story.expect_both_to_work(old, new)


def test_the_way_back_from_the_last_step_brings_the_columns_and_what_was_in_them(story: Story) -> None:
    last = story["r12"]
    last.ask("migrate")
    for waits in (True, False):
        last.ask("order", waits=waits)
    seen = last.ask("seen")
    last.ask("manage", command="migrate orders 0008 --verbosity 0")
    assert story["r9"].ask("seen") == seen


@pytest.mark.full
@pytest.mark.parametrize(("old", "new", "verdict", "columns"), SWAP, ids=names(SWAP))
def test_the_swap_is_judged_and_both_releases_work_on_its_schema(
    other_story: Story, old: str, new: str, verdict: str, columns: set[str]
) -> None:
    story = other_story
    story[old].ask("migrate")
    if old == "s8":
        assert "done" in story[old].ask("manage", command="fill_shadow")
    else:
        story[old].ask("order")
    judged = story.judge(old, new)
    assert (judged["verdict"], speaks(judged, verdict)) == (verdict, columns), judged
    story[new].ask("migrate")
    story.expect_both_to_work(old, new)
