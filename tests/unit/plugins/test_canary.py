"""A canary and a watch of a fleet: rounds on all hosts, judged together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from plugins.action import bluegreen_inputs
from plugins.module_utils import bluegreen_fleet as fleets
from plugins.module_utils import bluegreen_judge as judge
from plugins.module_utils import bluegreen_report as report
from plugins.module_utils import bluegreen_text as text
from plugins.module_utils.bluegreen_inputs import Refused
from tests.unit.plugins import test_fleet as made
from tests.unit.plugins.test_fleet import HOSTS, A, B

ROOT = Path(__file__).resolve().parents[3]
JUDGE: dict[str, Any] = {"inconclusive": "revert", "groups": []}


def tally(ok: int, bad: int = 0, none: int = 0, milliseconds: int = 40) -> dict[str, Any]:
    place = str(next(place for place in range(400) if judge.seconds_of(place) * 1000 >= milliseconds))
    return {"ok": ok, "client": 0, "server": bad, "none": none, "gone": 0, "hist": {place: ok + bad}}


def measured(new: dict[str, Any], live: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "colours": {"green": {"/": new}, "blue": {"/": live}},
        "cursor": {"inode": 1, "offset": 2},
        "until": 9.0,
    } | more


GOOD = measured(tally(20), tally(180))
SILENCE = measured(tally(0), tally(0))


class Run:
    """A deploy up to its smoke checks, then rounds; what hosts answer is given by the test."""

    def __init__(self, before: Any = None, **asked: Any) -> None:
        self.inputs = made.inputs(canary=[5, 25], canary_watch=20.0, watch=20.0, judge=JUDGE) | asked
        first = before or made.taken(made.LIVE_A)
        self.phases: dict[str, Any] = {"preflight": first, **made.UP_TO_SMOKE}

    @property
    def fleet(self) -> fleets.Fleet:
        return made.fleet(self.phases, self.inputs)

    def round(self, phase: str, found: Any = GOOD, seconds: float = 5.0) -> list[str]:
        """One round; `found`: one answer for all hosts, or host → measurement or a whole answer. The hosts of it."""
        state, answers = self.fleet, dict(self.phases.get(phase) or {})
        hosts = [host for host in HOSTS if fleets.runs(state, phase, host)]
        for host in hosts:
            mine = found if "colours" in found or "unreadable" in found else found[host]
            if "verdict" in mine:
                answers[host] = mine
                continue
            steps = [
                {"verb": "route", "share": "canary", "ttl": 60, "only": "new_share"},
                {"verb": "measure", "of": phase},
            ]
            called = fleets.prepare(steps if phase == "canary" else steps[1:], state, host, {})
            routed = {"route": {"colour": "green"}} if called[0]["verb"] == "route" else {}
            whole = {"verdict": "pass", "results": {"measure": mine, **routed}, "error": None, "seconds": seconds}
            answers[host] = whole | fleets.carry(state, phase, host, whole)
            self.shares = [call["share"] for call in called if call["verb"] == "route"] or self.shares
        self.phases[phase] = answers
        return hosts

    shares: list[int] = []  # noqa: RUF012  of the last route

    def canary(self, found: Any = GOOD, seconds: float = 5.0) -> int:
        """All rounds of the canary. Returns their number."""
        for number in range(100):
            if not self.round("canary", found, seconds):
                return number
        raise AssertionError("the canary does not end")

    def switch(self, before: dict[str, Any] | None = None) -> None:
        results = {"route": {"colour": "green"}, "before": before or measured(tally(0), tally(400))}
        self.phases["switch"] = {"verdict": "pass", "results": results, "error": None}


def test_a_good_canary_goes_step_by_step_to_the_switch() -> None:
    run = Run()
    seen = []
    while run.round("canary"):
        seen.append((run.shares[0], fleets.round_line(run.fleet, "canary").split(":")[0]))
    assert seen == [(5, "canary 5 %")] * 4 + [(25, "canary 25 %")] * 4
    assert run.fleet.canary.verdict == judge.PASS
    assert fleets.problems(run.fleet) == []
    assert fleets.phase_hosts(run.fleet, "switch") == list(HOSTS)
    assert fleets.phase_hosts(run.fleet, "revert") == []


def test_the_line_of_a_round() -> None:
    run = Run()
    run.round("canary")
    line = fleets.round_line(run.fleet, "canary")
    assert (
        line
        == "canary 5 %: 5 s, new 60 requests, 0 errors, p50/p95/p99 41/41/41 ms (live 540, 0, 41/41/41 ms): pass so far"
    )


@pytest.mark.parametrize(
    ("tallies", "words"),
    [
        ((), "-/-/-"),
        ((tally(60, milliseconds=40), tally(39, milliseconds=60), tally(2, milliseconds=90)), "41/60/93 ms"),
        ((tally(60, milliseconds=40), tally(40, milliseconds=1500)), "41 ms/1.5 s/1.5 s"),
        ((tally(1, milliseconds=2000),), "2.0/2.0/2.0 s"),
    ],
)
def test_the_quantiles_of_a_colour(tallies: tuple[dict[str, Any], ...], words: str) -> None:
    assert judge.quantiles_text(judge.merge(tallies)) == words


def test_errors_of_the_new_release_end_the_canary_on_all_hosts_at_once() -> None:
    run = Run()
    run.round("canary")
    bad = {"web1": GOOD, "web2": GOOD, "web3": measured(tally(12, 8), tally(180))}
    assert run.round("canary", bad) == list(HOSTS)
    assert run.round("canary") == []
    (problem,) = fleets.problems(run.fleet)
    assert (problem.phase, problem.host, problem.code) == ("canary", "", fleets.CHECK_FAILED)
    assert problem.what == (
        "the new release answers with errors: 8 of 120 requests (6.67 %), live 0 of 1,080; all its errors in /"
    )
    assert fleets.phase_hosts(run.fleet, "switch") == []
    assert fleets.phase_hosts(run.fleet, "revert") == list(HOSTS)
    (call,) = fleets.prepare([{"verb": "revert"}], run.fleet, "web1", {})
    assert call["bad"]
    assert fleets.ending(run.fleet) == "reverted"
    assert ": fail: the new release" in fleets.round_line(run.fleet, "canary")


def test_a_colour_that_answers_nothing_is_found_in_the_first_round() -> None:
    run = Run()
    run.round("canary", measured(tally(0, none=3), tally(57)))
    assert "gives no answer: 9 of 9 requests (100 %), live 0 of 171" in fleets.problems(run.fleet)[0].what


def test_broken_pages_do_not_hide_behind_healthy_pings() -> None:
    run = Run()
    pings, new, live = tally(2000), tally(5, 5), tally(95)
    found = {"colours": {"green": {"/ping": pings, "/account": new}, "blue": {"/ping": tally(18000), "/account": live}}}
    run.round("canary", found)
    run.round("canary", found)
    assert any("in /account" in reason for reason in run.fleet.canary.reasons)


def test_a_slow_release_is_found_once_it_is_warm() -> None:
    run = Run()
    slow = measured(tally(20, milliseconds=90), tally(180))
    run.round("canary", slow)
    assert fleets.problems(run.fleet)[0].what == "the canary was cut short"  # were it to end here
    assert run.fleet.canary.verdict == judge.SO_FAR
    run.round("canary", slow)
    assert "is slower" in run.fleet.canary.reasons[0]


def test_too_few_requests_send_the_canary_back_and_blame_nobody() -> None:
    run = Run()
    assert run.canary(SILENCE) == 4
    (problem,) = fleets.problems(run.fleet)
    assert "inconclusive: too few requests: 0 of the new release, 50 wanted" in problem.what
    (call,) = fleets.prepare([{"verb": "revert"}], run.fleet, "web1", {})
    assert not call["bad"]
    assert fleets.phase_hosts(run.fleet, "revert") == list(HOSTS)
    assert "-e canary=25" in (text.outcome(run.fleet)["failure"] or {})["next"]


def test_an_inconclusive_canary_goes_on_if_that_was_chosen() -> None:
    run = Run(judge=JUDGE | {"inconclusive": "go_on"})
    assert run.canary(SILENCE) == 8
    run.switch()
    run.round("watch", GOOD, 20.0)
    run.phases["confirm"] = made.FINAL
    assert fleets.ending(run.fleet) == "live"
    assert any("the canary was inconclusive" in note for note in text.outcome(run.fleet)["notes"])


def test_a_log_that_cannot_be_read_is_inconclusive() -> None:
    run = Run()
    run.canary({"web1": GOOD, "web2": {"unreadable": "/var/log/nginx/shop.json.log: gone"}, "web3": GOOD})
    assert "no data: /var/log/nginx/shop.json.log: gone" in fleets.problems(run.fleet)[0].what


def test_a_broken_database_is_not_the_new_releases_fault() -> None:
    run = Run()
    run.canary(measured(tally(10, 10), tally(90, 90)))
    (problem,) = fleets.problems(run.fleet)
    assert "both colours fail alike: new 50 %, live 50 %" in problem.what
    assert problem.code != fleets.CHECK_FAILED


@pytest.mark.parametrize("lost", [{"unreachable": True}, made.failed("the timer has reverted it", 3)])
def test_a_host_that_is_lost_in_a_round_sends_all_back(lost: dict[str, Any]) -> None:
    run = Run()
    run.round("canary")
    run.round("canary", {"web1": GOOD, "web2": {"verdict": "fail"} | lost, "web3": GOOD})
    assert run.round("canary") == []
    assert fleets.phase_hosts(run.fleet, "switch") == []
    assert fleets.phase_hosts(run.fleet, "revert") == list(HOSTS)
    (call,) = fleets.prepare([{"verb": "revert"}], run.fleet, "web1", {})
    assert not call["bad"]
    assert fleets.round_line(run.fleet, "canary") == ""


def test_a_host_of_which_no_round_is_known_ends_the_canary() -> None:
    run = Run()
    run.canary()
    del run.phases["canary"]["web3"]
    assert [problem.host for problem in fleets.problems(run.fleet)] == ["web3"]
    assert fleets.phase_hosts(run.fleet, "switch") == []


def test_a_host_that_the_play_lost_between_two_rounds_ends_the_canary() -> None:
    run = Run()
    run.round("canary")
    old = run.phases["canary"]["web3"]
    run.round("canary")
    run.phases["canary"]["web3"] = old
    assert run.round("canary") == []
    assert [(problem.host, problem.what) for problem in fleets.problems(run.fleet)] == [("web3", "gave no answer")]
    assert fleets.phase_hosts(run.fleet, "revert") == list(HOSTS)


def test_hosts_that_take_their_turn_later_begin_the_same_step() -> None:
    """More hosts than Ansible's forks: the last ones see the answers of the first."""
    run = Run()
    for _ in range(4):
        run.round("canary")
    before = dict(run.phases["canary"])
    assert fleets.canary_position(run.fleet) == (1, True)
    run.round("canary")
    run.phases["canary"] |= {"web3": before["web3"]}
    assert fleets.canary_position(run.fleet) == (1, True)
    run.phases["canary"] |= {"web2": before["web2"]}
    assert fleets.canary_position(run.fleet) == (1, True)


def test_a_canary_that_ended_early_is_never_a_pass() -> None:
    run = Run()
    run.round("canary")
    assert fleets.phase_hosts(run.fleet, "switch") == []
    assert fleets.phase_hosts(run.fleet, "revert") == list(HOSTS)


def test_the_first_deploy_has_no_canary_and_says_so() -> None:
    run = Run(before=made.taken(made.status(None)))
    assert run.round("canary") == []
    assert fleets.phase_hosts(run.fleet, "switch") == list(HOSTS)
    run.switch()
    run.round("watch", GOOD, 20.0)
    run.phases["confirm"] = made.FINAL
    assert any("no canary: no live release" in note for note in text.outcome(run.fleet)["notes"])


def test_a_new_host_waits_for_the_switch() -> None:
    first = {host: made.taken(made.LIVE_A if host != "web3" else made.status(None)) for host in HOSTS}
    run = Run(before=first)
    assert run.round("canary") == ["web1", "web2"]
    run.canary()
    assert fleets.phase_hosts(run.fleet, "switch") == list(HOSTS)


def test_a_rollback_and_a_live_release_have_no_canary() -> None:
    assert fleets.canary_hosts(Run(verb="rollback").fleet) == []
    again = Run()
    again.phases["stage"] = made.staged(A)
    assert fleets.phase_hosts(again.fleet, "canary") == []
    assert fleets.release(Run().fleet) == B


def test_every_round_reads_on_and_renews_the_deadline() -> None:
    run = Run()
    steps = [
        {"verb": "route", "share": "canary", "ttl": 60, "only": "new_share"},
        {"verb": "extend", "ttl": 60, "only": "same_share"},
        {"verb": "smoke", "target": "idle", "checks": [], "during": "canary"},
        {"verb": "measure", "of": "canary"},
    ]
    first = fleets.prepare(steps, run.fleet, "web2", {})
    assert [call["verb"] for call in first] == ["route", "smoke", "measure"]
    assert (first[0]["share"], first[0]["release"], first[1]["during"]) == (5, B, 5.0)
    assert (first[2]["cursor"], first[2]["known"], "of" in first[2]) == (None, [], False)
    run.round("canary")
    second = fleets.prepare(steps, run.fleet, "web2", {})
    assert [call["verb"] for call in second] == ["extend", "smoke", "measure"]
    assert (second[2]["cursor"], second[2]["known"]) == ({"inode": 1, "offset": 2}, ["/"])


# the watch


def watched(found: dict[str, Any], before: dict[str, Any] | None = None) -> Run:
    """A deploy without a canary, after a watch of which every round was the same."""
    run = Run(canary=[])
    run.switch(before)
    for _ in range(4):
        run.round("watch", found)
    return run


def test_a_watch_that_visitors_do_not_suffer_from_confirms() -> None:
    run = watched(measured(tally(200), tally(0)))
    assert (run.fleet.watch.verdict, fleets.phase_hosts(run.fleet, "confirm")) == (judge.PASS, list(HOSTS))
    line = fleets.round_line(run.fleet, "watch")
    assert (
        line
        == "watch: 20 s, new 2,400 requests, 0 errors, p50/p95/p99 41/41/41 ms (before 1,200, 0, 41/41/41 ms): pass"
    )


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (measured(tally(190, 10), tally(0)), "answers with errors"),
        (measured(tally(200, milliseconds=200), tally(0)), "is slower"),
    ],
)
def test_a_watch_that_visitors_suffer_from_reverts(found: dict[str, Any], words: str) -> None:
    run = watched(found)
    assert words in fleets.problems(run.fleet)[0].what
    assert fleets.phase_hosts(run.fleet, "confirm") == []
    assert fleets.phase_hosts(run.fleet, "revert") == list(HOSTS)
    assert fleets.prepare([{"verb": "revert"}], run.fleet, "web1", {})[0]["bad"]


def test_a_quiet_site_confirms_as_unjudged() -> None:
    run = watched(SILENCE)
    assert fleets.phase_hosts(run.fleet, "confirm") == list(HOSTS)
    run.phases["confirm"] = made.FINAL
    assert "unjudged: too few requests: 0 of the new release, 50 wanted" in text.outcome(run.fleet)["notes"]
    (note,) = fleets.prepare([{"verb": "note"}], run.fleet, "web1", {})
    assert note["details"]["judged"].startswith("unjudged")


def test_errors_that_were_there_before_the_switch_revert_nothing() -> None:
    run = watched(measured(tally(180, 20), tally(0)), measured(tally(0), tally(900, 100)))
    assert run.fleet.watch.verdict == judge.INCONCLUSIVE
    assert fleets.phase_hosts(run.fleet, "confirm") == list(HOSTS)


def test_without_settings_nothing_is_judged() -> None:
    run = Run(canary=[], judge={})
    assert not fleets.judged(run.fleet)
    assert [
        call["verb"] for call in fleets.prepare([{"verb": "measure", "only": "judged"}], run.fleet, "web1", {})
    ] == []


# reverts in a row


@pytest.mark.parametrize(
    ("count", "asked", "refused"), [(1, {}, False), (2, {}, True), (2, {"after_reverts": True}, False)]
)
def test_after_two_reverts_in_a_row_a_deploy_needs_a_word(count: int, asked: dict[str, Any], refused: bool) -> None:
    first = {
        "web1": made.taken(made.LIVE_A | {"reverts": count}),
        "web2": made.taken(made.LIVE_A),
        "web3": made.taken(made.LIVE_A),
    }
    state = made.fleet({"preflight": first}, made.inputs(max_reverts=2, **asked))
    found = fleets.problems(state)
    assert bool(found) is refused
    assert not refused or (
        found[0].what == "the last 2 deploys were reverted" and "-e after_reverts=true" in found[0].todo
    )
    assert fleets.ending(state) == ("refused" if refused else "failed")


# what is asked for, and the report


def test_what_a_watch_means_with_and_without_a_canary() -> None:
    settings = {"rollout_watch": 30, "rollout_canary_watch": 60, "rollout_canary_steps": []}
    given: dict[str, Any] = {"canary": None, "watch": None}
    watching = bluegreen_inputs.watching
    assert watching(given, settings) == {"canary": [], "canary_watch": 0.0, "watch": 30.0}
    assert watching(given | {"watch": "7"}, settings)["watch"] == 7.0
    assert watching(given | {"canary": "5", "watch": "120"}, settings) == {
        "canary": [5],
        "canary_watch": 120.0,
        "watch": 30.0,
    }
    usual = settings | {"rollout_canary_steps": [5, 25]}
    assert watching(given, usual) == {"canary": [5, 25], "canary_watch": 60.0, "watch": 30.0}
    assert watching(given | {"canary": "0"}, usual)["canary"] == []
    with pytest.raises(Refused, match="too short for a canary"):
        watching(given | {"canary": 5, "watch": 2}, settings)
    with pytest.raises(Refused, match=r"watch=0\.5 is too short"):
        watching(given | {"watch": "0.5"}, settings)
    assert watching(given | {"watch": "1"}, settings)["watch"] == fleets.SHORTEST
    assert watching(given | {"watch": 0}, settings)["watch"] == 0.0


@pytest.mark.parametrize(
    ("asked", "judged"),
    [
        ({"watch": 1.0}, True),
        ({"watch": 0.0}, False),
        ({"watch": 0.0, "canary": [5], "canary_watch": 20.0}, True),
        ({"watch": 1.0, "judge": None}, False),
    ],
)
def test_where_visitors_are_judged_the_log_must_be_readable_before_anything_changes(
    asked: dict[str, Any], judged: bool
) -> None:
    steps = yaml.safe_load((ROOT / "roles/preflight/tasks/main.yml").read_text())[0]["bluegreen"]["steps"]
    state = made.fleet({}, made.inputs(**{"canary": [], "judge": JUDGE, **asked}))
    calls = fleets.prepare(steps, state, "web1", {})
    assert [call["strict"] for call in calls if call["verb"] == "measure"] == [True] * judged


def test_the_limits_of_a_run() -> None:
    found = bluegreen_inputs.judging({"inconclusive": "go_on"}, {"judge_max_p95": "1.5", "judge_min_requests": "20"})
    assert found == {"max_p95": 1.5, "min_requests": 20, "groups": [], "inconclusive": "go_on"}
    assert judge.limits(found) == judge.Limits(max_p95=1.5, min_requests=20)


def test_the_report_has_phases_rounds_and_verdicts() -> None:
    run = Run(deploy_id="d1", report="/tmp/r")
    run.canary()
    run.switch()
    run.round("watch", GOOD, 20.0)
    run.phases["confirm"] = made.FINAL | {"began": 5.0, "ended": 6.5}
    found = json.loads(text.as_json(report.build(run.fleet, text.outcome(run.fleet))))
    assert (found["ok"], found["ending"], found["sha"]) == (True, "live", made.SHA[B])
    assert [(line["phase"], line["share"]) for line in found["rounds"]] == [("canary", 5)] * 4 + [
        ("canary", 25)
    ] * 4 + [("watch", 100)]
    first = found["rounds"][0]
    assert (first["new"]["requests"], first["live"]["requests"], first["new"]["p99"]) == (
        60,
        540,
        pytest.approx(0.04, rel=0.06),
    )
    assert found["phases"] == [{"name": "confirm", "began": 5.0, "ended": 6.5, "hosts": dict.fromkeys(HOSTS, "pass")}]
    assert {phase: said["verdict"] for phase, said in found["verdicts"].items()} == {"canary": "pass", "watch": "pass"}
    assert found["before"]["requests"] == 1200


def test_the_report_keeps_the_verdict_of_every_round() -> None:
    run = Run(judge=JUDGE | {"inconclusive": "go_on"})
    few = measured(tally(4), tally(36))
    run.canary(few)
    run.switch()
    for _ in range(2):
        run.round("watch", measured(tally(190, 10), tally(0)))
    found = [(one["share"], one["verdict"], one["reasons"]) for one in report.build(run.fleet, {})["rounds"]]
    lacking = [[f"too few requests: {12 * rounds} of the new release, 50 wanted"] for rounds in range(1, 5)]
    step = [(judge.SO_FAR, lacking[place]) for place in range(3)] + [(judge.INCONCLUSIVE, lacking[3])]
    assert found[:8] == [(5, *one) for one in step] + [(25, *one) for one in step]
    share, verdict, reasons = found[8]
    assert (share, verdict, len(found)) == (100, judge.FAIL, 9)
    assert "answers with errors" in reasons[0]


def test_a_round_in_which_a_host_was_lost_has_no_verdict() -> None:
    run = Run()
    run.round("canary")
    run.round("canary")
    run.round("canary", {"web1": GOOD, "web2": {"verdict": "fail", "unreachable": True}, "web3": GOOD})
    assert [one["verdict"] for one in report.build(run.fleet, {})["rounds"]] == [judge.SO_FAR, judge.SO_FAR, None]


@pytest.mark.parametrize(
    ("inputs", "where"),
    [
        ({}, ""),
        ({"report": "/a"}, "/a/report.json"),
        ({"report_dir": "/b", "deploy_id": "d1"}, "/b/d1/report.json"),
        ({"report": "/a", "check": True}, ""),
    ],
)
def test_where_the_report_goes(inputs: dict[str, Any], where: str) -> None:
    assert report.path(inputs) == where


def test_the_plan_names_the_steps() -> None:
    state = made.fleet({"stage": made.staged()}, made.inputs(check=True, canary=[5, 25], canary_watch=60.0))
    assert "  canary: 5 %, 25 % of the visitors, judged for 60 s each" in text.plan_lines(text.plan(state))
    first = made.fleet({}, made.inputs(check=True, canary=[5], canary_watch=60.0), made.status(None))
    assert not any("canary" in line for line in text.plan_lines(text.plan(first)))


def test_a_status_shows_a_canary() -> None:
    pending = {"sha": made.SHA[B], "share": 5, "expires_in": 41.0}
    remarks = text.status_remarks(made.LIVE_A | {"host": "web1", "pending": pending})
    assert remarks == ["  web1: a canary of 5 % to bbbbbbbbbbbb is not confirmed; it goes back in 41 s"]
