"""The switch and its way back: what people met with other tools, and what a kill at any step leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import threading
import time
from typing import Any

import pytest

from bluegreen import deadman, outdated, rollback, route, smoke, state, verbs
from bluegreen.errors import BluegreenError, Code
from bluegreen.state import Live, Record
from bluegreen.web import STAMP


def fails(code: Code, words: str, call: Any, *arguments: Any, **options: Any) -> BluegreenError:
    with pytest.raises(BluegreenError, match=words) as caught:
        call(*arguments, **options)
    assert caught.value.code is code
    assert "\n" not in str(caught.value)
    return caught.value


def roll_back(host: Any, to: str | None = None) -> str:
    answer = host.do("rollback", deploy_id="local-1-1", to=to)
    assert host.routed() == {answer["release"]: 100}
    assert host.live() == answer["release"]
    return str(answer["release"])


# where a rollback goes


def test_a_b_back_c_back_is_a(host: Any) -> None:
    a, b = host.deploy(1, 1), host.deploy(2, 2)
    assert roll_back(host) == a
    assert host.record(b).state == "rolled_back"
    c = host.deploy(3, 3)
    assert host.routed() == {c: 100}
    assert roll_back(host) == a, "not the one that was rolled back from"


def test_twice_goes_further_back_and_then_refuses(host: Any) -> None:
    a, b, c = host.deploy(1, 1), host.deploy(2, 2), host.deploy(3, 3)
    assert [roll_back(host), roll_back(host)] == [b, a]
    fails(Code.REFUSED, "there is nothing to roll back to", host.do, "rollback")
    assert host.live() == a
    assert host.routed() == {a: 100}
    assert {host.record(name).state for name in (b, c)} == {"rolled_back"}


def test_the_age_of_directories_does_not_matter(host: Any) -> None:
    a, b, _ = host.deploy(1, 1), host.deploy(2, 2), host.deploy(3, 3)
    for name in (a, b, a):
        os.utime(host.paths.releases / name)
        os.utime(host.paths.releases / name, (1e9 * (name == b), 1e9))
    assert host.do("rollback_target")["release"] == b
    assert roll_back(host) == b


def test_back_to_the_live_one_is_refused(host: Any) -> None:
    _, b = host.deploy(1, 1), host.deploy(2, 2)
    for name in (b, host.record(b).sha, host.record(b).sha[:8]):
        fails(Code.REFUSED, "is already live", host.do, "rollback", to=name)


def test_named_targets(host: Any) -> None:
    a, b, _ = host.deploy(1, 1), host.deploy(2, 2), host.deploy(3, 3)
    assert host.do("rollback_target", to=host.record(a).sha[:7])["release"] == a
    fails(
        Code.REFUSED, f"is not on this host: candidates: .*{host.record(b).sha[:12]}", host.do, "rollback", to="f" * 7
    )
    for wrong in ("a", "abc", "HEAD", "abcdef; id", "abcdef\n", "g" * 8, "a" * 41):
        fails(Code.BAD_INPUT, "neither a sha nor a release", host.do, "rollback", to=wrong)
    assert roll_back(host, to=a) == a


@pytest.mark.parametrize("fate", ["bad", "rolled_back", "staged"])
def test_what_was_not_confirmed_or_left_is_never_a_target(host: Any, fate: str) -> None:
    a, b, _ = host.deploy(1, 1), host.deploy(2, 2), host.deploy(3, 3)
    host.do("mark", release=b, state=fate, why="it lost orders")
    error = fails(Code.REFUSED, f"is {fate.replace('_', ' ')}", host.do, "rollback", to=host.record(b).sha)
    assert error.why == "it lost orders"
    assert roll_back(host) == a


def test_a_failed_deploy_is_never_a_target(host: Any) -> None:
    a, b = host.deploy(1, 1), host.deploy(2, 2)
    failed = host.deploy(3, 3, confirm=False)
    host.do("revert", "deploy-3", 3, bad=True, why="smoke failed")
    assert host.record(failed).state == "bad"
    assert host.live() == b
    assert roll_back(host) == a


def test_incomplete_releases_are_never_a_target(host: Any) -> None:
    a, b, _ = host.deploy(1, 1), host.deploy(2, 2), host.deploy(3, 3)
    (host.paths.releases / b / ".complete").unlink()
    fails(Code.REFUSED, "is not on this host", host.do, "rollback", to=host.record(b).sha)
    assert roll_back(host) == a


def test_nothing_to_roll_back_from(host: Any) -> None:
    fails(Code.REFUSED, "there is nothing to roll back from", host.do, "rollback")


def test_a_rollback_brings_its_configuration_back(host: Any) -> None:
    a = host.deploy(1, 1, env={"FLAG": "old"})
    b = host.deploy(1, 2, env={"FLAG": "new"})
    assert a != b, "the same commit with another configuration is another release"
    assert roll_back(host) == a
    assert 'FLAG="old"' in (host.paths.colour("blue") / "env").read_text()


def test_a_cold_target_is_started_and_asked_first(host: Any) -> None:
    a, _, _ = host.deploy(1, 1), host.deploy(2, 2), host.deploy(3, 3)
    assert host.do("rollback_target", to=host.record(a).sha)["warm"] is False
    assert roll_back(host, to=a) == a


def test_a_target_that_does_not_start_changes_nothing(host: Any) -> None:
    a, b, c = host.deploy(1, 1), host.deploy(2, 2), host.deploy(3, 3)
    host.system.failing[a] = ["ImportError: no module named shop"]
    fails(Code.CHECK_FAILED, "did not start: ImportError", host.do, "rollback", to=a)
    assert host.routed() == {c: 100}
    assert host.live() == c
    # and the release before is warm again
    assert host.do("rollback_target") | {"release": b, "warm": True} == host.do("rollback_target")


def test_a_rollback_that_nginx_does_not_show_is_reverted(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, b = host.deploy(1, 1), host.deploy(2, 2)
    asked = smoke.identity
    monkeypatch.setattr(smoke, "identity", lambda target, times, timeout: asked(target, times, 0.05))
    monkeypatch.setattr(host, "front", lambda *request: (502, [], b""))
    host.servers["front"].handle = host.front
    with pytest.raises(BluegreenError) as caught:
        host.do("rollback")
    assert caught.value.code is Code.CHECK_FAILED
    assert host.live() == b
    assert state.State(host.paths).pending() is None


def test_a_person_is_told_that_the_others_go_on(host: Any, capsys: pytest.CaptureFixture[str]) -> None:
    host.deploy(1, 1), host.deploy(2, 2)
    host.do("rollback")
    assert "this host only" in capsys.readouterr().err


def test_choose_target_by_records_alone() -> None:
    def record(number: int, fate: str = "confirmed", fence: int = 0) -> Record:
        return Record(f"{number:012}-00000000", f"{number:040}", "", fate, "", "", fence)

    records = [
        record(5, fence=5),
        record(4, "bad", 4),
        record(3, fence=3),
        record(2, "rolled_back", 2),
        record(1, "staged"),
    ]
    live = Live("blue", records[0].id, records[0].sha, "d", 5, "")
    present = {item.id for item in records}
    assert rollback.choose_target(live, records, present, None).id == records[2].id
    fails(
        Code.REFUSED, "nothing to roll back to", rollback.choose_target, live, records, present - {records[2].id}, None
    )


PROCESSES = {"worker": {"command": "celery", "count": 2}, "beat": {"command": "beat", "singleton": True}}


@pytest.mark.parametrize(("processes", "settle"), [({}, []), (PROCESSES, ["list-units", "start", "stop"])])
def test_what_a_warm_rollback_asks_of_systemd(host: Any, processes: dict[str, Any], settle: list[str]) -> None:
    """Each question costs about 15 ms, and a rollback is waited for."""
    for number in (1, 2):
        host.deploy(number, number, processes=processes)
        host.do("processes", f"deploy-{number}", action="settle")
    host.system.calls.clear()
    target = host.do("rollback_target")["release"]
    assert len(host.system.calls) == 1
    for verb, params, asked in (
        ("lease", {"action": "take", "brief": True}, ["show"]),
        ("route", {"release": target, "kind": "rollback", "fresh": True}, ["systemd-run"]),
        ("smoke", {"release": target, "target": "front"}, []),
        ("confirm", {"release": target}, ["stop"]),
        ("processes", {"action": "settle", "wait": False}, settle),
        ("prune", {}, []),
        ("lease", {"action": "release"}, []),
    ):
        host.system.calls.clear()
        host.do(verb, "rollback", None if verb == "lease" else 3, **params)
        assert [call[2] if call[0] == "systemctl" else call[0] for call in host.system.calls] == asked, verb
    assert host.routed() == {target: 100}
    assert host.system.timers == {}


def test_a_fresh_answer_is_asked_of_the_release_itself(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = host.deploy(1, 1), host.deploy(2, 2)
    monkeypatch.setattr(smoke, "PAUSE", 10)
    host.servers.pop("blue").close()
    asked = smoke.identity
    monkeypatch.setattr(smoke, "identity", lambda target, times, timeout: asked(target, times, 0))
    fails(Code.CHECK_FAILED, "blue colour does not answer", host.do, "route", "d3", release=a, fresh=True)
    assert host.routed() == {b: 100}
    assert host.system.timers == {}
    assert state.State(host.paths).pending() is None


def test_a_wrong_release_on_the_new_socket_fails_the_start_soon(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = host.deploy(1, 1), host.release(2, "deploy-2", 2)
    monkeypatch.setattr(smoke, "WRONG", 0.1)
    monkeypatch.setattr(host, "answer", lambda *request: (200, [(STAMP, a)], b""))
    fails(Code.CHECK_FAILED, f"answered by {a}, not by {b}", host.do, "start", "deploy-2", 2, release=b, timeout=60.0)
    assert host.routed() == {a: 100}


# the dead-man


def test_nobody_confirms(host: Any) -> None:
    a, b = host.deploy(1, 1), host.deploy(2, 2, confirm=False)
    assert host.routed() == {b: 100}
    host.pass_time(59.9)
    assert host.routed() == {b: 100}
    assert host.pass_time(0.2) == [{"reverted": True, "decided": "ABORT", "from": b, "live": host.do("revert")["live"]}]
    assert host.routed() == {a: 100}
    assert host.record(b).state == "staged", "not bad: nobody judged it"
    error = fails(Code.REFUSED, "no switch to", host.do, "confirm", "deploy-2", 2, release=b)
    assert "reverted" in error.why
    assert host.routed() == {a: 100}


def test_the_first_deploy_reverted_leaves_nothing_live(host: Any) -> None:
    first = host.deploy(1, 1, confirm=False)
    assert host.routed() == {first: 100}
    host.pass_time(61)
    assert host.live() is None
    assert host.routed() == {"": 100}
    second = host.deploy(2, 2)
    assert host.routed() == {second: 100}
    fails(Code.REFUSED, "nothing to roll back to", host.do, "rollback")


def test_a_timer_of_another_deploy_or_too_early_does_nothing(host: Any) -> None:
    _, b = host.deploy(1, 1), host.deploy(2, 2, confirm=False)
    assert host.do("revert", deadman="deploy-1") == {"reverted": False}
    assert host.do("revert", deadman="deploy-2") == {"reverted": False}
    host.system.clock += 61
    assert host.do("revert", deadman="deploy-1") == {"reverted": False}
    assert host.routed() == {b: 100}
    assert host.do("revert", deadman="deploy-2")["reverted"] is True


@pytest.mark.parametrize("verb", ["route", "extend"])
def test_the_deadline_has_passed_when_the_timer_fires(host: Any, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """A timer fires once: systemd may take its time to arm it, and the deadline must not be counted from then."""
    a, b = host.deploy(1, 1), host.deploy(2, 2, confirm=False)
    arm = deadman.arm

    def slow(*arguments: Any) -> Any:
        armed = arm(*arguments)
        host.system.clock += 0.7
        return armed

    monkeypatch.setattr(deadman, "arm", slow)
    host.do("route", "deploy-2", 2, release=b, ttl=10) if verb == "route" else host.do("extend", "deploy-2", 2, ttl=10)
    host.system.clock = min(at for at, _ in host.system.timers.values())
    assert host.fire()[-1]["reverted"] is True
    assert host.routed() == {a: 100}


def test_a_confirmed_switch_has_no_timer_left(host: Any) -> None:
    _, b = host.deploy(1, 1), host.deploy(2, 2)
    assert host.system.timers == {}
    host.pass_time(1000)
    assert host.routed() == {b: 100}


def test_extend_moves_the_deadline_whoever_asks(host: Any) -> None:
    a, b = host.deploy(1, 1), host.deploy(2, 2, confirm=False)
    host.system.clock += 50
    assert host.do("extend", "local-9-9", ttl=30) == {"extended": True}
    assert len(host.system.timers) == 1
    host.pass_time(29)
    assert host.routed() == {b: 100}
    host.pass_time(2)
    assert host.routed() == {a: 100}
    assert host.do("extend") == {"extended": False}


def test_a_canary_and_its_end(host: Any) -> None:
    a, b = host.deploy(1, 1), host.release(2, "deploy-2", 2)
    host.do("start", "deploy-2", 2, release=b, alive=0)
    host.do("route", "deploy-2", 2, release=b, share=5)
    assert host.routed() == {a: 95, b: 5}
    fails(Code.REFUSED, "only 5 % are routed", host.do, "confirm", "deploy-2", 2, release=b)
    host.do("route", "deploy-2", 2, release=b, share=25)
    assert host.routed() == {a: 75, b: 25}
    assert len(host.system.timers) == 1
    host.pass_time(61)
    assert host.routed() == {a: 100}


# who may


def take(host: Any, deploy_id: str, fence: int | None = None, **params: Any) -> dict[str, Any]:
    answer: dict[str, Any] = host.do("lease", deploy_id, fence, action="take", what=f"deploy {deploy_id}", **params)
    return answer


def test_an_older_generation_is_refused(host: Any) -> None:
    a, b = host.deploy(1, 5), host.deploy(2, 6, confirm=False)
    for verb, params in (
        ("start", {"release": a}),
        ("route", {"release": b}),
        ("confirm", {"release": b}),
        ("revert", {}),
        ("prune", {}),
        ("lease", {"action": "take"}),
    ):
        error = fails(Code.STALE_FENCE, "generation 5 is older than 6", host.do, verb, "deploy-5", 5, **params)
        assert "another deploy or rollback has started" in error.why
    assert host.routed() == {b: 100}
    host.do("revert", "deploy-7", 7)
    assert host.routed() == {a: 100}


def test_the_lease_of_another_is_refused_but_the_way_back_is_open(host: Any) -> None:
    a, b = host.deploy(1, 1), host.deploy(2, 2, confirm=False)
    take(host, "deploy-2", 2)
    for verb, params in (
        ("confirm", {"release": b}),
        ("route", {"release": b}),
        ("rollback", {}),
        ("drain", {}),
        ("lease", {"action": "take"}),
    ):
        error = fails(Code.LEASE_HELD, "someone@controller is at work on orders", host.do, verb, "other", **params)
        assert "deploy deploy-2" in error.what
        assert "since " in error.why
        assert "unlock.yml -e lease=deploy-2" in error.todo
        assert error.details["lease"]["deploy_id"] == "deploy-2"
    host.do("reconcile", "other")
    assert host.do("revert", "other")["reverted"]
    assert host.routed() == {a: 100}


def test_a_lease_ends_by_itself_by_its_owner_or_by_force(host: Any) -> None:
    take(host, "d1", ttl=100)
    fails(Code.LEASE_HELD, "at work", take, host, "d2")
    host.system.clock += 60
    host.do("prune", "d1")  # any verb of its owner renews it
    host.system.clock += 90
    fails(Code.LEASE_HELD, "at work", take, host, "d2")
    assert host.do("lease", "d2", action="release") == {"released": False, "error": None}
    assert host.do("lease", "d1", action="release") == {"released": True, "error": None}
    take(host, "d2", ttl=100)
    host.system.clock += 101
    take(host, "d3", ttl=100)
    fails(Code.REFUSED, "which lease", host.do, "lease", "d4", action="break")
    error = fails(Code.REFUSED, "there is no lease d2", host.do, "lease", "d4", action="break", lease="d2")
    assert error.why == "d3 is held by someone@controller"
    assert host.do("lease", "d4", action="break", lease="d3")["broken"]["deploy_id"] == "d3"
    assert host.do("lease", action="show") == {"lease": None, "error": None}
    fails(Code.REFUSED, "no lease is held", host.do, "lease", "d4", action="break", lease="d3")
    take(host, "d5")
    host.system.reboot()
    take(host, "d6")


def test_a_broken_lease_fences_its_holder(host: Any) -> None:
    fence = take(host, "d1")["fence"] + 1
    host.do("lease", "d2", action="break", lease="d1")
    fails(Code.STALE_FENCE, f"generation {fence} is older", host.do, "prune", "d1", fence)
    assert take(host, "d3")["fence"] > fence


def test_an_expired_lease_that_nobody_took_is_renewed_up_to_the_cap(host: Any) -> None:
    taken = take(host, "d1", ttl=100, cap=250)
    assert taken["generation"] == taken["fence"] + 1
    host.system.clock += 150
    host.do("prune", "d1")
    assert host.do("lease")["lease"]["expires_in"] == 100
    host.system.clock += 90
    host.do("prune", "d1")
    assert host.do("lease")["lease"]["expires_in"] == 10, "never past the cap"
    assert take(host, "d1", ttl=100, cap=250)["lease"]["expires_in"] == 10, "taking it again neither"
    host.system.clock += 11
    fails(Code.STALE_FENCE, "the lease d1 .* has ended: it reached its hard cap", host.do, "prune", "d1")
    take(host, "d2")
    for wrong in ({"ttl": 0.0}, {"cap": -1.0}):
        fails(Code.BAD_INPUT, "must be more than 0", host.do, "lease", "d2", action="take", **wrong)


def test_a_long_verb_renews_while_it_works(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, real, leap = time.monotonic(), host.system.clock, 0.0
    monkeypatch.setattr(state, "uptime", lambda: real + time.monotonic() - begun + leap)
    take(host, "d1", ttl=3, cap=30)
    first, seen = host.do("lease")["lease"]["expires_in"], []

    def work(context: Any, params: Any) -> dict[str, Any]:
        working = time.monotonic()
        while not seen or (seen[-1] <= first + 0.5 and time.monotonic() < working + 20):
            time.sleep(0.05)
            lease = context.state.lease()
            seen.append(time.monotonic() - working + lease.left() if lease else 0.0)
        return {}

    monkeypatch.setitem(verbs.VERBS, "prune", dataclasses.replace(verbs.VERBS["prune"], run=work))
    threads = threading.active_count()
    host.do("prune", "d1")
    assert seen[-1] > first + 0.5, "its end moves on while the verb works"
    assert threading.active_count() == threads
    leap = 31.0
    assert host.do("lease")["lease"] is None, "the cap ends it"


def test_a_lease_tells_the_controller_what_it_needs(host: Any) -> None:
    a = host.deploy(1, 4)
    answer = take(host, "deploy-5", 5)
    assert answer["fence"] == 5
    assert answer["lease"]["deploy_id"] == "deploy-5"
    assert answer["status"]["live"]["release"] == a
    assert {"free_mb", "free_inodes_pct", "time", "arch", "mem_available_mb"} <= set(answer["machine"])


def test_odd_names_in_the_lease(host: Any) -> None:
    odd = 'Ünal "x" \\ $(id)\n'
    host.do("lease", action="take", what=odd)
    with pytest.raises(BluegreenError, match="Ünal") as caught:
        host.do("prune", "d2")
    assert caught.value.code is Code.LEASE_HELD


# who stands in for a colour that does not answer


def stand_ins(host: Any) -> set[str]:
    """The colours that stand in for the one that a slot leads to."""
    content = route.read(host.paths)
    pairs = [(content[f"s{slot:02}"], content[f"fb{slot:02}"]) for slot in range(20)]
    return {spare.rpartition("/")[2].removesuffix(".sock") for chosen, spare in pairs if spare != chosen}


def test_what_served_before_stands_in_until_a_release_is_confirmed_and_stays_if_it_may(host: Any) -> None:
    host.deploy(1, 1)
    assert stand_ins(host) == set()
    b = host.release(2, "d2", 2)
    host.do("start", "d2", 2, release=b, alive=0)
    assert stand_ins(host) == set(), "what is not confirmed stands in for nobody"
    host.do("route", "d2", 2, release=b, share=25)
    assert stand_ins(host) == {"blue"}
    host.do("route", "d2", 2, release=b)
    host.do("confirm", "d2", 2, release=b)
    assert stand_ins(host) == {"blue"}


def test_after_a_release_was_given_up_the_warm_one_stands_in_again(host: Any) -> None:
    host.deploy(1, 1), host.deploy(2, 2)
    host.deploy(3, 3, confirm=False)
    host.do("revert", "deploy-3", 3, bad=True)
    assert stand_ins(host) == set()
    host.do("abandon", "deploy-3", 3)
    assert stand_ins(host) == {"blue"}


def test_nobody_stands_in_on_a_host_that_the_fleet_has_left_behind(host: Any) -> None:
    host.deploy(1, 1), host.deploy(2, 2)
    host.deploy(3, 3, confirm=False)
    host.do("revert", "deploy-3", 3)
    outdated.mark(host.context(), {"sha": "c" * 40})
    host.do("abandon", "deploy-3", 3)
    assert stand_ins(host) == set()


def test_nobody_stands_in_for_what_ends_a_maintenance_window(host: Any) -> None:
    host.deploy(1, 1)
    host.do("maintenance", "d2", 2, action="begin")
    b = host.release(2, "d2", 2)
    host.do("start", "d2", 2, release=b, alive=0)
    host.do("route", "d2", 2, release=b)
    assert stand_ins(host) == set(), "the release before may not fit the schema any more"


# the rest of confirm and revert


def test_confirm_twice_is_one_confirmation(host: Any) -> None:
    a, b = host.deploy(1, 1), host.deploy(2, 2)
    before = (host.paths.state / "active.json").read_bytes()
    assert host.do("confirm", "deploy-2", 2, release=b)["changed"] is False
    assert (host.paths.state / "active.json").read_bytes() == before
    assert json.loads(before)["previous"]["release"] == a


def test_confirm_by_another_deploy_is_refused(host: Any) -> None:
    _, b = host.deploy(1, 1), host.deploy(2, 2, confirm=False)
    fails(Code.REFUSED, "it belongs to deploy-2", host.do, "confirm", "other", release=b)
    c = host.release(3)
    fails(Code.REFUSED, "the pending switch is to", host.do, "confirm", "deploy-2", 2, release=c)


def test_route_refusals(host: Any) -> None:
    a, b = host.deploy(1, 1), host.deploy(2, 2, confirm=False)
    fails(Code.REFUSED, "another switch is pending", host.do, "route", "d3", release=a)
    fails(Code.REFUSED, "a switch is pending", host.do, "start", "d3", release=a, alive=0)
    fails(Code.REFUSED, "a switch is pending", host.do, "drain", "d3")
    fails(Code.REFUSED, "a switch is pending", host.do, "abandon", "d3")
    host.do("revert", "deploy-2")
    c = host.release(3)
    fails(Code.REFUSED, f"{c} does not run on the green colour", host.do, "route", "d3", release=c)
    for share, nearest in ((0, 5), (3, 5), (101, 100), (-5, 5), (48, 50)):
        fails(Code.BAD_INPUT, f"the nearest is {nearest}", host.do, "route", "d3", release=b, share=share)
    fails(Code.BAD_INPUT, "ttl", host.do, "route", "d3", release=b, ttl=0)
    assert host.do("route", "d3", release=a)["already_live"] is True


def test_no_canary_without_a_live_release(host: Any) -> None:
    name = host.release(1)
    host.do("start", release=name, alive=0)
    fails(Code.REFUSED, "no live release to share with", host.do, "route", release=name, share=5)


def test_a_confirmation_is_final(host: Any) -> None:
    """Not undone by its own deploy either: the commit point has decided."""
    a, b = host.deploy(1, 1), host.deploy(2, 2)
    before = (host.paths.state / "active.json").read_bytes()
    answer = host.do("revert", "deploy-2", 2, why="web2 could not", bad=True)
    assert (answer["reverted"], answer["decided"]) == (False, "COMMIT")
    assert host.do("revert", "other")["decided"] is None
    assert (host.paths.state / "active.json").read_bytes() == before
    assert host.routed() == {b: 100}
    assert host.record(b).state == "confirmed"
    assert roll_back(host) == a


def test_resume_follows_this_hosts_commit_point(host: Any, tools: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = host.deploy(1, 1), host.deploy(2, 2, confirm=False)
    nothing = {"finished": None, "undone": None, "sha": None, "deploy_id": None}
    assert host.do("resume", "deploy-2", 2) == nothing, "its own"
    assert host.do("resume", "d3", 3) == nothing | {"undone": b, "sha": host.record(b).sha, "deploy_id": "deploy-2"}
    assert host.routed() == {a: 100}
    assert host.do("resume", "d3", 3) == nothing
    c = host.deploy(3, 4, confirm=False)
    clear = state.State.clear_pending
    monkeypatch.setattr(state.State, "clear_pending", lambda self: (_ for _ in ()).throw(tools.Crash))
    with pytest.raises(tools.Crash):
        host.do("confirm", "deploy-4", 4, release=c)
    monkeypatch.setattr(state.State, "clear_pending", clear)
    assert host.do("resume", "d5", 5)["finished"] == c
    assert (host.live(), host.routed()) == (c, {c: 100})
    assert host.system.timers == {}


def test_a_host_alone_decides_by_itself(host: Any) -> None:
    answer = host.do("decide", "deploy-1", 1, decision="COMMIT", release="x")
    assert (answer["decision"], answer["first"], answer["host"]) == ("COMMIT", True, "web1")
    assert host.do("decide", "deploy-1", 1, decision="ABORT")["decision"] == "ABORT"
    assert host.do("register") == {"register": None}
    assert host.do("status")["register"] is None


@pytest.mark.parametrize("kind", ["deploy", "rollback"])
@pytest.mark.parametrize("then", ["reconcile", "confirm", "revert by another", "dead-man", "reboot"])
def test_a_crash_at_any_step_of_confirm(
    few_slots: None, host: Any, tools: Any, monkeypatch: pytest.MonkeyPatch, kind: str, then: str
) -> None:
    """Before the commit point the old release wins, after it the new one, whoever comes next; records agree."""
    killer = tools.Killer(monkeypatch, host.system)
    host.deploy(90, 1)
    old, new = host.deploy(91, 2), host.deploy(92, 3)
    if kind == "rollback":
        old, new = new, old
    outcomes, step, fence, killed = set(), 0, 10, True
    while killed:
        fence += 1
        deploy_id = f"deploy-{fence}"
        for name in (old, new):
            host.do("mark", release=name, state="staged")
            records = state.State(host.paths)
            records.set_record(
                Record(**{**vars(host.record(name)), "state": "confirmed", "confirmed_fence": 2 + (name == old)})
            )
        # back to: old live, new warm
        if host.live() != old:
            host.do("start", release=old, alive=0)
            host.do("route", f"{deploy_id}-0", release=old)
            host.do("confirm", f"{deploy_id}-0", release=old)
        host.do("start", deploy_id, fence, release=new, alive=0)
        host.do("route", deploy_id, fence, release=new, kind=kind)
        with killer.at(step):
            host.do("confirm", deploy_id, fence, release=new)
        killed = killer.count > step
        assert set(host.routed()) <= {old, new}
        committed = host.live() == new
        if then == "confirm":
            answer = host.do("confirm", deploy_id, fence, release=new)
            committed = True
            assert answer["live"]["previous"]["release"] == old
        elif then == "revert by another":
            host.do("revert", "other", bad=True, why="x")
        elif then == "dead-man":
            host.pass_time(61)
            host.system.clock += 1
            host.do("reconcile")
        elif then == "reboot":
            host.system.reboot()
            host.do("reconcile")
        else:
            host.system.clock += 61
            host.do("reconcile")
        assert host.live() == (new if committed else old)
        assert host.routed() == {host.live(): 100}
        assert host.record(host.live()).state == "confirmed"
        assert state.State(host.paths).pending() is None
        if committed:
            assert host.record(old).state == ("rolled_back" if kind == "rollback" else "confirmed")
        outcomes.add(committed)
        step += 1
    assert step > 5
    assert outcomes == ({True} if then == "confirm" else {True, False})


@pytest.mark.parametrize("verb", ["route", "revert"])
def test_a_crash_at_any_step_of_route_and_revert(
    few_slots: None, host: Any, tools: Any, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    killer = tools.Killer(monkeypatch, host.system)
    old, new = host.deploy(1, 1), host.release(2)
    step, killed = 0, True
    while killed:
        host.do("start", "d", release=new, alive=0)
        if verb == "route":
            with killer.at(step):
                host.do("route", "d", release=new)
        else:
            host.do("route", "d", release=new)
            with killer.at(step):
                host.do("revert", "d")
        killed = killer.count > step
        assert set(host.routed().values()) == {100}
        assert set(host.routed()) <= {old, new}
        if state.State(host.paths).pending():
            assert host.system.timers, "armed before pending is written, disarmed after it is gone"
        else:
            assert host.routed() == {old: 100}
        host.pass_time(61)
        assert host.routed() == {old: 100}
        assert host.live() == old
        step += 1
    assert step > 5


def test_history_tells_the_story_and_survives_a_torn_line(host: Any) -> None:
    host.deploy(1, 1), host.deploy(2, 2)
    with (host.paths.state / "history.jsonl").open("a") as stream:
        stream.write('{"time": "2026')
    host.do("rollback")
    entries = host.do("history")["entries"]
    assert [entry["event"] for entry in entries if entry["event"] not in ("stage", "reconcile")] == [
        "route", "confirm", "route", "confirm", "route", "confirm",
    ]  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", entries[-1]["time"])
    assert len(host.do("history", limit=2)["entries"]) == 2


@pytest.mark.parametrize("name", ["active", "pending", "lease"])
def test_a_damaged_state_file_stops_changes_with_its_name(host: Any, name: str) -> None:
    _, b = host.deploy(1, 1), host.deploy(2, 2)
    (host.paths.state / f"{name}.json").write_text("")
    fails(Code.REFUSED, f"{name}.json is damaged", host.do, "rollback")
    (host.paths.state / f"{name}.json").write_text('{"new_field": 1}')
    fails(Code.REFUSED, f"{name}.json was written by another version", host.do, "rollback")
    assert host.routed() == {b: 100}


def test_another_change_is_running(host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(verbs.VERBS, "prune", dataclasses.replace(verbs.VERBS["prune"], wait=0.0))
    with state.State(host.paths).lock("migrate", 0):
        error = fails(Code.BUSY, "another change is running", host.do, "prune")
    assert re.match(r"migrate, process \d+, since 20", error.why)
    host.do("prune")
