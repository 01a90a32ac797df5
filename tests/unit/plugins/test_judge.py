"""The statistics of judging: how often a good release is stopped, how soon a bad one; and the words."""

from __future__ import annotations

import math
import statistics
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.judging import LIMITS, ROUND, Site, place, stopped, watch
from plugins.module_utils import bluegreen_judge as judge


def outcomes(site: Site, runs: int) -> tuple[int, float]:
    """How many of so many canaries fail, and the median of the seconds until then."""
    found = [rounds * ROUND for rounds in stopped(site, runs)]
    return len(found), statistics.median(found) if found else math.inf


@pytest.mark.parametrize("errors", [0.0, 0.005])
def test_a_release_like_the_live_one_is_stopped_in_less_than_one_of_a_hundred_canaries(errors: float) -> None:
    failed, _ = outcomes(Site(errors=(errors, errors)), 80)
    assert failed <= 1


def test_the_same_on_three_hosts() -> None:
    assert outcomes(Site(errors=(0.01, 0.01), hosts=3, rate=60), 40)[0] == 0


@pytest.mark.parametrize(
    ("site", "least", "within"),
    [
        (Site(errors=(0.05, 0.0)), 30, 60),
        (Site(errors=(0.05, 0.001), share=0.05), 24, 90),
        (Site(errors=(0.01, 0.0), share=0.25), 20, 120),
        (Site(factor=2.0), 22, 90),
        (Site(factor=3.0), 30, 40),
        (Site(silent=True), 30, 5),
        (Site(silent=True, share=0.05, rate=4), 30, 20),
    ],
    ids=["5 %", "5 % at 5 %", "1 % at 25 %", "twice as slow", "three times", "silent", "silent and quiet"],
)
def test_a_bad_release_is_found(site: Site, least: int, within: float) -> None:
    failed, seconds = outcomes(site, 30)
    assert failed >= least
    assert seconds <= within


def test_a_little_slower_is_no_reason() -> None:
    assert outcomes(Site(factor=1.2), 40)[0] == 0


# the watch


@pytest.mark.parametrize(
    ("site", "least", "most"),
    [
        (Site(), 0, 0),
        (Site(errors=(0.01, 0.01)), 0, 0),
        (Site(errors=(0.05, 0.0)), 30, 30),
        (Site(factor=3.0), 30, 30),
        (Site(factor=1.3), 0, 0),
    ],
)
def test_a_watch_stops_what_is_bad_and_only_that(site: Site, least: int, most: int) -> None:
    assert least <= len(stopped(site, 30, during=watch)) <= most


# the parts


def hypergeometric(mine: int, total: int, of_mine: int, of_theirs: int) -> float:
    return math.comb(of_mine, mine) * math.comb(of_theirs, total - mine) / math.comb(of_mine + of_theirs, total)


@given(st.integers(1, 30), st.integers(1, 60), st.data(), st.sampled_from([*judge.ODDS, *judge.SLOW_ODDS]))
def test_the_ratio_is_an_e_value(of_mine: int, of_theirs: int, data: st.DataObject, odds: float) -> None:
    """Its mean over all ways in which the failures may fall, if the releases are alike, is one."""
    total = data.draw(st.integers(0, of_mine + of_theirs))
    mean = sum(
        hypergeometric(mine, total, of_mine, of_theirs)
        * math.exp(judge.log_ratio(odds, mine, of_mine, total - mine, of_theirs))
        for mine in range(max(0, total - of_theirs), min(total, of_mine) + 1)
    )
    assert mean == pytest.approx(1.0)


@given(st.integers(500, 3000), st.integers(500, 3000), st.data())
def test_the_bound_for_many_failures_claims_no_more_than_the_exact_value(
    of_mine: int, of_theirs: int, data: st.DataObject
) -> None:
    total = data.draw(st.integers(1, min(of_mine, of_theirs, judge.EXACT - 1)))
    mine = data.draw(st.integers(0, total))
    exact = judge.log_ratio(4.0, mine, of_mine, total - mine, of_theirs)
    part = of_mine / (of_mine + of_theirs)
    assert mine * math.log(4.0) - total * math.log1p(part * 3.0) <= exact + 1e-6


@given(st.integers(1, 200), st.floats(0.01, 0.5), st.data())
def test_the_tail_is_binomial(many: int, part: float, data: st.DataObject) -> None:
    mine = data.draw(st.integers(math.floor(part * many) + 1, many)) if part * many < many else many
    wanted = sum(math.comb(many, k) * part**k * (1 - part) ** (many - k) for k in range(mine, many + 1))
    assert judge.tail(mine, many, part) == pytest.approx(wanted, rel=1e-6)


TALLIES = st.builds(
    lambda ok, server, hist: {"ok": ok, "server": server, "hist": hist},
    st.integers(0, 99), st.integers(0, 9),
    st.dictionaries(st.integers(0, 200).map(str), st.integers(1, 50), max_size=9),
)  # fmt: skip


@given(st.lists(TALLIES, min_size=2, max_size=4))
def test_tallies_can_be_merged_in_any_order(tallies: list[dict[str, Any]]) -> None:
    whole = judge.merge(tallies)
    assert judge.merge([judge.merge(tallies[:2]), *tallies[2:]]) == whole
    assert judge.merge(reversed(tallies)) == whole
    assert judge.quantile(whole, 0.95) == judge.quantile(judge.merge(tallies[::-1]), 0.95)


@given(st.lists(st.floats(0.001, 20), min_size=1, max_size=50), st.sampled_from([0.5, 0.95, 0.99]))
def test_a_quantile_is_right_within_five_percent(times: list[float], part: float) -> None:
    hist: dict[str, int] = {}
    for took in times:
        hist[place(took)] = hist.get(place(took), 0) + 1
    true = sorted(times)[math.ceil(part * len(times)) - 1]
    assert judge.quantile({"hist": hist}, part) == pytest.approx(true, rel=0.06)


@given(TALLIES, TALLIES, st.sampled_from(judge.QUANTILES))
def test_the_slow_ones_are_at_most_the_part_that_was_asked_for(new: Any, live: Any, part: float) -> None:
    slow_new, ours, slow_live, others = judge.slow_counts(new, live, part, 1.4)
    assert 0 <= slow_new <= ours == sum(new["hist"].values())
    assert 0 <= slow_live <= others
    assert slow_new + slow_live <= (1 - part) * (ours + others)


def test_ten_milliseconds_more_are_never_slow() -> None:
    assert judge.seconds_of(judge.shifted(0, 1.4)) == pytest.approx(0.011, rel=0.05)
    assert judge.seconds_of(judge.shifted(int(place(1.0)), 1.4)) == pytest.approx(1.4, rel=0.08)


def counted(ok: int, bad: int, seconds: float = 0.04) -> dict[str, Any]:
    return judge.empty() | {"ok": ok, "server": bad, "hist": {place(seconds): ok + bad}}


DONE = judge.Plan(60.0, 60.0, 12, 1, True)


def after(new: dict[str, Any], live: dict[str, Any], **limits: Any) -> judge.Verdict:
    """One big look at the end of a canary."""
    rounds = judge.add_round(None, {"green": {"/": new}, "blue": {"/": live}}, "green", 2.0)
    return judge.judge_canary([rounds], judge.Limits(**limits), DONE)


def test_a_difference_that_is_certain_and_tiny_stops_nothing() -> None:
    new, live = counted(999_000, 1_100), counted(9_990_000, 10_000)
    assert after(new, live).verdict == judge.PASS


def test_the_absolute_limits() -> None:
    many = after(counted(850, 150), counted(99, 0))
    assert (
        "15 % of the new release's requests fail, more than 5 % (judge_max_error_share); all its errors in /"
        in many.reasons
    )
    late = after(counted(1000, 0, 2.0), counted(9000, 0, 1.5), max_p95=1.8)
    assert late.reasons == ("p95 of the new release is 2.0 s, more than 1.8 s (judge_max_p95)",)
    # what the live release does not keep either is no reason
    assert after(counted(1000, 0, 2.0), counted(9000, 0, 1.9), max_p95=1.8).verdict == judge.PASS
    # nor is a burst of errors in both that a small share of visitors meets by chance more often
    assert after(counted(10, 12), counted(142, 42)).verdict == judge.INCONCLUSIVE
    spent = after(counted(1960, 40), counted(200, 0), max_error_share=0.5)
    words = "about 40 requests failed because of the new release, 22 may (judge_error_budget 1 %); all its errors in /"
    assert words in spent.reasons


def test_without_any_request_nothing_is_known() -> None:
    assert judge.judge_canary([], judge.Limits(), DONE).reasons == (
        "too few requests: 0 of the new release, 50 wanted",
    )
    assert judge.judge_watch([], [], judge.Limits(), DONE).verdict == judge.INCONCLUSIVE


def grouped(new: dict[str, Any], live: dict[str, Any], limit: judge.Limits = LIMITS) -> judge.Verdict:
    """The end of a canary in which the first of two rounds was silent: latencies of the second count."""
    rounds = judge.add_round(judge.add_round(None, {}, "green", 2.0), {"green": new, "blue": live}, "green", 2.0)
    return judge.judge_canary([rounds], limit, DONE)


def test_a_fail_by_few_requests_names_the_group_of_paths() -> None:
    """Too few for a proof of that group alone: all groups together are what fails."""
    new = {"/": counted(10, 1), "/orders": counted(1, 3), "/ping": counted(10, 0)}
    said = grouped(new, {name: counted(40, 0) for name in new}, judge.Limits(max_error_share=0.5, error_budget=0.5))
    assert said.reasons == (
        "the new release answers with errors: 4 of 25 requests (16 %), live 0 of 120; 3 of its errors in /orders",
    )


def test_a_slow_release_is_slow_somewhere() -> None:
    new = {"/": counted(30, 0), "/orders": counted(18, 0, 0.4), "/ping": counted(30, 0)}
    said = grouped(new, {name: counted(400, 0) for name in new})
    assert "is slower: p50 " in said.reasons[0]
    assert said.reasons[0].endswith("; most of all in /orders")


def test_both_colours_failing_alike_says_where_too() -> None:
    groups = {"/": counted(50, 0), "/orders": counted(10, 40)}
    assert grouped(groups, groups).reasons == (
        "both colours fail alike: new 40 %, live 40 %; all its errors in /orders",
    )


def test_a_verdict_so_far_knows_what_it_lacks() -> None:
    rounds = judge.add_round(None, {"green": {"/": counted(12, 0)}, "blue": {}}, "green", 2.0)
    said = judge.judge_canary([rounds], LIMITS, judge.Plan(60.0, 5.0, 12))
    assert (said.verdict, said.reasons) == (judge.SO_FAR, ())
    assert said.doubts == ("too few requests: 12 of the new release, 50 wanted",)
    assert judge.with_kpis(said, [], ["x is not known"], done=False).doubts == (*said.doubts, "x is not known")
    assert judge.with_kpis(said, ["x is 3"], [], done=False).doubts == ()


@pytest.mark.parametrize("pair", list(combinations((0, 1, 3), 2)))
def test_a_release_that_fails_less_often_passes(pair: tuple[int, int]) -> None:
    assert after(counted(500, pair[0]), counted(500, pair[1])).verdict == judge.PASS


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, "-"), (0.0384, "38 ms"), (0.9994, "999 ms"), (0.9996, "1.0 s"), (12.34, "12.3 s")]
)
def test_times_in_words(seconds: float | None, words: str) -> None:
    assert judge.time_text(seconds) == words
