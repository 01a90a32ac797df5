"""The host program in the place of the model: one step of the model is one call of the program's own functions.

The hosts are those of the unit tests: directories, a simulated systemd, a register in memory. After each step the state
of the program is reduced to the model's words (`observe`) and must be one that the model has for that step.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import random
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from bluegreen import lease, release, route, state, status
from bluegreen.config import other
from bluegreen.errors import BluegreenError
from tests.model.protocol import (
    CONFIRM,
    END,
    REVERT,
    START,
    SWITCH,
    TAKE,
    Host,
    Model,
    Register,
    State,
    Step,
    replaced,
)  # fmt: skip

FOR_EVER = 1e6  # seconds: leases expire when the model says so
TTL = 60.0  # seconds of a dead-man
BEFORE = 9  # the build that served before
SETTINGS = {"wsgi": "shop.wsgi:application", "settings_module": "shop.settings"}


def load_host_tests() -> Any:
    """The simulated hosts of the unit tests."""
    name = "simulated_hosts"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "unit" / "host" / "conftest.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


class Mismatch(AssertionError):
    """The program did what the model does not know."""


class Code:
    """A fleet of simulated hosts on which the release of before serves."""

    def __init__(self, patch: pytest.MonkeyPatch, roots: list[Path], controllers: int, chance: random.Random):
        simulated = load_host_tests()
        patch.setattr(route, "SLOTS", 2)
        patch.setattr(status, "SLOTS", 2)
        patch.setattr(lease, "TTL", FOR_EVER)
        self.chance, self.controllers = chance, controllers
        self.fleet = simulated.Fleet(patch, roots)
        self.killer = simulated.Killer(patch, self.fleet)
        self.crash = simulated.Crash
        self.fleet.at_question = self.killer.point
        self.names: dict[int, str] = {}
        for host in self.fleet.hosts:
            self.fleet.on(host)
            name = host.release(BEFORE, "local-0-1", None)
            host.do("start", "local-0-1", release=name, alive=0.0)
            host.do("route", "local-0-1", release=name)
            host.do("confirm", "local-0-1", release=name)

    def leave_out_last(self) -> None:
        """Deploy 1 on all hosts but the last one, which then starts again."""
        *most, last = self.fleet.hosts
        for phase in (TAKE, START, SWITCH, CONFIRM):
            for host in most:
                self.call(self.fleet.on(host), 1, phase, 1, "")
        for host in most:
            self.fleet.on(host).do("lease", self.id(1), 1, action="release")
        self.fleet.on(last).boot()

    @staticmethod
    def id(number: int) -> str:
        return f"20260101T000000-{number:06x}"

    def number(self, deploy_id: str | None) -> int:
        """The deploy's number; 0 for what is not of a controller."""
        return int(deploy_id.split("-")[1], 16) if deploy_id and deploy_id.startswith("2026") else 0

    # what a step of the model is

    def do(self, step: Step, phase: int, fence: int) -> bool:
        """Do what a step says. Returns whether the program was content."""
        if step.where is None:
            self.expire()
            return True
        host, how = self.fleet.on(self.fleet.hosts[step.where]), step.how.removesuffix(" late")
        if how == "unreachable":
            return False
        self.fleet.register.lossy = how == "lost"
        self.fleet.cut = {host.name} if how == "silent" else set()
        done = False
        with self.killer.at(self.chance.randrange(30) if how == "killed" else None):
            try:
                if step.who != "host":
                    self.call(host, int(step.who.split()[1]), phase, fence, how)
                elif step.words.startswith("dead-man"):
                    self.fire(host)
                else:
                    host.boot()
                done = True
            except BluegreenError:
                pass
        self.fleet.register.lossy, self.fleet.cut = False, set()
        return done and how not in ("killed", "deaf")

    def call(self, host: Any, me: int, phase: int, fence: int, how: str) -> None:
        """The verbs of a phase, as the roles send them."""
        mine: dict[str, Any] = {"deploy_id": self.id(me), "fence": fence}
        if phase == TAKE:
            mine["fence"] = None
            host.do("lease", **mine, action="take", what="deploy", ttl=FOR_EVER, cap=1e9, brief=True)
            self.fleet.cut |= {host.name} if how == "cut" else set()
            host.do("resume", **mine)
        elif phase == START:
            made = host.do("configure", **mine, artifact=host.staged(me), config=SETTINGS)
            name = self.names[me] = str(made["release"])
            host.system.failing = {name: ["ImportError: no"]} if how == "bad" else {}
            try:
                host.do("start", **mine, release=name, alive=0.0)
            finally:
                host.system.failing = {}
        elif phase == SWITCH:
            host.do("route", **mine, release=self.names.get(me, "none"), ttl=TTL)
        elif phase == CONFIRM:
            host.do("decide", **mine, decision="COMMIT", release=self.names.get(me, "none"))
            self.fleet.cut |= {host.name} if how == "cut" else set()
            host.do("confirm", **mine, release=self.names.get(me, "none"))
        elif phase == REVERT:
            host.do("revert", **mine)

    def fire(self, host: Any) -> None:
        """The dead-man's timers of a host elapse. A service that fails or is killed is started again."""
        host.system.clock += TTL + 1
        for name, words in host.system.due():
            try:
                host.do("revert", deploy_id="local-1-1", deadman=words[words.index("--deadman") + 1])
            except (BluegreenError, self.crash):
                again = name.rsplit(".", 1)[0] + ".service"
                host.system.timers[again] = (host.system.clock + 3, words)
                raise

    def expire(self) -> None:
        """The lease ends, and so have the hosts' copies of it."""
        row = self.fleet.register.lease
        row["expires"] = self.fleet.clock
        for host in self.fleet.hosts:
            copy = state.State(host.paths).kept_lease()
            if copy and copy.deploy_id == row["deploy_id"]:
                self.forget_lease(host)

    def forget_lease(self, host: Any) -> None:
        """What a host knows of the lease has expired."""
        kept = state.State(host.paths)
        copy = kept.kept_lease()
        assert copy is not None
        kept.set_lease(dataclasses.replace(copy, expires_at=0.0))

    # what the program's state is in the model's words

    def observe(self) -> tuple[Register, tuple[Host, ...]]:
        kept, row = self.fleet.register, self.fleet.register.lease
        rows = [0] * self.controllers
        for deploy_id, decision in kept.decisions.items():
            rows[self.number(deploy_id) - 1] = 1 if decision.decision == "COMMIT" else -1
        holder = self.number(row["deploy_id"]) if row else 0
        expired = bool(row) and row["expires"] <= self.fleet.clock
        register = Register(holder, expired, kept.generation, tuple(rows))
        return register, tuple(self.observe_host(host) for host in self.fleet.hosts)

    def observe_host(self, host: Any) -> Host:
        self.fleet.on(host)  # whose clock counts
        kept = state.State(host.paths)
        live, pending, leased = kept.live(), kept.pending(), kept.lease()
        colour = other(live.colour) if live else "blue"
        held = release.resolved(host.paths, colour)
        record = kept.record(held) if held else None
        tried = {name: number for number, name in self.names.items()}
        forward = pending is not None and route.shares(route.read(host.paths), host.paths)[pending.colour] > 0
        return plain(
            Host(
                live=self.number(live.deploy_id) if live else 0,
                pending=self.number(pending.deploy_id) if pending else 0,
                provisional=bool(pending and pending.provisional),
                forward=forward,
                idle=tried.get(held or "", 0) if record and record.state != "confirmed" else 0,
                runs=host.system.serving(colour) == held,
                # a service that was asking finds nothing to do within seconds: that is no timer any more
                timer=any(pending or name.endswith(".timer") for name in host.system.timers),
                fence=kept.fence(),
                copy=self.number(leased.deploy_id) if leased else 0,
                outdated=host.paths.outdated.exists(),
            )
        )


def plain(host: Host) -> Host:
    """A host without what only the model knows, and without what makes no difference."""
    host = host._replace(newest=0, told=False)
    if host.pending and host.pending == host.live:
        return host._replace(idle=0, runs=False, forward=True, provisional=False)
    if host.idle <= 0 or (not host.pending and not host.runs):
        return host._replace(idle=0, runs=False)
    return host


def plain_state(model_state: State) -> tuple[Register, tuple[Host, ...]]:
    register = model_state.register
    rows = tuple((row > 0) - (row < 0) for row in register.rows)
    return register._replace(rows=rows), tuple(plain(cell.host) for cell in model_state.cells)


# what a step may turn into when the program decides how it goes: a cut register is not asked by every call, and a
# killed call may have come anywhere
MAY_BE = {
    "": {""},
    "bad": {"", "bad"},
    "deaf": {"deaf"},
    "silent": {"", "silent", "cut"},
    "cut": {"", "cut"},
    "lost": {"", "silent", "cut", "lost"},
    "killed": {"", "silent", "cut", "lost", "killed", "deaf", "bad"},
}


LIKELY = {"": 20.0, "unreachable": 0.1, "deaf": 0.3}


class Walk:
    """A walk through the model, with the program beside it."""

    def __init__(self, model: Model, patch: pytest.MonkeyPatch, roots: list[Path], seed: int):
        self.model, self.chance = model, random.Random(seed)
        self.code = Code(patch, roots, model.controllers, self.chance)
        if model.left_out:
            self.code.leave_out_last()
        self.state = model.first()
        self.told: list[str] = []
        self.compare([self.state], self.state)

    def wander(self, steps: int) -> None:
        """Some steps at random."""
        for _ in range(steps):
            possible = list(self.model.moves(self.state))
            # a fault in every step, or a second run before the first came anywhere, leads nowhere
            weights = [LIKELY.get(step.how, 0.5) * (1.0 if step.who.startswith("c") else 0.2) for step in possible]
            if possible:
                self.take(self.chance.choices(possible, weights)[0], possible)

    def follow(self, way: list[Step]) -> bool:
        """Go a given way. False if the program, rightly, went another one: when a call is killed is up to it."""
        for wanted in way:
            possible = list(self.model.moves(self.state))
            step = next((step for step in possible if step == wanted), None)
            if step is None:
                return False
            self.take(step, possible)
        return True

    def take(self, step: Step, possible: list[Step]) -> None:
        """Do a step in the program, and go where the program went."""
        phase, fence, failed = self.phase(step)
        done = self.code.do(step, phase, fence)
        self.told.append(f"{step.who:14} {'' if step.where is None else f'h{step.where + 1}'} {step.words}")
        if step.how == "unreachable":
            self.state = step.state
            return
        late = step.how.endswith(" late")
        indifferent = late or phase == REVERT or step.who == "host" or failed
        allowed = MAY_BE[step.how.removesuffix(" late")]
        states = [
            other_way.state
            for other_way in possible
            if (other_way.who, other_way.where, kind(other_way)) == (step.who, step.where, kind(step))
            and other_way.how.endswith(" late") == late
            and other_way.how.removesuffix(" late") in allowed
            and (indifferent or other_way.ok == done)
        ]
        if "killed" in step.how:
            states += self.nothing_done(step, possible, late)
        self.compare(states, step.state)

    def nothing_done(self, step: Step, possible: list[Step], late: bool) -> list[State]:
        """A call that was killed before it did anything is one that never came."""
        if step.who == "host":
            return [self.state]
        assert step.where is not None
        if not late:
            return [
                other_way.state
                for other_way in possible
                if (other_way.who, other_way.where) == (step.who, step.where) and "unreachable" in other_way.words
            ]
        cell, number = self.state.cells[step.where], int(step.who.split()[1]) - 1
        free = cell._replace(late=replaced(cell.late, number, END))
        return [self.state._replace(cells=replaced(self.state.cells, step.where, free))]

    def phase(self, step: Step) -> tuple[int, int, bool]:
        """Which phase's call a step is, its generation, and whether its run has failed already."""
        if not step.who.startswith("controller"):
            return TAKE, 0, True
        assert step.where is not None
        number = int(step.who.split()[1]) - 1
        late = step.how.endswith(" late")
        run = self.state.runs[number]
        return (self.state.cells[step.where].late[number] if late else run.phase), run.fence, run.failed

    def compare(self, states: list[State], wanted: State) -> None:
        """Go to the state that the program is in."""
        seen = self.code.observe()
        found = [model_state for model_state in states if plain_state(model_state) == seen]
        if not found:
            raise Mismatch("\n".join([*self.told, *difference(seen, states)]))
        self.state = wanted if wanted in found else self.chance.choice(found)


def ways_to_everything(model: Model) -> list[list[Step]]:
    """To every kind of step that the model has, a shortest way."""
    first = model.first()
    ways: dict[State, tuple[Step, ...]] = {first: ()}
    found: dict[tuple[str, str, str], list[Step]] = {}
    for state_now in (queue := [first]):  # it grows
        for step in model.moves(state_now):
            way = (*ways[state_now], step)
            found.setdefault((step.who, re.sub(r"generation \d+|, \d+]", "", step.words), step.how), list(way))
            # where a killed call was killed is not known before
            if step.state not in ways and step.how in ("", "silent", "cut", "bad", "unreachable"):
                ways[step.state] = way
                queue.append(step.state)
    return list(found.values())


def kind(step: Step) -> str:
    """The dead-man's steps and those of a boot are different calls."""
    return step.words.split()[0] if step.who == "host" else ""


def difference(seen: tuple[Register, tuple[Host, ...]], states: list[State]) -> list[str]:
    """What the program's state is, and what it might have been."""
    lines = [f"the program: {seen[0]}", *(f"   {host}" for host in seen[1])]
    for expected in dict.fromkeys(plain_state(model_state) for model_state in states):
        lines += [f"the model:   {expected[0]}", *(f"   {host}" for host in expected[1])]
    return lines
