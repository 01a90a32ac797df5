"""Every verb in any order, killed anywhere: the route always names good releases, and reconcile always heals.

A property test: hypothesis chooses the verbs, the releases, and the system call at which the process dies.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bluegreen import release, route, smoke, state
from bluegreen.errors import BluegreenError, Code
from bluegreen.web import STAMP, NoAnswer, Response

REFUSALS = {Code.REFUSED, Code.CHECK_FAILED, Code.BAD_INPUT, Code.LEASE_HELD}
CRASHES = st.none() | st.integers(0, 60)
BUILDS = st.integers(1, 4)
SHARES = st.sampled_from([100, 100, 100, 5, 25])


class Verbs(RuleBasedStateMachine):
    """One host, one deploy at a time."""

    tools: Any  # set by the test below: conftest's classes are fixtures

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.host = self.tools.Host(self.tools.make_directory())
        self.tools.simulate(self.patch, self.host)
        self.patch.setattr(smoke, "request", self.ask)
        self.killer = self.tools.Killer(self.patch, self.host.system)
        self.number = 0
        self.was_live: set[str] = set()
        self.host.do("reconcile")

    def teardown(self) -> None:
        self.patch.undo()
        shutil.rmtree(self.host.root)

    def ask(self, where: Any, visitor: Any, *request: Any, **options: Any) -> Response:
        """The colours and nginx, without sockets."""
        name = where.target.rsplit("/", 1)[-1].removesuffix(".sock")
        if name == "front":
            content = route.read(self.host.paths)
            assert content is not None
            name = Path(content["s19"]).stem
        held = self.host.system.serving(name)
        if not held:
            raise NoAnswer(ConnectionRefusedError("refused"), refused=True)
        return Response(200, [(STAMP, held)], b"")

    def state(self) -> Any:
        return state.State(self.host.paths)

    def call(self, verb: str, crash: int | None = None, **params: Any) -> dict[str, Any] | None:
        """A verb that may be refused, and may be killed; after a kill, at once what comes next finds the rest."""
        answer = None
        with self.killer.at(crash):
            try:
                answer = self.host.do(verb, f"deploy-{self.number}", self.number, **params)
            except BluegreenError as problem:
                if problem.code not in REFUSALS:
                    raise
        self.remember()
        return answer

    def remember(self) -> None:
        if name := self.host.live():
            self.was_live.add(name)

    @initialize(build=BUILDS)
    def first(self, build: int) -> None:
        self.deploy(build, 100, None, None, None, True)

    @rule(build=BUILDS, share=SHARES, start=CRASHES, routed=CRASHES, confirmed=CRASHES, confirm=st.booleans())
    def deploy(
        self, build: int, share: int, start: int | None, routed: int | None, confirmed: int | None, confirm: bool
    ) -> None:
        self.number += 1
        name = self.host.release(build, f"deploy-{self.number}", self.number, env={"N": str(build)})
        self.call("start", start, release=name, alive=0.0)
        self.call("route", routed, release=name, share=share)
        if confirm:
            self.call("confirm", confirmed, release=name)

    @rule(build=BUILDS)
    def deploy_that_does_not_start(self, build: int) -> None:
        self.number += 1
        name = self.host.release(build, f"deploy-{self.number}", self.number, env={"N": "broken"})
        self.host.system.failing[name] = ["ImportError: no"]
        self.call("start", None, release=name, alive=0.0)
        assert name not in self.host.routed()

    @rule(crash=CRASHES)
    def rollback(self, crash: int | None) -> None:
        before = self.host.live()
        answer = self.call("rollback", crash)
        if answer:
            assert answer["release"] in self.was_live
            assert answer["release"] != before
            assert self.host.routed() == {answer["release"]: 100}

    @rule(crash=CRASHES, bad=st.booleans())
    def revert(self, crash: int | None, bad: bool) -> None:
        self.call("revert", crash, bad=bad)

    @precondition(lambda self: self.state().pending())
    @rule(crash=CRASHES)
    def confirm(self, crash: int | None) -> None:
        self.call("confirm", crash, release=self.state().pending().release)

    @rule(crash=CRASHES, verb=st.sampled_from(["prune", "drain", "abandon", "extend", "reconcile"]))
    def other(self, crash: int | None, verb: str) -> None:
        self.call(verb, crash, **({"keep": 2} if verb == "prune" else {}))

    @rule(seconds=st.sampled_from([1, 30, 61]))
    def time_passes(self, seconds: int) -> None:
        self.host.pass_time(seconds)
        self.remember()

    @rule(crash=CRASHES)
    def reboot(self, crash: int | None) -> None:
        self.host.system.reboot()
        self.call("reconcile", crash)
        self.heal()

    @rule()
    def heal(self) -> None:
        """After the deadline, and a reconcile, everything is as confirmed."""
        before = self.host.live()
        pending = self.state().pending()
        self.host.system.clock += 61
        self.host.do("reconcile", "boot")
        assert self.host.live() == before
        assert self.state().pending() is None
        assert self.host.system.timers == {} or pending is None or before != pending.release
        if before is None:
            assert self.host.routed() == {"": 100}
            return
        assert self.host.routed() == {before: 100}
        assert self.host.record(before).state == "confirmed"
        assert not list(self.host.root.rglob(".tmp-*"))
        assert self.host.do("status")["drift"] == []

    @invariant()
    def visitors_meet_the_confirmed_or_the_pending_release(self) -> None:
        live, pending = self.host.live(), self.state().pending()
        good = {live, pending.release if pending else None} - {None}
        routed = set(self.host.routed())
        assert routed <= (good or {""}) or (live is None and routed <= good | {""}), (routed, live, pending)

    @invariant()
    def a_pending_switch_has_a_timer_or_the_boot_undoes_it(self) -> None:
        if pending := self.state().pending():
            assert self.host.system.timers or pending.deadline.left() == 0

    @invariant()
    def a_rollback_goes_to_a_whole_release_that_was_live(self) -> None:
        try:
            target = self.host.do("rollback_target")["release"]
        except BluegreenError as problem:
            if problem.code is not Code.REFUSED:
                raise
            return
        assert release.complete(self.host.paths, target)
        assert self.host.record(target).state == "confirmed"
        assert target in self.was_live
        assert target != self.host.live()

    @invariant()
    def the_history_can_be_read(self) -> None:
        assert all(entry["event"] for entry in self.host.do("history", limit=1000)["entries"])


def test_any_order_of_verbs(tools: Any) -> None:
    Verbs.tools = tools
    run_state_machine_as_test(
        Verbs,
        settings=settings(
            max_examples=12, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
