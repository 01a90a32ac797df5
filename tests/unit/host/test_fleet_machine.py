"""Several hosts, one register, two controllers, and everything that can go wrong: never two final outcomes.

What happens next, and the file operation, question or system call at which a process dies, is chosen by hypothesis,
which shortens what it finds, and by plain seeded dice, which spread better. When the deadlines have passed and
PostgreSQL answers, whoever serves visitors serves one good release.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from bluegreen import route, state, status
from bluegreen.errors import BluegreenError, Code

EXPECTED = {Code.REFUSED, Code.CHECK_FAILED, Code.LEASE_HELD, Code.STALE_FENCE}
CRASHES = st.none() | st.none() | st.integers(0, 45)
HOSTS = st.integers(0, 2)
TTLS = st.sampled_from([20.0, 100.0])  # of a switch; the lease of a dead controller ends before or after
LEASE = 30.0
DEPLOY: dict[str, Any] = {
    "build": st.integers(1, 4),
    "without": st.booleans(),
    "ttl": TTLS,
    "steps": st.integers(10, 24),
    "crash": CRASHES,
    "trouble": st.sampled_from(["none", "cut", "silent", "lossy", "off", "kill", "kill"]),
    "number": HOSTS,
    "more": st.sampled_from([0, 0, 3, 10]),
    "well": st.sampled_from([True, True, False]),
    "then": st.sampled_from([0, 4, 21, 31, 101]),
}
CONFIG = {"wsgi": "shop.wsgi:application", "settings_module": "shop.settings"}
Action = tuple[Any, str, dict[str, Any]]


class Controller:
    """What ansible-playbook does: phases with a barrier after each; a host that does not answer fails a phase."""

    def __init__(self, number: int, hosts: list[Any], build: int, ttl: float):
        self.number, self.hosts, self.build, self.ttl = number, hosts, build, ttl
        self.id = f"20260101T000000-{number:06x}"
        self.fence: int | None = None
        self.ended = False
        self.ok = True  # of the phase
        self.answer: dict[str, Any] | None = None  # of the last action; None: it failed or was not heard
        self.actions = self.run()

    def each(self, verb: str, **params: Any) -> Iterator[Action]:
        """One verb on all hosts."""
        for host in self.hosts:
            yield host, verb, params
            self.ok = self.ok and self.answer is not None

    def run(self) -> Iterator[Action]:
        fence = 0
        for host in self.hosts:
            yield host, "lease", {"action": "take", "what": f"deploy {self.number}", "ttl": LEASE, "brief": True}
            if self.answer is None:
                yield from self.each("lease", action="release")
                return
            fence = max(fence, self.answer["generation"], self.answer["fence"] + 1)
        self.fence = fence
        yield from self.each("resume")
        for host in self.hosts:
            if self.ok:
                yield host, "configure", {"artifact": "", "config": {**CONFIG, "env": {"N": str(self.build)}}}
                self.ok = self.answer is not None
            if self.ok and self.answer:
                self.name = self.answer["release"]
                yield host, "start", {"release": self.name, "alive": 0.0}
                self.ok = self.answer is not None
        if not self.ok:
            yield from self.each("abandon")
            yield from self.each("lease", action="release")
            return
        yield from self.each("route", release=self.name, ttl=self.ttl)
        committed = False
        if self.ok:
            for host in self.hosts:
                yield host, "decide", {"decision": "COMMIT", "release": self.name}
                if self.answer:
                    committed = True
                    yield host, "confirm", {"release": self.name}
                    yield host, "processes", {"action": "settle"}
        if not committed:
            yield from self.each("revert", why="a phase failed")
        yield from self.each("lease", action="release")


class Hosts(RuleBasedStateMachine):
    """Three hosts."""

    tools: Any  # set by the test below: conftest's classes are fixtures

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(route, "SLOTS", 2)
        self.patch.setattr(status, "SLOTS", 2)
        self.roots = [self.tools.make_directory() for _ in range(3)]
        self.fleet = self.tools.Fleet(self.patch, self.roots)
        self.killer = self.tools.Killer(self.patch, self.fleet)
        self.fleet.at_question = self.killer.point
        self.number = 0
        self.controllers: list[Controller] = []
        self.decided: dict[str, str] = {}  # what the register has said, once and for all
        self.switched: dict[tuple[str, str], bool] = {}  # host, deploy → it was confirmed there
        self.begin(1, False, 100.0)
        self.drive(0, 100)
        assert len({host.live() for host in self.fleet.hosts}) == 1

    def teardown(self) -> None:
        try:
            self.afterwards()
        finally:
            self.clean()

    def clean(self) -> None:
        self.patch.undo()
        for root in self.roots:
            shutil.rmtree(root)

    def act(self, host: Any, verb: str, deploy_id: str, fence: int | None, params: dict[str, Any]) -> Any:
        """One call of the host's program. None: it failed."""
        if not host.up:
            return None
        try:
            return self.fleet.on(host).do(verb, deploy_id, fence, **params)
        except BluegreenError as problem:
            if problem.code not in EXPECTED:
                raise
            return None

    def step(self, controller: Controller, crash: int | None) -> None:
        """The controller's next action; the host's process may die in it, and then nobody hears the answer."""
        try:
            host, verb, params = next(controller.actions)
        except StopIteration:
            controller.ended = True
            return
        if verb == "configure":
            params = {**params, "artifact": host.staged(controller.build)}
        controller.answer = None
        with self.killer.at(crash):
            controller.answer = self.act(host, verb, controller.id, controller.fence, params)

    def deploy(
        self,
        build: int,
        without: bool,
        ttl: float,
        steps: int,
        crash: int | None,
        trouble: str,
        number: int,
        more: int,
        well: bool,
        then: int,
    ) -> None:
        """A deploy, and trouble at some step: from the route (12) to the last confirm (24) is what matters most."""
        if well:  # the lease of a dead controller has ended, and everything answers
            self.fleet.cut = set()
            self.the_register("answers")
            self.fleet.pass_time(LEASE)
        self.begin(build, without, ttl)
        controller = self.controllers[-1]
        self.drive(len(self.controllers) - 1, steps, crash)
        if trouble == "cut":
            self.cut_or_join(number)
        elif trouble in ("silent", "lossy"):
            self.the_register(trouble)
        elif trouble == "off" and sum(host.up for host in self.fleet.hosts) > 1:
            self.fleet.hosts[number].up = False
        if controller in self.controllers:
            if trouble == "kill":
                self.controllers.remove(controller)
            elif more:
                self.drive(self.controllers.index(controller), more, None)
        self.fleet.pass_time(then)

    # thrice, because hypothesis leaves out some rules in each example: without deploys there is nothing to see
    deploy_1 = precondition(lambda self: len(self.controllers) < 2)(rule(**DEPLOY)(deploy))
    deploy_2 = precondition(lambda self: len(self.controllers) < 2)(rule(**DEPLOY)(deploy))
    deploy_3 = precondition(lambda self: len(self.controllers) < 2)(rule(**DEPLOY)(deploy))

    def begin(self, build: int, without: bool, ttl: float) -> None:
        """A controller starts; one that is told so leaves out the hosts that are down."""
        self.number += 1
        hosts = [host for host in self.fleet.hosts if host.up or not without]
        self.controllers.append(Controller(self.number, hosts, build, ttl))

    @precondition(lambda self: self.controllers)
    @rule(which=st.integers(0, 1), steps=st.sampled_from([1, 3, 6, 12, 40]), crash=CRASHES)
    def drive(self, which: int, steps: int, crash: int | None = None) -> None:
        """A controller goes on for some steps; a process dies in the last one."""
        controller = self.controllers[which % len(self.controllers)]
        for left in range(steps, 0, -1):
            self.step(controller, crash if left == 1 else None)
            self.outcomes()
            if controller.ended:
                self.controllers.remove(controller)
                return

    @rule(number=HOSTS)
    def cut_or_join(self, number: int) -> None:
        self.fleet.cut ^= {self.fleet.hosts[number].name}

    @rule(how=st.sampled_from(["silent", "lossy", "answers", "answers"]))
    def the_register(self, how: str) -> None:
        self.fleet.register.silent, self.fleet.register.lossy = how == "silent", how == "lossy"

    @rule(seconds=st.sampled_from([1, 4, 21, 31, 101]))
    def time_passes(self, seconds: int) -> None:
        self.fleet.pass_time(seconds)

    @rule(number=HOSTS, crash=CRASHES)
    def boot(self, number: int, crash: int | None) -> None:
        """Power on, or a reboot; a power cut in the middle of it, and again."""
        host = self.fleet.hosts[number]
        host.up = True
        if crash is not None:
            with self.killer.at(crash):
                self.fleet.on(host).boot()
        self.fleet.on(host).boot()

    @rule(number=HOSTS, crash=CRASHES, verb=st.sampled_from(["revert", "reconcile"]))
    def a_person(self, number: int, crash: int | None, verb: str) -> None:
        with self.killer.at(crash):
            self.act(self.fleet.hosts[number], verb, "local-1-1", None, {})

    @rule(number=HOSTS)
    def unlock(self, number: int) -> None:
        """Somebody believes that the holder is dead."""
        if lease := self.fleet.register.lease:
            self.act(self.fleet.hosts[number], "lease", "", None, {"action": "break", "lease": lease["deploy_id"]})

    @invariant()
    def outcomes(self) -> None:
        """What was said once stands, on every host: a confirmed deploy was committed, one that is gone was aborted."""
        for deploy_id, row in self.fleet.register.decisions.items():
            assert self.decided.setdefault(deploy_id, row.decision) == row.decision
        for host in self.fleet.hosts:
            kept = state.State(host.paths)
            live, pending = kept.live(), kept.pending()
            if pending:
                self.switched.setdefault((host.name, pending.deploy_id), False)
            if live:
                assert self.decided.get(live.deploy_id) == "COMMIT"
                self.switched[host.name, live.deploy_id] = True
            for (name, deploy_id), confirmed in self.switched.items():
                if name == host.name and not confirmed and (pending is None or pending.deploy_id != deploy_id):
                    assert self.decided.get(deploy_id) == "ABORT", (name, deploy_id)

    @invariant()
    def visitors_meet_the_confirmed_or_the_pending_release(self) -> None:
        for host in self.fleet.hosts:
            kept = state.State(host.paths)
            live, pending = kept.live(), kept.pending()
            good = {item.release for item in (live, pending) if item}
            assert not host.up or set(host.routed()) <= good | {""}

    @invariant()
    def an_unfinished_switch_is_watched(self) -> None:
        for host in self.fleet.hosts:
            if host.up and state.State(host.paths).pending():
                assert host.system.timers

    def afterwards(self) -> None:
        """Every controller is dead; the network and PostgreSQL are well again; the deadlines pass."""
        self.controllers.clear()
        self.fleet.cut = set()
        self.fleet.register.silent = self.fleet.register.lossy = False
        for host in self.fleet.hosts:
            if not host.up:
                host.up = True
                self.fleet.on(host).boot()
        self.fleet.pass_time(101 + 4)
        self.outcomes()
        for host in self.fleet.hosts:
            assert state.State(host.paths).pending() is None
            self.fleet.on(host).do("reconcile")
        latest = max(
            (row for row in self.fleet.register.decisions.values() if row.decision == "COMMIT"),
            key=lambda row: row.generation,
        )
        serving = [host for host in self.fleet.hosts if host.serves_visitors()]
        assert serving
        assert {host.live() for host in serving} == {latest.release}
        # and the next deploy finds nothing in its way
        self.number += 1
        last = Controller(self.number, list(self.fleet.hosts), 9, 60.0)
        while not last.ended:
            self.step(last, None)
        name = last.name
        for host in self.fleet.hosts:
            self.fleet.on(host).do("prune", "local-1-1")
        self.fleet.pass_time(101)
        for host in self.fleet.hosts:
            self.fleet.on(host)
            assert host.live() == name
            assert host.routed() == {name: 100}
            assert host.serves_visitors()
            assert host.do("status")["drift"] == []
            assert host.system.timers == {}
            host.do("reconcile")
            assert not list(host.root.rglob(".tmp-*"))
            assert not (host.paths.state / "outdated.json").exists()
            assert host.do("lease")["lease"] is None


WALKS = int(os.environ.get("BLUEGREEN_WALKS", "60" if os.environ.get("BLUEGREEN_TEST_FULL") else "30"))
FIRST_SEED = int(os.environ.get("BLUEGREEN_SEED", "1"))


def walk(machine: Hosts, dice: random.Random) -> None:
    """A few events by chance; more than half are deploys."""

    def crash() -> int | None:
        return dice.choice([None, dice.randrange(46)])

    def event() -> None:
        number, kind = dice.randrange(3), dice.randrange(12)
        if kind < 7 and len(machine.controllers) < 2:
            machine.deploy(
                build=dice.randrange(1, 5),
                without=dice.random() < 0.5,
                ttl=dice.choice([20.0, 100.0]),
                steps=dice.randrange(10, 25),
                crash=crash(),
                trouble=dice.choice(["none", "cut", "silent", "lossy", "off", "kill", "kill"]),
                number=number,
                more=dice.choice([0, 0, 3, 10]),
                well=dice.random() < 0.7,
                then=dice.choice([0, 4, 21, 31, 101]),
            )
        elif kind < 9 and machine.controllers:
            machine.drive(dice.randrange(2), dice.choice([1, 6, 40]), crash())
        elif kind == 9:
            machine.boot(number, crash())
        elif kind == 10:
            machine.a_person(number, crash(), dice.choice(["revert", "reconcile"]))
        elif dice.random() < 0.5:
            machine.unlock(number)
        else:
            machine.the_register(dice.choice(["silent", "lossy", "answers"]))

    for _ in range(8):
        event()
        machine.outcomes()
        machine.visitors_meet_the_confirmed_or_the_pending_release()
        machine.an_unfinished_switch_is_watched()


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + WALKS))
def test_walks(tools: Any, seed: int) -> None:
    """BLUEGREEN_WALKS=1000 BLUEGREEN_SEED=61 for more of them."""
    Hosts.tools = tools
    machine = Hosts()
    try:
        walk(machine, random.Random(seed))
        machine.afterwards()
    finally:
        machine.clean()


def test_any_order_of_events(tools: Any) -> None:
    Hosts.tools = tools
    run_state_machine_as_test(
        Hosts,
        settings=settings(
            max_examples=20, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
