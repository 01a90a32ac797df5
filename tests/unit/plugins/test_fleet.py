"""What the fleet may do next, where a rollback goes, and how a run ended."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.module_utils import bluegreen_fleet as fleets
from plugins.module_utils.bluegreen_fleet import Fleet
from plugins.module_utils.bluegreen_inputs import Refused

HOSTS = ("web1", "web2", "web3")
A, B, C = (letter * 12 + "-" + letter * 8 for letter in "abc")
SHA = {identity: identity[0] * 40 for identity in (A, B, C)}


def record(identity: str, fence: int, state: str = "confirmed", complete: bool = True) -> dict[str, Any]:
    return {
        "id": identity,
        "sha": SHA[identity],
        "state": state,
        "confirmed_fence": fence,
        "complete": complete,
        "artifact": f"shop-{SHA[identity]}-11111111",
    }


def status(live: str | None, *records: dict[str, Any], idle: str | None = None, **more: Any) -> dict[str, Any]:
    fences = {item["id"]: item["confirmed_fence"] for item in records}
    return {
        "live": {"release": live, "sha": SHA[live], "colour": "blue", "fence": fences.get(live, 0)} if live else None,
        "idle": {"colour": "green", "release": idle, "sha": SHA.get(idle or ""), "running": bool(idle)},
        "releases": list(records),
        "pending": None,
        "drift": [],
    } | more


def inputs(verb: str = "deploy", **more: Any) -> dict[str, Any]:
    artifact = {"stem": f"shop-{SHA[B]}-11111111", "bytes": 5 << 20, "python": "3.13", "arch": "x86_64"}
    return {
        "verb": verb,
        "app": "shop",
        "deploy_id": "20260101T000000-abcdef",
        "hosts": list(HOSTS),
        "migration_host": "web1",
        "sha": SHA[B],
        "artifact": artifact,
        "watch": 5.0,
        "min_free_mb": 100,
        "proven": True,
    } | more


def taken(status_: dict[str, Any], **machine: Any) -> dict[str, Any]:
    about = {"pythons": ["3.13"], "arch": "x86_64", "free_mb": 1000, "free_inodes_pct": 50} | machine
    lease = {"deploy_id": "20260101T000000-abcdef"}
    return answer("lease", {"lease": lease, "fence": 7, "status": status_, "machine": about})


def answer(step: str = "x", found: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"verdict": "pass", "results": {step: found or {}}, "error": None} | more


def failed(what: str = "it broke", code: int = 4, **more: Any) -> dict[str, Any]:
    error = {"what": what, "why": "a reason", "next": "", "code": code}
    return {"verdict": "fail", "results": {}, "error": error} | more


LIVE_A = status(A, record(A, 5))


def fleet(phases: dict[str, Any], asked: dict[str, Any] | None = None, before: dict[str, Any] | None = None) -> Fleet:
    """`phases`: phase → one answer for all hosts, or host → answer. Preflight is passed unless given."""
    phases = {"preflight": taken(before or LIVE_A)} | phases
    variables: dict[str, dict[str, Any]] = {host: {} for host in HOSTS}
    for phase, found in phases.items():
        for host in HOSTS:
            mine = found if "verdict" in found else found.get(host)
            if mine is not None:
                variables[host][f"__{phase}_result"] = mine
    return fleets.build(asked or inputs(), HOSTS, variables)


def staged(identity: str = B) -> dict[str, Any]:
    return {"verdict": "pass", "results": {"stage": {"have": True}, "configure": {"release": identity}}, "error": None}


UP_TO_SMOKE: dict[str, Any] = {
    "stage": staged(),
    "plan_migrations": {"web1": answer("migrate", {"pending": []})},
    "start": answer("start", {"colour": "green"}),
    "smoke": answer("smoke"),
}
SWITCHED: dict[str, Any] = UP_TO_SMOKE | {"switch": answer("route", {"colour": "green"})}
FINAL = answer("confirm", {"live": {"release": B}})
CONFIRMED: dict[str, Any] = SWITCHED | {"watch": answer(), "confirm": FINAL}


def next_phases(state: Fleet) -> dict[str, list[str]]:
    """Phase → the hosts it would run on now."""
    return {phase: hosts for phase in fleets.PHASES if (hosts := fleets.phase_hosts(state, phase))}


def test_a_phase_follows_when_every_host_passed() -> None:
    assert fleets.phase_hosts(fleet(UP_TO_SMOKE), "switch") == list(HOSTS)


@pytest.mark.parametrize("phase", ["stage", "start", "smoke"])
@pytest.mark.parametrize("bad", [failed(), failed(code=0, unreachable=True), {"unreachable": True, "msg": "no route"}])
def test_one_failed_host_stops_the_switch_everywhere(phase: str, bad: dict[str, Any]) -> None:
    good = UP_TO_SMOKE[phase]
    state = fleet(UP_TO_SMOKE | {phase: {"web1": good, "web2": bad, "web3": good}})
    assert not fleets.phase_hosts(state, "switch")
    assert not fleets.phase_hosts(state, "revert")
    assert fleets.phase_hosts(state, "settle") == list(HOSTS)
    assert fleets.ending(state) == "failed"


def test_a_host_that_the_play_lost_counts_as_failed() -> None:
    state = fleet(UP_TO_SMOKE | {"smoke": {"web1": answer(), "web2": answer()}})
    assert [(problem.host, problem.phase) for problem in fleets.problems(state)] == [("web3", "smoke")]
    assert not fleets.phase_hosts(state, "switch")


def test_a_failed_switch_on_one_host_sends_all_back() -> None:
    state = fleet(UP_TO_SMOKE | {"switch": {"web1": answer(), "web2": failed(), "web3": answer()}})
    assert not fleets.phase_hosts(state, "watch")
    assert not fleets.phase_hosts(state, "confirm")
    assert fleets.phase_hosts(state, "revert") == list(HOSTS)
    assert fleets.ending(state) == "reverted"


def test_a_run_that_was_refused_everywhere_has_switched_nothing() -> None:
    """A controller that was frozen and comes back: its generation is an old one."""
    stale = fleet(UP_TO_SMOKE | {"switch": failed("generation 7 is older than 8", code=6)})
    assert fleets.phase_hosts(stale, "revert") == []
    assert fleets.ending(stale) == "failed"
    half = fleet(UP_TO_SMOKE | {"switch": {"web1": answer("route"), "web2": failed(code=6), "web3": failed(code=1)}})
    assert fleets.moved(half) == ["web1", "web3"]
    assert fleets.phase_hosts(half, "revert") == list(HOSTS)


def test_a_confirmation_that_one_host_missed_is_final_all_the_same() -> None:
    state = fleet(CONFIRMED | {"confirm": {"web1": FINAL, "web2": {"unreachable": True}, "web3": FINAL}})
    assert fleets.phase_hosts(state, "revert") == []
    assert fleets.phase_hosts(state, "settle") == ["web2"]
    assert (fleets.ending(state), fleets.unfinished(state)) == ("live", ["web2"])


def test_a_confirmation_of_which_nothing_was_heard_is_asked_for_once_more() -> None:
    lost = CONFIRMED | {"confirm": {host: {"unreachable": True} for host in HOSTS}}
    assert fleets.phase_hosts(fleet(lost), "revert") == list(HOSTS)
    assert fleets.ending(fleet(lost | {"revert": answer("revert", {"reverted": True})})) == "reverted"
    decided = answer("revert", {"reverted": False, "decided": "COMMIT"})
    assert fleets.ending(fleet(lost | {"revert": decided})) == "live"


def test_nothing_goes_back_after_a_good_deploy() -> None:
    state = fleet(CONFIRMED)
    assert fleets.phase_hosts(state, "revert") == []
    assert fleets.ending(state) == "live"


def test_a_failure_after_the_confirmation_does_not_change_the_outcome() -> None:
    late = failed("a worker died") | {"results": FINAL["results"]}
    state = fleet(CONFIRMED | {"confirm": late})
    assert (fleets.ending(state), fleets.phase_hosts(state, "revert")) == ("live", [])
    assert fleets.phase_hosts(state, "settle") == list(HOSTS)
    assert fleets.ending(fleet(CONFIRMED | {"confirm": late, "settle": failed()})) == "live"


def test_the_lease_is_released_only_where_it_was_taken() -> None:
    refused = failed("somebody is at work", code=5)
    state = fleet({"preflight": {"web1": refused, "web2": taken(LIVE_A), "web3": taken(LIVE_A)}})
    assert next_phases(state) == {"preflight": list(HOSTS), "settle": ["web2", "web3"]}


def test_migrations_run_on_the_migration_host_only_and_only_if_pending() -> None:
    planned = {"stage": staged(), "plan_migrations": {"web1": answer("migrate", {"pending": ["shop.0002"]})}}
    assert fleets.phase_hosts(fleet({"stage": staged()}), "plan_migrations") == ["web1"]
    assert fleets.phase_hosts(fleet(planned), "migrate") == ["web1"]
    assert fleets.phase_hosts(fleet(UP_TO_SMOKE), "migrate") == []


def test_the_live_release_again_is_nothing_to_do() -> None:
    state = fleet({"stage": staged(A)})
    assert next_phases(state) == {"preflight": list(HOSTS), "stage": list(HOSTS), "settle": list(HOSTS)}
    assert fleets.ending(state) == "nothing to do"


def test_a_host_that_serves_something_else_makes_the_deploy_go_on() -> None:
    mixed = {"web1": taken(LIVE_A), "web2": taken(status(B, record(A, 5), record(B, 6))), "web3": taken(LIVE_A)}
    state = fleet({"preflight": mixed, "stage": staged(A)})
    assert fleets.phase_hosts(state, "start") == list(HOSTS)


def test_releases_that_differ_between_hosts_end_the_deploy() -> None:
    state = fleet({"stage": {"web1": staged(B), "web2": staged(C), "web3": staged(B)}})
    assert not fleets.phase_hosts(state, "start")


def test_check_mode_changes_nothing() -> None:
    state = fleet({"stage": answer("stage", {"have": False})}, inputs(check=True))
    assert next_phases(state) == {"preflight": list(HOSTS), "stage": list(HOSTS)}
    assert fleets.ending(state) == "planned"


def test_without_a_watch_confirm_follows_the_switch() -> None:
    state = fleet(SWITCHED, inputs(watch=0.0))
    assert fleets.phase_hosts(state, "watch") == []
    assert fleets.phase_hosts(state, "confirm") == list(HOSTS)


def watched(seconds: float, **more: Any) -> dict[str, Any]:
    return answer("smoke") | {"watched": seconds} | more


def test_the_watch_goes_on_in_rounds_until_its_time_is_up() -> None:
    begun = {"web1": watched(2.0), "web2": watched(2.1), "web3": watched(2.0)}
    assert fleets.phase_hosts(fleet(SWITCHED | {"watch": begun}), "watch") == list(HOSTS)
    assert fleets.phase_hosts(fleet(SWITCHED | {"watch": {host: watched(4.9) for host in HOSTS}}), "watch") == []


@pytest.mark.parametrize("bad", [failed(), {"unreachable": True}])
def test_the_watch_ends_with_the_round_in_which_a_host_fails(bad: dict[str, Any]) -> None:
    state = fleet(SWITCHED | {"watch": {"web1": watched(1.0), "web2": bad, "web3": watched(1.0)}})
    assert fleets.phase_hosts(state, "watch") == []
    assert fleets.phase_hosts(state, "confirm") == []
    assert fleets.phase_hosts(state, "revert") == list(HOSTS)


@given(watch=st.floats(1, 3600), done=st.floats(0, 1), ttl=st.floats(2, 600))
def test_a_round_is_shorter_than_the_time_to_live_and_than_what_is_left(watch: float, done: float, ttl: float) -> None:
    seconds = fleets.round_seconds(watch, watch * done, ttl)
    assert 0 <= seconds <= watch * (1 - done) + 1e-6
    assert seconds <= max(1.0, ttl / 2)


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ({"arch": "aarch64"}, "built for x86_64"),
        ({"pythons": ["3.11"]}, "needs Python 3.13"),
        ({"free_mb": 104}, "nearly full"),
        ({"free_inodes_pct": 1}, "inodes"),
    ],
)
def test_an_unfit_machine_is_named(machine: dict[str, Any], words: str) -> None:
    hosts = {"web1": taken(LIVE_A), "web2": taken(LIVE_A, **machine), "web3": taken(LIVE_A)}
    state = fleet({"preflight": hosts})
    (problem,) = fleets.problems(state)
    assert (problem.host, words in problem.what) == ("web2", True)
    assert fleets.ending(state) == "refused"


def test_a_clock_that_is_wrong_and_a_pending_switch_are_refused() -> None:
    wrong = taken(LIVE_A) | {"clock_skew": -90.0}
    assert "90 s behind" in fleets.problems(fleet({"preflight": wrong}))[0].what
    pending = taken(LIVE_A | {"pending": {"sha": SHA[C], "expires_in": 12.0}})
    assert "12 s" in fleets.problems(fleet({"preflight": pending}))[0].why


def test_a_bad_commit_needs_its_name() -> None:
    marked = status(A, record(A, 5), record(B, 0, "bad"))
    assert "bad" in fleets.problems(fleet({}, before=marked))[0].what
    assert fleets.problems(fleet({}, inputs(retry_bad=True), marked)) == []


def test_a_commit_that_was_confirmed_is_bad_only_with_the_configuration_that_was_reverted() -> None:
    other = f"{B[:-8]}00000000"
    confirmed = status(A, record(A, 5), record(B, 4) | {"id": other}, record(B, 0, "bad"))
    assert fleets.problems(fleet({}, before=confirmed)) == [], "its configuration is not known yet"
    assert fleets.problems(fleet({"stage": staged(other)}, before=confirmed)) == []
    state = fleet({"stage": staged(B)}, before=confirmed)
    (problem,) = fleets.problems(state)
    assert (problem.phase, problem.what) == ("stage", f"{SHA[B][:12]} is marked bad with this configuration")
    assert "-e retry_bad=true" in problem.todo
    assert fleets.phase_hosts(state, "plan_migrations") == []
    assert fleets.ending(state) == "failed"
    assert fleets.problems(fleet({"stage": staged(B)}, inputs(retry_bad=True), confirmed)) == []


def test_the_fence_is_higher_than_any_host_has_seen() -> None:
    assert fleets.fence(fleet({})) == 8
    assert fleets.fence(fleet({"preflight": {"web1": taken(LIVE_A)}})) is None


def with_lease(**more: Any) -> dict[str, Any]:
    found = taken(LIVE_A)
    found["results"]["lease"] = dict(found["results"]["lease"]) | more
    return found


def test_the_fence_is_at_least_the_generation_that_the_register_granted() -> None:
    granted = {"web1": with_lease(generation=9), "web2": with_lease(generation=12), "web3": with_lease(generation=12)}
    assert fleets.fence(fleet({"preflight": granted})) == 12


def test_hosts_with_registers_of_their_own_are_refused() -> None:
    own = {"web1": with_lease(register="a"), "web2": with_lease(register="b"), "web3": with_lease(register="a")}
    (problem,) = fleets.problems(fleet({"preflight": own}))
    assert "do not share one register" in problem.what
    assert fleets.ending(fleet({"preflight": own})) == "refused"


def test_a_lease_that_was_lost_in_the_preflight_is_noticed() -> None:
    first, later = {"since": "2026-11-21T03:00:00Z"}, {"since": "2026-11-21T03:05:00Z"}
    hosts = {host: with_lease(register="a", lease=first if host == "web1" else later) for host in HOSTS}
    (problem,) = fleets.problems(fleet({"preflight": hosts}))
    assert "taken again" in problem.what


# rollback

HISTORY = (record(C, 7), record(B, 6), record(A, 5))


def rollback(before: dict[str, Any], to: str | None = None, **phases: Any) -> Fleet:
    return fleet(phases, inputs("rollback", to=to, watch=0.0), before)


def test_a_warm_rollback_is_three_calls_on_each_host() -> None:
    state = rollback(status(C, *HISTORY, idle=B), switch=answer("route"))
    assert fleets.release(state) == B
    assert {phase for phase in next_phases(state) if phase != "settle"} == {"preflight", "switch", "confirm"}
    done = rollback(status(C, *HISTORY, idle=B), switch=answer("route"), confirm=FINAL)
    assert fleets.phase_hosts(done, "settle") == []
    assert fleets.ending(done) == "rolled back"


def reverse(before: dict[str, Any], to: str | None = None, **phases: Any) -> Fleet:
    options = {"databases": {"default": {}}, "patience": 120.0}
    return fleet(phases, inputs("rollback", to=to, watch=0.0, schema="reverse", migrations=options), before)


def planned_undo(when: str, *names: str) -> dict[str, Any]:
    return answer("undo", {"undoes": list(names), "when": when, "lines": []})


UNDOING = ("plan_undo", "undo_first", "undo")


def test_only_a_rollback_that_is_asked_to_undoes_migrations() -> None:
    plain = rollback(status(C, *HISTORY, idle=B), switch=answer("route"))
    assert not set(UNDOING) & set(next_phases(plain))
    assert not set(UNDOING) & set(next_phases(fleet({})))


def test_the_schema_follows_once_no_host_needs_it() -> None:
    warm = status(C, *HISTORY, idle=B)
    plan = {"web1": planned_undo("after", "shop.0002_note")}
    begun = reverse(warm)
    assert next_phases(begun)["plan_undo"] == ["web1"]
    switched = reverse(warm, plan_undo=plan, switch=answer("route"))
    assert not {"undo_first", "undo"} & set(next_phases(switched))
    assert fleets.holds(switched, "undoes", "web2")
    assert not fleets.holds(switched, "ends", "web2"), "the lease stays with this run"
    call = fleets.prepare([{"verb": "processes", "action": "settle"}], switched, "web2", {})
    assert call[0]["wait"], "its background processes end before what they need goes"
    one_late = reverse(warm, plan_undo=plan, switch=answer("route"), confirm={"web1": FINAL, "web2": FINAL})
    assert fleets.phase_hosts(one_late, "undo") == []
    assert fleets.ending(one_late) == "half done"
    final = reverse(warm, plan_undo=plan, switch=answer("route"), confirm=FINAL)
    assert fleets.phase_hosts(final, "undo") == ["web1"]
    assert fleets.prepare([{"verb": "undo"}], final, "web1", {}) == [
        {"verb": "undo", "to": B, "databases": {"default": {}}, "patience": 120.0}
    ]
    told = answer("undo", {"undone": ["shop.0002_note"], "snapshot": "s"})
    done = reverse(warm, plan_undo=plan, switch=answer("route"), confirm=FINAL, undo={"web1": told})
    assert fleets.ending(done) == "rolled back"
    assert fleets.phase_hosts(done, "settle") == list(HOSTS), "which gives the lease back"
    broken = reverse(warm, plan_undo=plan, switch=answer("route"), confirm=FINAL, undo={"web1": failed()})
    assert (fleets.ending(broken), fleets.phase_hosts(broken, "revert")) == ("half done", [])


def test_what_the_older_release_lacks_comes_back_before_visitors_move() -> None:
    warm = status(C, *HISTORY, idle=B)
    plan = {"web1": planned_undo("before", "shop.0002_note")}
    state = reverse(warm, plan_undo=plan)
    assert next_phases(state)["undo_first"] == ["web1"]
    broken = reverse(warm, plan_undo=plan, undo_first={"web1": failed()})
    assert fleets.phase_hosts(broken, "switch") == []
    assert fleets.ending(broken) == "failed"
    done = reverse(warm, plan_undo=plan, undo_first={"web1": answer("undo", {"undone": ["shop.0002_note"]})})
    assert fleets.phase_hosts(done, "switch") == list(HOSTS)
    assert fleets.phase_hosts(reverse(warm, plan_undo={"web1": failed()}), "switch") == [], "all or nothing"


def test_a_schema_that_did_not_follow_is_asked_for_again_by_the_live_release() -> None:
    there = status(B, record(C, 7, "rolled_back"), record(B, 8), record(A, 5), idle=C)
    again = reverse(there, to=SHA[B][:12])
    assert next_phases(again) == {"preflight": list(HOSTS), "plan_undo": ["web1"], "settle": list(HOSTS)}
    plan = {"web1": planned_undo("after", "shop.0002_note")}
    state = reverse(there, to=SHA[B][:12], plan_undo=plan)
    assert {"switch", "confirm", "start"} & set(next_phases(state)) == set()
    assert fleets.phase_hosts(state, "undo") == ["web1"]
    done = reverse(there, to=SHA[B][:12], plan_undo=plan, undo={"web1": answer("undo", {"undone": ["shop.0002_note"]})})
    assert fleets.ending(done) == "undone"
    with pytest.raises(Refused, match="already live"):
        _ = rollback(there, to=SHA[B][:12]).target


def test_the_target_of_a_reverse_need_not_fit_yet() -> None:
    unfit = status(C, *HISTORY, idle=B)
    gone = taken(unfit)
    gone["results"]["fits"] = {"fits": {B: ["default: public.t.c: it is gone"]}, "why": ""}
    assert fleets.problems(fleet({"preflight": gone}, inputs("rollback", to=None, watch=0.0)))
    asked = inputs("rollback", to=None, watch=0.0, schema="reverse")
    assert fleets.problems(fleet({"preflight": gone}, asked)) == []


def test_a_watched_rollback_starts_the_background_processes_before_the_switch() -> None:
    warm = status(C, *HISTORY, idle=B)
    watched_ = fleet({}, inputs("rollback", to=None, watch=10.0), warm)
    assert fleets.phase_hosts(watched_, "start") == list(HOSTS)
    assert fleets.phase_hosts(rollback(warm), "start") == []


def test_a_rollback_never_goes_forward() -> None:
    """Somebody rolled one release back on the hosts themselves: what came after the live one is no way back."""
    state = rollback(status(B, *HISTORY, idle=C))
    assert fleets.release(state) == A


def test_a_cold_target_is_started_and_checked_first() -> None:
    state = rollback(status(C, *HISTORY))
    assert fleets.phase_hosts(state, "start") == list(HOSTS)
    assert fleets.phase_hosts(state, "smoke") == list(HOSTS)
    assert fleets.phase_hosts(state, "stage") == []


@pytest.mark.parametrize(
    ("before", "to", "words"),
    [
        (status(None), None, "nothing to roll back from"),
        (status(A, record(A, 5)), None, "nothing to roll back to"),
        (status(C, *HISTORY), "cccccc", "already live"),
        (status(C, *HISTORY), "dddddd", "not possible"),
        (status(C, record(C, 7), record(B, 6, "bad")), "bbbbbb", "not possible"),
        (status(C, record(C, 7), record(B, 6, complete=False)), None, "nothing to roll back to"),
    ],
)
def test_a_rollback_without_a_target_is_refused(before: dict[str, Any], to: str | None, words: str) -> None:
    state = rollback(before, to)
    assert words in fleets.problems(state)[0].what
    assert fleets.phase_hosts(state, "switch") == []
    assert fleets.ending(state) == "refused"


def test_a_target_must_be_good_on_every_host() -> None:
    statuses = {
        "web1": status(C, *HISTORY),
        "web2": status(C, record(C, 7), record(B, 6, "rolled_back"), record(A, 5)),
        "web3": status(C, record(C, 7), record(A, 5)),
    }
    assert fleets.choose_target(statuses, None)["release"] == A
    with pytest.raises(Refused, match="not possible"):
        fleets.choose_target(statuses, "bbbbbb")


def test_where_hosts_differ_the_newest_counts_as_live() -> None:
    statuses = {"web1": status(C, *HISTORY), "web2": status(B, *HISTORY), "web3": status(C, *HISTORY)}
    assert fleets.choose_target(statuses, None)["release"] == B


STATES = st.sampled_from(["staged", "confirmed", "bad", "rolled_back"])
FENCES = st.permutations([5, 6, 7])


@st.composite
def any_fleet(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Hosts with any history; the order of confirmations is the same everywhere."""
    order = dict(zip((A, B, C), draw(FENCES), strict=True))
    found = {}
    for host in HOSTS:
        records = [
            record(identity, order[identity], draw(STATES), draw(st.booleans()))
            for identity in draw(st.lists(st.sampled_from([A, B, C]), unique=True, min_size=1))
        ]
        live = draw(st.sampled_from([item["id"] for item in records]))
        found[host] = status(live, *records)
    return found


@given(any_fleet())
def test_a_rollback_never_goes_where_it_must_not(statuses: dict[str, dict[str, Any]]) -> None:
    try:
        target = fleets.choose_target(statuses, None)["release"]
    except Refused:
        assert not fleets.candidates(statuses)
        return
    order = fleets.order_of(statuses)
    newest = max(order[found["live"]["release"]] for found in statuses.values())
    assert order[target] < newest
    for found in statuses.values():
        (item,) = [item for item in found["releases"] if item["id"] == target]
        assert item["state"] == "confirmed"
        assert item["complete"]
    better = [other for other in fleets.candidates(statuses) if order[other] > order[target]]
    assert better == []


@given(any_fleet(), st.permutations(HOSTS))
def test_the_target_does_not_depend_on_the_order_of_hosts(
    statuses: dict[str, dict[str, Any]], order: tuple[str, ...]
) -> None:
    def choose(hosts: tuple[str, ...]) -> str:
        try:
            return str(fleets.choose_target({host: statuses[host] for host in hosts}, None)["release"])
        except Refused as refusal:
            return refusal.what

    assert choose(HOSTS) == choose(tuple(order))


VERDICTS = st.sampled_from(["pass", "fail", "lost"])
LATE = ("switch", "watch", "confirm")


@given(st.lists(st.tuples(VERDICTS, VERDICTS, VERDICTS), min_size=3, max_size=3))
def test_after_a_switch_the_fleet_is_confirmed_or_sent_back(rows: list[tuple[str, str, str]]) -> None:
    """Whatever the hosts answer, in order: never neither, never both."""
    phases: dict[str, Any] = dict(UP_TO_SMOKE)
    for phase, row in zip(LATE, rows, strict=True):
        if fleets.phase_hosts(fleet(phases), phase):
            made = {"pass": FINAL if phase == "confirm" else answer(), "fail": failed(), "lost": None}
            phases[phase] = {host: made[verdict] for host, verdict in zip(HOSTS, row, strict=True)}
    state = fleet(phases)
    switched = any(phases.get("switch", {}).values())
    back = fleets.phase_hosts(state, "revert")
    assert (fleets.ending(state) == "live") == fleets.committed(state)
    assert back == ([] if fleets.committed(state) or not switched else list(HOSTS))


# steps


def prepare(state: Fleet, host: str, *steps: dict[str, Any], **given_: Any) -> list[dict[str, Any]]:
    return fleets.prepare(steps, state, host, given_)


def test_a_batch_uses_the_release_it_makes() -> None:
    calls = prepare(fleet({}), "web1", {"verb": "configure"}, {"verb": "check"}, config={"env": {}})
    assert calls[1]["release"] == {"from": "configure", "key": "release"}


def test_later_phases_name_the_release_all_hosts_made() -> None:
    (call,) = prepare(fleet({"stage": staged()}), "web2", {"verb": "route", "share": 100, "ttl": 3})
    assert (call["release"], call["kind"], call["fresh"]) == (B, "deploy", False)
    assert call["ttl"] == 3.0  # the watch renews it


def test_a_session_goes_to_the_hosts_that_did_not_sign_in() -> None:
    step = {"verb": "smoke", "target": "live", "session": "shared"}
    state = fleet({"stage": staged()})
    assert [prepare(state, host, dict(step), session={"s": "1"})[0]["session"] for host in HOSTS[:2]] == [
        None,
        {"s": "1"},
    ]


def test_a_revert_blames_the_release_only_for_what_it_did() -> None:
    broken = fleet(UP_TO_SMOKE | {"switch": {"web1": answer(), "web2": failed(), "web3": answer()}})
    lost = fleet(UP_TO_SMOKE | {"switch": {"web1": answer(), "web2": {"unreachable": True}, "web3": answer()}})
    assert [prepare(state, "web1", {"verb": "revert"})[0]["bad"] for state in (broken, lost)] == [True, False]


def test_steps_with_a_condition() -> None:
    steps = [{"verb": "processes", "only": "serving"}, {"verb": "prune", "only": "deploy"}, {"verb": "note"}]
    assert [call["verb"] for call in prepare(fleet(UP_TO_SMOKE), "web1", *steps)] == ["prune", "note"]
    assert [call["verb"] for call in prepare(rollback(LIVE_A), "web1", *steps)] == ["note"]
    assert [call["verb"] for call in prepare(fleet(CONFIRMED), "web1", *steps)] == ["processes", "prune", "note"]
    with pytest.raises(ValueError, match="not a condition"):
        fleets.holds(fleet({}), "sometimes", "web1")


def test_the_live_release_of_a_host_that_serves_nothing_is_not_checked() -> None:
    assert fleets.holds(fleet({}), "had_live", "web1")
    assert not fleets.holds(fleet({}, before=LIVE_A | {"outdated": True}), "had_live", "web1")
    assert not fleets.holds(fleet({}, before=status(None)), "had_live", "web1")


def test_an_unknown_phase_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="not a phase"):
        fleets.runs(fleet({}), "holiday", "web1")


def test_a_fleet_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        fleet({}).hosts = ()  # type: ignore[misc]


def test_a_plan_asks_the_release_that_is_there_from_before() -> None:
    here = status(A, record(A, 5), record(B, 0, "staged"))
    state = fleet({"stage": answer("stage", {"have": True})}, inputs(check=True), here)
    assert fleets.release(state) == B
    assert fleets.phase_hosts(state, "plan_migrations") == ["web1"]
    assert [call["verb"] for call in prepare(state, "web1", {"verb": "check", "only": "for_real"})] == []


def test_a_plan_with_another_configuration_asks_the_release_that_is_there() -> None:
    here = status(A, record(A, 5), record(B, 0, "staged"))
    made = answer("configure", {"release": "4" * 12 + "-00000000", "changed": True})
    state = fleet({"stage": made}, inputs(check=True), here)
    assert fleets.phase_hosts(state, "plan_migrations") == ["web1"]
    (call,) = prepare(state, "web1", {"verb": "migrate", "plan": True})
    assert call["release"] == B


def test_what_was_started_in_vain_is_given_up() -> None:
    step = {"verb": "abandon", "only": "failed"}
    broken = fleet(UP_TO_SMOKE | {"smoke": {"web1": failed(), "web2": answer(), "web3": answer()}})
    assert prepare(broken, "web1", step) == [{"verb": "abandon"}]
    assert prepare(fleet(CONFIRMED), "web1", step) == []


# migrations


def test_a_target_that_the_schema_has_left_behind_is_refused() -> None:
    before = status(B, record(B, 7), record(A, 5))
    asked = inputs(verb="rollback", to=None)
    gone = {"fits": {"fits": {A: ["default: shop_order.note: it is gone", "more"]}, "why": ""}}
    told = taken(before)
    mine = told | {"results": told["results"] | gone}
    state = fleet({"preflight": {"web1": mine, "web2": told, "web3": told}}, asked)
    problem = fleets.problems(state)[0]
    assert "does not fit the schema any more" in problem.what
    assert problem.why == "default: shop_order.note: it is gone (and 1 more)"
    assert fleets.phase_hosts(state, "switch") == []
    fine = told | {"results": told["results"] | {"fits": {"fits": {A: []}, "why": ""}}}
    assert fleets.problems(fleet({"preflight": {"web1": fine, "web2": told, "web3": told}}, asked)) == []
    unknown = told | {"results": told["results"] | {"fits": {"fits": {}, "why": "the database is down"}}}
    assert fleets.problems(fleet({"preflight": {"web1": unknown, "web2": told, "web3": told}}, asked)) == []


def test_the_verb_migrate_is_given_what_was_approved() -> None:
    given = {"approve": ["shop.0002@sha256:00"], "by": "ann", "reason": "r", "lock_timeout": 2.0}
    state = fleet({"stage": staged()}, inputs(migrations=given))
    assert fleets.prepare([{"verb": "migrate", "plan": True}], state, "web1", {}) == [
        {"verb": "migrate", "plan": True, "release": B, **given}
    ]


RUNS_LATE = inputs(migrations={"late": ["shop.0002_drop"]})
LATE_PLAN = {"web1": answer("migrate", {"pending": ["shop.0002_drop"], "late": ["shop.0002_drop"], "before": SHA[A]})}
LATE_RAN = {"web1": answer("migrate", {"applied": ["shop.0002_drop"], "snapshot": "s"})}


def test_late_migrations_run_once_every_host_has_let_go_of_older_releases() -> None:
    switched = CONFIRMED | {"plan_migrations": LATE_PLAN}
    early = fleet({key: found for key, found in switched.items() if key != "confirm"}, RUNS_LATE)
    assert not set(fleets.LATE) & set(next_phases(early))
    assert not fleets.holds(early, "ends", "web2"), "the lease stays with this run"
    assert not fleets.holds(early, "undoes", "web2")
    assert fleets.phase_hosts(fleet(switched | {"confirm": {"web1": FINAL}}, RUNS_LATE), "migrate_late_ready") == []
    final = fleet(switched, RUNS_LATE)
    assert fleets.phase_hosts(final, "migrate_late_ready") == list(HOSTS)
    assert fleets.phase_hosts(final, "migrate_late") == []
    ready = switched | {"migrate_late_ready": answer("drain")}
    assert fleets.phase_hosts(fleet(ready, RUNS_LATE), "migrate_late") == ["web1"]
    done = fleet(ready | {"migrate_late": LATE_RAN}, RUNS_LATE)
    assert fleets.ending(done) == "live"
    assert fleets.phase_hosts(done, "settle") == list(HOSTS), "which gives the lease back"
    one_left = fleet(ready | {"migrate_late_ready": {"web1": answer("drain"), "web2": failed()}}, RUNS_LATE)
    assert (fleets.phase_hosts(one_left, "migrate_late"), fleets.ending(one_left)) == ([], "half done")
    broken = fleet(ready | {"migrate_late": {"web1": failed()}}, RUNS_LATE)
    assert (fleets.ending(broken), fleets.phase_hosts(broken, "revert")) == ("half done", [])


def test_what_did_not_run_late_runs_when_the_same_is_typed_again() -> None:
    there = status(B, record(B, 7), record(A, 5))
    again = fleet({"stage": staged()}, RUNS_LATE, there)
    assert fleets.phase_hosts(again, "plan_migrations") == ["web1"]
    assert fleets.phase_hosts(fleet({"stage": staged()}, inputs(), there), "plan_migrations") == []
    planned = {"stage": staged(), "plan_migrations": LATE_PLAN}
    assert next_phases(fleet(planned, RUNS_LATE, there)).keys() & {"migrate", "start", "switch", "confirm"} == set()
    ready = planned | {"migrate_late_ready": answer("drain")}
    assert fleets.phase_hosts(fleet(ready, RUNS_LATE, there), "migrate_late") == ["web1"]
    assert fleets.ending(fleet(ready | {"migrate_late": LATE_RAN}, RUNS_LATE, there)) == "migrated"
    ran = {"stage": staged(), "plan_migrations": {"web1": answer("migrate", {"pending": []})}}
    assert fleets.ending(fleet(ran, RUNS_LATE, there)) == "nothing to do"


# maintenance windows

STOPS = inputs(migrations={"window": True}, canary=[5])
STOP_PLAN = {"web1": answer("migrate", {"pending": ["shop.0002_type"], "stopped": ["shop.0002_type"]})}
OPEN = LIVE_A | {"maintenance": {"since": "2026-01-01T00:00:00", "why": "deploy of bbbbbbbbbbbb"}}
PAGE = answer("maintenance", {"maintenance": {}})
STOPPED: dict[str, Any] = {"stage": staged(), "plan_migrations": STOP_PLAN, "maintenance": PAGE}
FITS, GONE = answer("fits", {"fits": {A: []}}), answer("fits", {"fits": {A: ["it is gone"]}})


def test_a_window_stops_the_application_everywhere_before_a_migration_that_needs_it() -> None:
    planned = {"stage": staged(), "plan_migrations": STOP_PLAN}
    assert fleets.phase_hosts(fleet(planned, STOPS), "maintenance") == list(HOSTS)
    assert fleets.phase_hosts(fleet(planned), "maintenance") == []
    harmless = planned | {"plan_migrations": {"web1": answer("migrate", {"pending": ["shop.0002"], "stopped": []})}}
    assert fleets.phase_hosts(fleet(harmless, STOPS), "maintenance") == [], "nothing is stopped for nothing"
    state = fleet(STOPPED, STOPS)
    assert fleets.phase_hosts(state, "migrate") == ["web1"]
    assert not fleets.holds(state, "had_live", "web2"), "there is no live release to check"
    assert fleets.canary_steps(state) == []
    one_away = fleet(STOPPED | {"maintenance": {"web1": PAGE, "web2": PAGE, "web3": failed()}}, STOPS)
    assert fleets.phase_hosts(one_away, "migrate") == []
    assert fleets.phase_hosts(one_away, "maintenance_end_fits") == ["web1"]
    assert fleets.phase_hosts(one_away, "maintenance_end") == list(HOSTS), "nothing ran: the release before fits"


@pytest.mark.parametrize("phase", ["migrate", "start", "smoke"])
@pytest.mark.parametrize("told", [FITS, GONE, failed("the database is down")])
def test_after_a_failure_in_a_window_the_release_before_serves_only_if_it_fits(
    phase: str, told: dict[str, Any]
) -> None:
    done = {
        "migrate": {"web1": answer("migrate", {"applied": ["shop.0002_type"]})},
        "start": answer(),
        "smoke": answer(),
    }
    phases = STOPPED | {name: done[name] for name in list(done)[: list(done).index(phase)]}
    broken = phases | {
        phase: {"web1": failed(), **({} if phase == "migrate" else {"web2": answer(), "web3": answer()})}
    }
    assert fleets.phase_hosts(fleet(broken, STOPS), "maintenance_end_fits") == ["web1"]
    state = fleet(broken | {"maintenance_end_fits": {"web1": told}}, STOPS)
    assert fleets.phase_hosts(state, "maintenance_end_fits") == []
    assert fleets.phase_hosts(state, "maintenance_end") == (list(HOSTS) if told is FITS else [])
    assert fleets.page_stays(state) == list(HOSTS)
    served = broken | {
        "maintenance_end_fits": {"web1": told},
        "maintenance_end": answer("maintenance", {"ended": True}),
    }
    assert fleets.page_stays(fleet(served, STOPS)) == []
    assert fleets.phase_hosts(state, "settle") == list(HOSTS)


def test_a_switch_ends_the_window_and_one_that_is_undone_does_not() -> None:
    switched = STOPPED | {"migrate": {"web1": answer()}, "start": answer(), "smoke": answer()}
    switched |= {"switch": answer("route", {"colour": "green"}), "watch": answer()}
    final = fleet(switched | {"confirm": FINAL}, STOPS)
    assert (fleets.page_stays(final), fleets.ending(final)) == ([], "live")
    assert not set(fleets.WINDOW_ENDS) & set(next_phases(final))
    undone = switched | {"watch": {"web1": failed(), "web2": answer(), "web3": answer()}, "revert": answer("revert")}
    state = fleet(undone, STOPS)
    assert fleets.phase_hosts(state, "maintenance_end_fits") == ["web1"]
    assert (fleets.page_stays(state), fleets.ending(state)) == (list(HOSTS), "reverted")


@pytest.mark.parametrize(
    ("asked", "todo"),
    [
        (inputs(), "migrations_maintenance_window=true, or ansible-playbook rollback.yml"),
        (inputs(sha=SHA[A], migrations={"window": True}), "ansible-playbook rollback.yml"),
        (inputs(verb="rollback", to="cccccc"), "rollback.yml without more"),
        (inputs(verb="rollback", to=None, schema="reverse"), "rollback.yml without more"),
    ],
    ids=["a deploy", "the release before", "a rollback further", "a rollback of the schema"],
)
def test_while_the_page_is_shown_only_what_ends_it_goes_on(asked: dict[str, Any], todo: str) -> None:
    state = fleet({}, asked, OPEN)
    problem = fleets.problems(state)[0]
    assert problem.what == "visitors meet the maintenance page"
    assert todo in problem.todo
    assert not {"stage", "start", "switch", *fleets.WINDOW_ENDS} & set(next_phases(state))


def test_the_same_deploy_goes_on_where_a_dead_one_has_left_the_page() -> None:
    again = fleet({"stage": staged(), "plan_migrations": {"web1": answer("migrate", {"pending": []})}}, STOPS, OPEN)
    assert fleets.phase_hosts(again, "maintenance") == list(HOSTS)
    ready = {"stage": staged(), "plan_migrations": {"web1": answer("migrate", {"pending": []})}, "maintenance": PAGE}
    assert fleets.phase_hosts(fleet(ready, STOPS, OPEN), "start") == list(HOSTS)


@pytest.mark.parametrize(("told", "serves"), [({A: []}, True), ({A: ["it is gone"]}, False), ({}, False)])
def test_a_rollback_in_a_window_serves_the_release_before_it_where_that_fits(
    told: dict[str, Any], serves: bool
) -> None:
    one = taken(OPEN)
    asks = {"web1": one | {"results": one["results"] | {"fits": {"fits": told, "why": ""}}}, "web2": one, "web3": one}
    asked = inputs(verb="rollback", to=None)
    state = fleet({"preflight": asks}, asked, OPEN)
    assert fleets.phase_hosts(state, "maintenance_end") == (list(HOSTS) if serves else [])
    assert not {"start", "smoke", "switch", "confirm"} & set(next_phases(state))
    if serves:
        done = fleet({"preflight": asks, "maintenance_end": answer("maintenance", {"ended": True})}, asked, OPEN)
        assert (fleets.ending(done), fleets.page_stays(done)) == ("reopened", [])
    else:
        assert "so the maintenance page stays" in fleets.problems(state)[0].what


def test_a_rollback_asks_every_host_what_fits_and_a_deploy_does_not() -> None:
    assert fleets.holds(fleet({}, inputs(verb="rollback", to=None)), "rollback", "web1")
    assert not fleets.holds(fleet({}), "rollback", "web1")


def test_a_refused_plan_ends_the_run_and_keeps_its_verdicts() -> None:
    one = {"app": "shop", "name": "0002", "verdict": "refused"}
    refusal = failed("shop.0002 is refused", 3) | {
        "results": {"migrate": {"pending": ["shop.0002"], "migrations": [one]}}
    }
    state = fleet({"stage": staged(), "plan_migrations": {"web1": refusal}})
    assert fleets.verdicts(state) == [one]
    assert fleets.phase_hosts(state, "migrate") == []
    assert fleets.ending(state) == "failed"


# restore


def restoring(**phases: Any) -> Fleet:
    given_ = inputs(
        "restore", snapshot="20260101T000000-aaaaaaaaaaaa-aaaaaaaa", accept="", migrations={"databases": {}}
    )
    return fleet(phases, {key: value for key, value in given_.items() if key != "artifact"}, LIVE_A)


def test_a_restore_is_one_call_on_the_migration_host_under_the_lease() -> None:
    begun = restoring()
    assert next_phases(begun) == {"preflight": list(HOSTS), "restore": ["web1"], "settle": list(HOSTS)}
    call = fleets.prepare([{"verb": "restore"}], begun, "web1", {})[0]
    assert (call["snapshot"], call["accept"]) == ("20260101T000000-aaaaaaaaaaaa-aaaaaaaa", "")
    assert fleets.ending(restoring(restore={"web1": failed(code=3)})) == "refused"
    assert fleets.ending(restoring(restore={"web1": failed()})) == "failed"
    assert fleets.ending(restoring(restore={"web1": answer("restore", {"restored": {"default": "b"}})})) == "restored"
    assert "restore" not in next_phases(fleet({}))
    assert "restore" not in next_phases(rollback(status(C, *HISTORY, idle=B)))
