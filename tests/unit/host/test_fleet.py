"""Several hosts and one register: never two outcomes, and what each host does while it cannot ask."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import Any

import pytest

from bluegreen import reconcile, state
from bluegreen.errors import BluegreenError, Code, Silent


def fails(code: Code, words: str, call: Any, *arguments: Any, **options: Any) -> BluegreenError:
    with pytest.raises(BluegreenError, match=words) as caught:
        call(*arguments, **options)
    assert caught.value.code is code
    assert "\n" not in str(caught.value)
    return caught.value


def pending(host: Any) -> Any:
    return state.State(host.paths).pending()


class Run:
    """A controller's run: one deploy id on several hosts."""

    def __init__(self, fleet: Any, number: int, hosts: Any = None, ttl: float = 120, cap: float = 21600):
        self.fleet, self.number = fleet, number
        self.id = f"20260101T000000-{number:06x}"
        self.hosts = list(fleet.hosts if hosts is None else hosts)
        answers = [self.take(host, ttl, cap) for host in self.hosts]
        self.fence = max(max(answer["generation"], answer["fence"] + 1) for answer in answers)

    def take(self, host: Any, ttl: float = 120, cap: float = 21600) -> dict[str, Any]:
        answer: dict[str, Any] = self.fleet.on(host).do(
            "lease", self.id, action="take", what=f"deploy {self.number}", ttl=ttl, cap=cap, process="4711",
            run_url="https://ci/1", brief=True,
        )  # fmt: skip
        return answer

    def do(self, host: Any, verb: str, **params: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.fleet.on(host).do(verb, self.id, self.fence, **params)
        return answer

    def all(self, verb: str, **params: Any) -> list[dict[str, Any]]:
        return [self.do(host, verb, **params) for host in self.hosts]

    def switch(self, build: int, kind: str = "deploy", ttl: float = 60.0) -> str:
        """Everything up to the switch, on all hosts."""
        name = ""
        for host in self.hosts:
            self.do(host, "resume")
            artifact = self.fleet.on(host).staged(build)
            config = {"wsgi": "shop.wsgi:application", "settings_module": "shop.settings"}
            name = self.do(host, "configure", artifact=artifact, config=config)["release"]
            self.do(host, "start", release=name, alive=0.0)
        for host in self.hosts:
            self.do(host, "route", release=name, kind=kind, ttl=ttl)
        self.name = name
        return name

    def commit(self) -> None:
        for host in self.hosts:
            assert self.do(host, "decide", decision="COMMIT", release=self.name)["decision"] == "COMMIT"
            self.do(host, "confirm", release=self.name)

    def finish(self) -> None:
        for host in self.hosts:
            self.do(host, "processes", action="settle")
            self.do(host, "prune")
            self.do(host, "lease", action="release")


def deployed(fleet: Any, number: int, hosts: Any = None) -> str:
    """A whole deploy of build `number`."""
    run = Run(fleet, number, hosts)
    name = run.switch(number)
    run.commit()
    run.finish()
    return name


def lives(fleet: Any) -> list[str | None]:
    return [host.live() for host in fleet.hosts]


def serves(fleet: Any, name: str) -> None:
    """All hosts are on one release, for good, and nothing is left behind."""
    assert lives(fleet) == [name] * len(fleet.hosts)
    for host in fleet.hosts:
        fleet.on(host)
        assert host.routed() == {name: 100}
        assert host.serves_visitors()
        assert pending(host) is None
        assert host.system.timers == {}
        assert host.do("status")["drift"] == []


def test_a_deploy_of_the_fleet(fleet: Any) -> None:
    a = deployed(fleet, 1)
    b = deployed(fleet, 2)
    serves(fleet, b)
    assert a != b
    assert fleet.register.lease is None
    rows = fleet.register.decisions.values()
    assert [(row.decision, row.release, row.host, row.kind) for row in rows] == [
        ("COMMIT", a, "web1", "deploy"), ("COMMIT", b, "web1", "deploy"),
    ]  # fmt: skip
    shown = fleet.on(fleet.hosts[1]).do("status")["register"]
    assert (shown["lease"], shown["latest"]["release"]) == (None, b)
    assert fleet.hosts[1].do("register")["register"]["latest"]["release"] == b
    assert json.loads(json.dumps(fleet.hosts[1].do("register", action="init")))["register"]["generation"] == 2


def test_the_register_is_asked_seldom(fleet: Any) -> None:
    deployed(fleet, 1)
    fleet.register.asked.clear()
    deployed(fleet, 2)
    assert fleet.register.asked == ["take"] * 3 + ["decide"] * 3 + ["release"] * 3


# the lease


def test_one_lease_for_all_hosts(fleet: Any) -> None:
    first = Run(fleet, 1)
    assert fleet.register.lease["hosts"] == ["web1", "web2", "web3"]
    error = fails(Code.LEASE_HELD, "someone@controller is at work on orders: deploy 1", Run, fleet, 2)
    lease = error.details["lease"]
    assert {key: lease[key] for key in ("deploy_id", "process", "run_url", "host")} == {
        "deploy_id": first.id, "process": "4711", "run_url": "https://ci/1", "host": "web3",
    }  # fmt: skip
    assert not any("20260101T000000-000002" in path.read_text() for path in fleet.hosts[0].root.rglob("*.json"))
    # a host that has no copy asks: the run is not its own there
    second = object.__new__(Run)
    second.__dict__.update(fleet=fleet, id="20260101T000000-000002", fence=None)
    state.State(fleet.hosts[1].paths).clear_lease()
    fails(Code.LEASE_HELD, "deploy 1", second.do, fleet.hosts[1], "prune")
    first.do(fleet.hosts[1], "prune")
    assert state.State(fleet.hosts[1].paths).lease().deploy_id == first.id
    first.finish()
    assert fleet.register.lease is None
    fails(Code.STALE_FENCE, "has ended: it expired and was taken, given back", first.do, fleet.hosts[1], "prune")


def test_the_generation_is_above_that_of_every_host_and_of_the_register(fleet: Any) -> None:
    state.State(fleet.hosts[1].paths).raise_fence(41)
    run = Run(fleet, 1)
    assert run.take(fleet.hosts[0])["register"] == "fake"
    assert run.fence == 42
    run.all("prune")
    run.finish()
    # a database restored from a backup does not rewind it
    fleet.register.generation = 3
    assert Run(fleet, 2).fence == 43


def test_a_frozen_controller_that_wakes_up_is_refused(fleet: Any) -> None:
    deployed(fleet, 1)
    old = Run(fleet, 2)
    name = old.switch(2)
    fleet.pass_time(121)  # its switch is reverted meanwhile, and its lease expires
    new = Run(fleet, 3)
    c = new.switch(3)
    for verb, params in (
        ("start", {"release": name}), ("route", {"release": name}), ("confirm", {"release": name}),
        ("prune", {}), ("extend", {}),
    ):  # fmt: skip
        fails(Code.LEASE_HELD, "deploy 3", old.do, fleet.hosts[0], verb, **params)
    for verb, params in (("decide", {"decision": "COMMIT", "release": name}), ("revert", {})):
        fails(Code.STALE_FENCE, "is older than", old.do, fleet.hosts[0], verb, **params)
    new.commit()
    new.finish()
    serves(fleet, c)
    fails(Code.STALE_FENCE, "is older than", old.do, fleet.hosts[0], "prune")


def test_a_lease_is_renewed_by_the_verbs_of_any_host(fleet: Any) -> None:
    run = Run(fleet, 1, ttl=100)
    fleet.pass_time(60)
    run.do(fleet.hosts[0], "prune")
    fleet.pass_time(60)
    # the copy of another host has expired; the register's has not
    assert state.State(fleet.hosts[1].paths).lease() is None
    run.do(fleet.hosts[1], "prune")
    assert state.State(fleet.hosts[1].paths).lease().left() == 100
    assert "renew" in fleet.register.asked
    # an expired lease that nobody took
    fleet.pass_time(150)
    run.do(fleet.hosts[2], "prune")
    fails(Code.LEASE_HELD, "deploy 1", Run, fleet, 2)


def test_a_copy_never_outlives_the_registers_lease(fleet: Any) -> None:
    run = Run(fleet, 1, ttl=100, cap=250)
    for seconds in (60, 60, 60, 60):
        fleet.pass_time(seconds)
        for host in run.hosts:
            run.do(host, "prune")
            copy = state.State(host.paths).lease()
            assert copy.left() <= fleet.register.lease["expires"] - fleet.clock
    fleet.pass_time(11)
    fails(Code.STALE_FENCE, "it reached its hard cap", run.do, fleet.hosts[0], "prune")
    fails(Code.STALE_FENCE, "it reached its hard cap", run.take, fleet.hosts[0])
    Run(fleet, 2)


def test_work_goes_on_while_the_register_is_silent_and_the_copy_is_good(fleet: Any) -> None:
    run = Run(fleet, 1, ttl=100)
    fleet.register.silent = True
    fleet.pass_time(99)
    run.all("prune")
    fleet.pass_time(2)
    error = fails(Code.REFUSED, "the lease cannot be renewed", run.do, fleet.hosts[0], "prune")
    assert isinstance(error, Silent)
    for verb, params in (("note", {"event": "x"}), ("revert", {}), ("reconcile", {}), ("lease", {"action": "show"})):
        run.do(fleet.hosts[0], verb, **params)
    fails(Code.REFUSED, "the register cannot be asked", Run, fleet, 2)
    assert run.do(fleet.hosts[0], "lease", action="release")["error"]
    fleet.register.silent = False
    Run(fleet, 2)


def test_breaking_a_lease(fleet: Any) -> None:
    run = Run(fleet, 1)
    run.all("prune")
    first, second, third = fleet.hosts
    error = fails(Code.REFUSED, "there is no lease d9", fleet.on(first).do, "lease", action="break", lease="d9")
    assert error.why == f"{run.id} is held by someone@controller"
    assert fleet.on(first).do("lease", action="break", lease=run.id)["broken"]["deploy_id"] == run.id
    assert fleet.on(second).do("lease", action="break", lease=run.id)["broken"]["deploy_id"] == run.id
    # also on the host that nobody reached
    for host in (first, second):
        fails(Code.STALE_FENCE, "is older than", run.do, host, "prune")
    fleet.pass_time(61)
    fails(Code.STALE_FENCE, "given back, or broken", run.do, third, "prune")
    fails(Code.REFUSED, "no lease is held", fleet.on(first).do, "lease", action="break", lease=run.id)
    assert fleet.on(first).do("lease", action="show") == {"lease": None, "error": None}
    new = Run(fleet, 2)
    assert new.fence > run.fence
    fleet.register.silent = True
    fails(Code.REFUSED, "the register cannot be asked", fleet.on(first).do, "lease", action="break", lease=new.id)
    assert fleet.on(first).do("lease", action="show")["lease"]["deploy_id"] == new.id


def test_a_person_on_one_host_keeps_the_fleet_away_from_it(fleet: Any) -> None:
    fleet.on(fleet.hosts[0]).do("lease", "local-1-1", action="take", what="looking")
    fails(Code.LEASE_HELD, "looking", Run, fleet, 1)
    assert fleet.register.lease is None


# the decision


def test_a_host_that_gave_up_first_is_followed_by_all(fleet: Any) -> None:
    a = deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2, ttl=60)
    first, second, third = fleet.hosts
    run.do(first, "extend", ttl=200.0)
    run.do(second, "extend", ttl=200.0)
    fleet.pass_time(61)
    assert third.routed() == {a: 100}
    error = fails(
        Code.CHECK_FAILED, "another host gave up first", run.do, first, "decide", decision="COMMIT", release=b
    )
    assert error.why == "web3: not confirmed in time"
    assert error.details["decision"] == "ABORT"
    assert first.routed() == {a: 100}
    fails(Code.REFUSED, "is not decided|gave up", run.do, second, "confirm", release=b)
    assert second.routed() == {b: 100}
    answer = run.do(second, "revert", why="web1 could not", bad=True)
    assert (answer["reverted"], answer["decided"]) == (True, "ABORT")
    run.finish()
    serves(fleet, a)


def test_what_is_committed_is_not_reverted(fleet: Any) -> None:
    deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2)
    first, second, third = fleet.hosts
    run.do(first, "decide", decision="COMMIT", release=b, without=["web9"])
    # the controller dies; another person reverts one host, the timer of another fires
    answer = fleet.on(second).do("revert", "local-2-2", bad=True)
    assert (answer["reverted"], answer["decided"]) == (False, "COMMIT")
    assert second.live() == b
    fleet.pass_time(61)
    serves(fleet, b)
    assert third.record(b).state == "confirmed"
    assert fleet.register.decisions[run.id].without == ["web9"]
    answer = run.do(first, "revert")
    assert (answer["reverted"], answer["decided"]) == (False, "COMMIT")


def test_confirm_needs_a_commit(fleet: Any) -> None:
    a = deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2)
    first, second, _ = fleet.hosts
    fails(
        Code.REFUSED, "is not decided: bluegreen decide comes first|is not decided", run.do, first, "confirm", release=b
    )
    assert run.do(first, "decide", decision="ABORT", why="smoke failed")["decision"] == "ABORT"
    fails(Code.REFUSED, "web1 gave up .* first: smoke failed", run.do, second, "confirm", release=b)
    run.all("revert")
    serves(fleet, a)
    assert run.do(first, "decide", decision="ABORT") | {"first": False} == run.do(first, "decide", decision="ABORT")


def test_nothing_is_committed_that_visitors_have_not_met(fleet: Any) -> None:
    deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2)
    first = fleet.hosts[0]
    run.do(first, "route", release=b, share=5)
    fails(Code.REFUSED, "only 5 % are routed", run.do, first, "decide", decision="COMMIT", release=b)
    run.do(first, "revert")
    fails(Code.REFUSED, "no switch to", run.do, first, "decide", decision="COMMIT", release=b)
    assert fleet.register.decisions[run.id].decision == "ABORT"


def test_without_the_lease_nobody_commits(fleet: Any) -> None:
    a = deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2)
    fleet.register.take_away(run.id)
    error = fails(Code.STALE_FENCE, "cannot commit", run.do, fleet.hosts[0], "decide", decision="COMMIT", release=b)
    assert "broken" in error.why
    fleet.pass_time(61)
    serves(fleet, a)
    other = Run(fleet, 3, hosts=fleet.hosts[1:])
    assert other.fence > run.fence


def test_a_late_commit_is_an_abort(fleet: Any) -> None:
    """Its deadline has passed; the timer is about to fire."""
    a = deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2)
    for host in fleet.hosts:
        host.system.clock += 61
    fails(Code.CHECK_FAILED, "gave up first", run.do, fleet.hosts[0], "decide", decision="COMMIT", release=b)
    fleet.pass_time(61)
    serves(fleet, a)


def test_a_commit_lost_by_a_failover_is_written_again(fleet: Any) -> None:
    deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2)
    first, second, third = fleet.hosts
    run.do(first, "decide", decision="COMMIT", release=b)
    run.do(first, "confirm", release=b)
    run.do(second, "decide", decision="COMMIT", release=b)
    del fleet.register.decisions[run.id]
    fleet.register.take_away(run.id)
    assert run.do(first, "decide", decision="COMMIT", release=b)["first"] is True
    del fleet.register.decisions[run.id]
    assert run.do(second, "decide", decision="COMMIT", release=b)["first"] is True, "it was told COMMIT"
    fleet.pass_time(61)
    serves(fleet, b)
    # the other order: somebody wrote ABORT before
    fleet.register.decisions[run.id] = dataclasses.replace(fleet.register.decisions[run.id], decision="ABORT")
    drift = fleet.on(first).do("status")["drift"]
    assert any("the register says ABORT of" in line for line in drift)
    fails(Code.CHECK_FAILED, "which is confirmed here", run.do, first, "decide", decision="COMMIT", release=b)
    assert first.live() == b
    assert third.routed() == {b: 100}


# a register that cannot be asked


def test_a_provisional_revert_and_the_way_forward_again(fleet: Any) -> None:
    a = deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2)
    first, second, third = fleet.hosts
    fleet.cut = {"web2"}
    run.do(first, "decide", decision="COMMIT", release=b)
    run.do(first, "confirm", release=b)
    fails(Code.REFUSED, "the register cannot be asked", run.do, second, "decide", decision="COMMIT", release=b)
    fleet.pass_time(61)
    assert [host.routed() for host in fleet.hosts] == [{b: 100}, {a: 100}, {b: 100}]
    assert second.live() == a
    assert pending(second).provisional
    drift = fleet.on(second).do("status")["drift"]
    assert any("reverted provisionally" in line for line in drift)
    assert not any("without a dead-man's timer" in line for line in drift)
    fails(Code.REFUSED, "a switch is pending", run.do, second, "start", release=a)
    fails(Code.REFUSED, "another switch is pending", run.do, second, "route", release=b)
    assert run.do(second, "extend") == {"extended": False}
    history = len(second.do("history")["entries"])
    fleet.pass_time(30)  # it asks every 3 s, and says so once
    assert len(second.do("history")["entries"]) == history
    fleet.cut = set()
    fleet.pass_time(3.1)
    serves(fleet, b)
    assert third.live() == b


def test_a_provisional_revert_that_was_right(fleet: Any) -> None:
    a = deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2)
    fleet.register.silent = True
    answer = run.do(fleet.hosts[0], "revert", why="smoke failed", bad=True)
    assert (answer["reverted"], answer["provisional"], answer["decided"]) == (True, True, None)
    assert fleet.hosts[0].routed() == {a: 100}
    assert pending(fleet.hosts[0])
    fleet.pass_time(70)
    assert all(host.routed() == {a: 100} for host in fleet.hosts)
    fleet.register.silent = False
    fleet.pass_time(4)
    assert fleet.register.decisions[run.id].decision == "ABORT"
    run.finish()
    serves(fleet, a)
    assert fleet.hosts[0].record(b).state == "bad"
    assert fleet.hosts[0].record(b).reason == "smoke failed"


def test_an_answer_that_was_lost(fleet: Any) -> None:
    """COMMIT was written, and the host does not know."""
    deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2)
    fleet.register.lossy = True
    fails(Code.REFUSED, "did not answer", run.do, fleet.hosts[0], "decide", decision="COMMIT", release=b)
    assert run.do(fleet.hosts[0], "revert")["provisional"] is True
    fleet.register.lossy = False
    answer = run.do(fleet.hosts[0], "revert")
    assert (answer["reverted"], answer["decided"]) == (False, "COMMIT")
    fleet.pass_time(61)
    serves(fleet, b)


def test_the_way_forward_when_the_colour_is_down_or_gone(fleet: Any) -> None:
    a = deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2)
    first, second, third = fleet.hosts
    run.do(first, "decide", decision="COMMIT", release=b)
    fleet.cut = {"web2", "web3"}
    fleet.pass_time(61)
    colour = pending(second).colour
    second.system.stop(f"orders@{colour}.service")  # it is started again
    third.system.stop(f"orders@{colour}.service")
    third.system.failing[b] = ["MemoryError"]
    fleet.cut = set()
    fleet.pass_time(4)
    assert [host.routed() for host in fleet.hosts] == [{b: 100}, {b: 100}, {a: 100}]
    assert pending(third), "it goes on trying"
    # the next run is not held up by it
    fleet.pass_time(121)
    del third.system.failing[b]
    third.paths.colour(colour).unlink()
    new = Run(fleet, 3)
    assert new.do(third, "resume")["finished"] == b
    # what was committed is final; what cannot serve it serves nothing, and not what the fleet has left
    assert third.live() == b
    assert not third.serves_visitors()
    (drift,) = third.do("status")["drift"]
    assert "serves nothing:" in drift
    assert "does not hold it any more" in drift
    new.switch(3)
    assert third.serves_visitors()
    new.all("revert")
    assert not third.serves_visitors()
    new.finish()
    new = Run(fleet, 4)
    c = new.switch(4)
    new.commit()
    new.finish()
    fleet.pass_time(4)  # the service that tried runs once more, and ends
    serves(fleet, c)


# after a crash of the controller


def test_resume_finishes_or_undoes(fleet: Any) -> None:
    a = deployed(fleet, 1)
    old = Run(fleet, 2, ttl=30)
    b = old.switch(2, ttl=100.0)
    first, second, third = fleet.hosts
    fleet.pass_time(31)
    new = Run(fleet, 3)
    sha = first.record(b).sha
    assert new.do(first, "resume") == {"finished": None, "undone": b, "sha": sha, "deploy_id": old.id}
    assert fleet.register.decisions[old.id].decision == "ABORT"
    fails(Code.LEASE_HELD, "deploy 3", old.do, second, "prune")
    c = new.switch(3)
    assert new.all("resume") == [{"finished": None, "undone": None, "sha": None, "deploy_id": None}] * 3
    new.do(second, "decide", decision="COMMIT", release=c)
    new.do(second, "confirm", release=c)
    fleet.pass_time(50)
    state.State(first.paths).set_pending(dataclasses.replace(pending(first), deadline_at=fleet.clock + 500))
    fleet.register.take_away(new.id)
    last = Run(fleet, 4)
    assert last.do(first, "resume")["finished"] == c
    assert last.do(third, "resume")["finished"] == c
    last.finish()
    serves(fleet, c)
    assert a != c


def test_resume_asks(fleet: Any) -> None:
    deployed(fleet, 1)
    old = Run(fleet, 2, ttl=30)
    b = old.switch(2, ttl=100.0)
    fleet.pass_time(31)
    new = Run(fleet, 3)
    fleet.register.silent = True
    fails(Code.REFUSED, "the register cannot be asked", new.do, fleet.hosts[0], "resume")
    assert fleet.hosts[0].routed() == {b: 100}


# reboots


def test_a_reboot_before_and_after_the_decision(fleet: Any) -> None:
    a = deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2)
    first, second, third = fleet.hosts
    done = fleet.on(first).boot()["done"]
    assert f"reverted the unconfirmed switch to {b}" in done
    fails(Code.CHECK_FAILED, "web1: the host restarted", run.do, second, "decide", decision="COMMIT", release=b)
    fleet.pass_time(61)
    serves(fleet, a)
    run.finish()
    run = Run(fleet, 3)
    c = run.switch(3)
    run.do(third, "decide", decision="COMMIT", release=c)
    done = fleet.on(first).boot()["done"]
    assert f"finished the confirmation of {c}" in done
    assert first.routed() == {c: 100}
    fleet.pass_time(61)
    serves(fleet, c)


def test_a_reboot_while_the_register_is_silent(fleet: Any) -> None:
    a = deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2)
    first = fleet.hosts[0]
    fleet.register.silent = True
    answer = fleet.on(first).boot()
    assert any("provisionally" in line for line in answer["done"])
    assert "cannot be asked" in answer["register"]
    assert first.routed() == {a: 100}
    assert first.serves_visitors()
    fleet.pass_time(61)
    assert pending(first).provisional
    fleet.register.silent = False
    fleet.pass_time(4)
    serves(fleet, a)
    assert fleet.register.decisions[run.id].decision == "ABORT"
    # nothing pending: what is confirmed here is served, and it says so
    fleet.register.silent = True
    answer = fleet.on(first).boot()
    assert any("serving what is confirmed here: the register cannot be asked" in line for line in answer["done"])
    assert first.do("history", limit=1)["entries"][0]["event"] == "reconcile"
    assert b != a


def test_a_reconcile_leads_nobody_to_a_colour_that_only_starts(fleet: Any) -> None:
    """The register was silent during a boot, and answers when somebody types `reconcile`."""
    a = deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2)
    run.do(fleet.hosts[0], "decide", decision="COMMIT", release=b)
    second = fleet.on(fleet.hosts[1])
    fleet.cut = {"web2"}
    second.boot()
    second.system.failing[b] = ["MemoryError"]
    fleet.cut = set()
    answer = second.do("reconcile")
    assert any("provisionally" in line for line in answer["done"])
    assert second.routed() == {a: 100}
    del second.system.failing[b]
    fleet.pass_time(4)
    assert second.routed() == {b: 100}
    assert second.live() == b


def test_reconcile_asks_for_five_seconds_in_all(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    deployed(fleet, 1)
    fleet.register.silent = True
    slept: list[float] = []
    clock = [0.0]
    monkeypatch.setattr(reconcile, "PATIENCE", 5.0)
    monkeypatch.setattr(reconcile, "waited", 0.0)
    monkeypatch.setattr(reconcile.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(reconcile.time, "sleep", lambda s: (slept.append(s), clock.__setitem__(0, clock[0] + s)))
    fleet.on(fleet.hosts[0]).do("reconcile")
    assert 4 <= sum(slept) <= 5
    # the next application of the same boot does not wait again
    fleet.on(fleet.hosts[1]).do("reconcile")
    assert sum(slept) <= 5.5


# hosts that were away


def test_an_outdated_host_serves_nothing_until_it_is_brought_up_to_date(fleet: Any) -> None:
    a = deployed(fleet, 1)
    first, second, third = fleet.hosts
    third.up = False
    deployed(fleet, 2, hosts=[first, second])
    c = deployed(fleet, 3, hosts=[first, second])
    third.up = True
    answer = fleet.on(third).boot()
    shas = [host.record(host.live()).sha[:12] for host in (third, first)]
    words = f"serves nothing: {shas[0]} is older than the fleet's {shas[1]}"
    assert words in answer["done"]
    assert answer["outdated"]["release"] == c
    assert not third.serves_visitors()
    assert third.paths.outdated.exists()
    assert words in third.do("status")["drift"]
    # still so when the register is silent at the next boot: it was known
    fleet.register.silent = True
    assert words in fleet.on(third).boot()["done"]
    assert not third.serves_visitors()
    fleet.register.silent = False
    # a deploy that is reverted leaves it as it was
    run = Run(fleet, 4)
    fails(Code.REFUSED, "no release to share", canary, run, third, 4)
    run.switch(4)
    assert third.serves_visitors()
    assert not third.paths.outdated.exists()
    run.all("revert")
    assert not third.serves_visitors()
    assert words in third.do("status")["drift"]
    assert first.routed() == second.routed() == {c: 100}
    run.finish()
    # the fleet's release deployed again brings it up to date
    again = Run(fleet, 5)
    again.switch(3)
    assert pending(first) is None
    assert pending(third)
    again.commit()
    assert third.live() == c
    assert third.serves_visitors()
    assert not third.paths.outdated.exists()
    assert a != c


def canary(run: Run, host: Any, build: int) -> None:
    artifact = run.fleet.on(host).staged(build)
    config = {"wsgi": "shop.wsgi:application", "settings_module": "shop.settings"}
    name = run.do(host, "configure", artifact=artifact, config=config)["release"]
    run.do(host, "start", release=name, alive=0.0)
    run.do(host, "route", release=name, share=5)


def test_a_host_that_serves_nothing_gets_even_the_release_it_has_as_a_switch(fleet: Any) -> None:
    """The fleet goes back to what the host was left with: it serves from the switch on, and not if that is undone."""
    a = deployed(fleet, 1)
    first, second, third = fleet.hosts
    third.up = False
    b = deployed(fleet, 2, hosts=[first, second])
    third.up = True
    fleet.on(third).boot()
    run = Run(fleet, 3)
    run.switch(1)
    assert third.serves_visitors()
    run.all("revert")
    assert not third.serves_visitors()
    assert first.routed() == second.routed() == {b: 100}
    run.finish()
    again = Run(fleet, 4)
    again.switch(1)
    again.commit()
    again.finish()
    serves(fleet, a)


def test_a_watch_notices_that_its_switch_was_undone(fleet: Any) -> None:
    a = deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2, ttl=5)
    assert run.do(fleet.hosts[0], "extend", ttl=5.0, release=b)["extended"]
    fleet.pass_time(6)
    fails(Code.REFUSED, "was undone here", run.do, fleet.hosts[0], "extend", ttl=5.0, release=b)
    assert fleet.hosts[0].routed() == {a: 100}


def test_a_host_that_was_not_restarted_stops_serving_at_reconcile(fleet: Any) -> None:
    a = deployed(fleet, 1)
    first, second, third = fleet.hosts
    b = deployed(fleet, 2, hosts=[first, second])
    drift = fleet.on(third).do("status")["drift"]
    assert any("the fleet's release is" in line for line in drift)
    assert third.serves_visitors()
    third.do("reconcile")
    assert not third.serves_visitors()
    # an operator's rollback of the fleet to what it has: it may serve again
    run = Run(fleet, 3, hosts=[first, second])
    run.do(first, "route", release=a, kind="rollback", fresh=True)
    run.do(second, "route", release=a, kind="rollback", fresh=True)
    run.name = a
    run.commit()
    run.finish()
    assert fleet.on(third).do("reconcile")["done"] == ["serving again: the release here is the fleet's"]
    serves(fleet, a)
    assert first.record(b).state == "rolled_back"


def test_a_rollback_by_hand_on_one_host_is_not_outdated(fleet: Any) -> None:
    a, b = deployed(fleet, 1), deployed(fleet, 2)
    first = fleet.hosts[0]
    fleet.register.silent = True
    fleet.on(first).do("rollback", "local-1-1")
    fleet.register.silent = False
    assert first.live() == a
    fleet.on(first).boot()
    assert first.serves_visitors()
    assert any("the fleet's release is" in line for line in first.do("status")["drift"])
    assert lives(fleet)[1:] == [b, b]


# drift


def test_drift_of_a_fleets_host(fleet: Any) -> None:
    deployed(fleet, 1)
    b = deployed(fleet, 2)
    host = fleet.on(fleet.hosts[0])
    assert host.do("status")["drift"] == []
    image = next(host.paths.images.glob(f"*{host.record(b).sha}*.squashfs"))
    good = image.read_bytes()
    image.write_bytes(good + b" ")
    (drift,) = host.do("status")["drift"]
    assert drift == f"{image} is not what was staged: its sha256 differs from the manifest's"
    assert host.do("lease", "d9", action="take")["status"]["drift"] == [], "no time for that in a deploy"
    host.do("lease", "d9", action="release")
    image.unlink()
    assert "is missing or has no manifest" in host.do("status")["drift"][0]
    image.write_bytes(good)
    for state_of, words in (("disabled", "is disabled"), ("", "is missing")):
        host.system.enabled["bluegreen-reconcile.service"] = state_of
        (drift,) = host.do("status")["drift"]
        assert f"bluegreen-reconcile.service {words}" in drift
    host.system.enabled["bluegreen-reconcile.service"] = "enabled"
    fleet.register.silent = True
    shown = host.do("status")
    assert shown["drift"] == []
    assert shown["register"] == {"error": "the register cannot be asked: connection refused"}
    fleet.register.silent = False
    run = Run(fleet, 3)
    run.switch(3)
    host.system.timers.clear()
    assert fleet.on(host).do("status")["drift"] == ["a switch is pending without a dead-man's timer"]


# bad input


def test_the_register_of_another_application_or_a_newer_one(fleet: Any) -> None:
    a = deployed(fleet, 1)
    fleet.register.wrong = "the register is that of notes, not of orders"
    fails(Code.REFUSED, "that of notes", Run, fleet, 2)
    assert fleet.on(fleet.hosts[0]).do("status")["register"] == {
        "error": "the register is that of notes, not of orders: connection refused"
    }
    answer = fleet.hosts[0].boot()
    assert "that of notes" in answer["register"]
    assert fleet.hosts[0].routed() == {a: 100}
    assert fleet.hosts[0].serves_visitors()


@pytest.mark.parametrize("content", ["", '{"colour": "blu', "[]", '{"colour": "blue", "from_the_future": 1}'])
@pytest.mark.parametrize("name", ["active", "pending", "lease"])
def test_a_damaged_state_file_in_a_fleet(fleet: Any, name: str, content: str) -> None:
    deployed(fleet, 1)
    run = Run(fleet, 2)
    b = run.switch(2)
    host = fleet.hosts[0]
    (host.paths.state / f"{name}.json").write_text(content)
    words = f"{name}.json (is damaged|was written by another version)"
    fails(Code.REFUSED, words, run.do, host, "confirm", release=b)
    if name != "lease":
        fails(Code.REFUSED, words, run.do, host, "decide", decision="COMMIT", release=b)
        fails(Code.REFUSED, words, run.do, host, "revert")
        assert run.id not in fleet.register.decisions
    assert host.routed() == {b: 100}
    fleet.pass_time(61)
    assert host.serves_visitors()
    assert [other.routed() for other in fleet.hosts[1:]] == [{fleet.hosts[1].live(): 100}] * 2


@pytest.mark.parametrize("content", ["", "x", "-1", "1 2"])
def test_a_damaged_fence(fleet: Any, content: str) -> None:
    a = deployed(fleet, 1)
    host = fleet.hosts[0]
    (host.paths.state / "fence").write_text(content)
    fails(Code.REFUSED, "fence is damaged", Run, fleet, 2)
    with pytest.raises(BluegreenError, match="fence is damaged"):
        fleet.on(host).boot()
    assert host.routed() == {a: 100}, "it serves all the same"


def test_a_clock_that_runs_backwards(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    deployed(fleet, 1)
    past = iter(range(2_000_000_000, 0, -100_000))
    monkeypatch.setattr(time, "time", lambda: float(next(past)))
    monkeypatch.setattr(time, "time_ns", lambda: next(past) * 1_000_000_000)
    b = deployed(fleet, 2)
    serves(fleet, b)
    run = Run(fleet, 3)
    run.switch(3)
    fleet.pass_time(61)
    run.finish()
    serves(fleet, b)


def test_a_wrong_list_of_hosts(fleet: Any) -> None:
    run = Run(fleet, 1)
    fails(Code.BAD_INPUT, "list of host names", run.do, fleet.hosts[0], "decide", decision="ABORT", without=[7])
    fails(Code.BAD_INPUT, "wanted: COMMIT, ABORT", run.do, fleet.hosts[0], "decide", decision="MAYBE")


# kills


def begin(fleet: Any, number: int) -> Run:
    """A switched and undecided deploy; every lease before it has expired."""
    fleet.pass_time(130)
    run = Run(fleet, number)
    run.switch(2 + number % 2)
    return run


def commit(fleet: Any, run: Run, host: Any) -> None:
    run.do(host, "decide", decision="COMMIT", release=run.name)


def silent(fleet: Any, run: Run, host: Any) -> None:
    fleet.register.silent = True


def decided_elsewhere_and_back_for_now(fleet: Any, run: Run, host: Any) -> None:
    commit(fleet, run, host)
    kept = state.State(host.paths)
    kept.set_pending(dataclasses.replace(kept.pending(), decided=""))
    fleet.register.silent = True
    fleet.pass_time(61)
    fleet.register.silent = False
    assert kept.pending().provisional


@pytest.mark.parametrize(
    ("before", "verb", "params", "outcomes"),
    [
        (None, "decide", {"decision": "COMMIT"}, {"COMMIT", "ABORT"}),
        (None, "decide", {"decision": "ABORT"}, {"ABORT"}),
        (None, "revert", {"bad": True, "why": "x"}, {"ABORT"}),
        (None, "resume", {}, {"ABORT"}),
        (commit, "confirm", {}, {"COMMIT"}),
        (commit, "revert", {}, {"COMMIT"}),
        (commit, "resume", {}, {"COMMIT"}),
        (silent, "revert", {}, {"ABORT"}),
        (decided_elsewhere_and_back_for_now, "reconcile", {}, {"COMMIT"}),
        (decided_elsewhere_and_back_for_now, "confirm", {}, {"COMMIT"}),
        (decided_elsewhere_and_back_for_now, "revert", {}, {"COMMIT"}),
    ],
)
@pytest.mark.parametrize("then", ["time", "boot"])
def test_a_kill_at_any_step(
    few_slots: None,
    tools: Any,
    monkeypatch: pytest.MonkeyPatch,
    before: Any,
    verb: str,
    params: dict[str, Any],
    outcomes: set[str],
    then: str,
) -> None:
    """Whatever the register says in the end is what the host serves in the end."""
    root = tools.make_directory()
    fleet = tools.Fleet(monkeypatch, [root])
    killer = tools.Killer(monkeypatch, fleet)
    fleet.at_question = killer.point
    host = fleet.hosts[0]
    deployed(fleet, 0)
    step, killed, seen = 0, True, set()
    while killed:
        run = begin(fleet, step + 1)
        old = host.live()
        if before:
            before(fleet, run, host)
        given = {"release": run.name} if verb in ("decide", "confirm") else {}
        call = run
        if verb == "resume":  # the run's lease is gone, its switch is not
            fleet.register.take_away(run.id)
            call = Run(fleet, 10_000 + step)
        with killer.at(step):
            call.do(host, verb, **params, **given)
        killed = killer.count > step
        fleet.register.silent = False
        assert set(host.routed()) <= {old, run.name}
        fleet.pass_time(5) if then == "time" else fleet.on(host).boot()
        fleet.pass_time(125)
        decision = fleet.register.decisions[run.id].decision
        seen.add(decision)
        assert host.live() == (run.name if decision == "COMMIT" else old)
        assert host.routed() == {host.live(): 100}
        assert pending(host) is None
        assert host.system.timers == {}
        assert fleet.on(host).do("status")["drift"] == []
        step += 1
    assert step > 3
    assert seen == outcomes
    shutil.rmtree(root)


def test_a_timer_that_cannot_be_armed_leaves_everything(fleet: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a = deployed(fleet, 1)
    host = fleet.hosts[0]
    monkeypatch.setattr(host.system, "do_systemd_run", lambda words: (1, "", "Failed to start transient timer unit"))
    run = Run(fleet, 2, hosts=[host])
    fails(Code.CHECK_FAILED, "Failed to start transient timer unit", run.switch, 2)
    assert pending(host) is None
    assert host.routed() == {a: 100}
