"""A host dies, hangs, or is cut off, at each phase of a deploy; the controller lives and has to cope."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from support.common import Failure
from support.hosts import as_root

from . import judge
from .judge import Run
from .rig import NEW, OLD, Controller, Report, Rig

CASE = "host"
FAULTS = ("killed", "paused", "gone", "cut off from the controller", "cut off from PostgreSQL")
PHASES = ("Preflight", "Stage", "Migrate", "Start", "Smoke", "Switch", "Watch", "Confirm")
AWAY = 4.0  # seconds beyond the time-to-live that a paused or cut off host stays so
BACK = 60.0  # seconds within which a host that came back must be as the others, or serve nothing

DROP = """
table inet fault {{
  chain in {{ type filter hook input priority -300; tcp dport {dport} drop; tcp sport {sport} drop; }}
  chain out {{ type filter hook output priority -300; tcp dport {sport} drop; tcp sport {dport} drop; }}
}}
"""
# Only SSH: the visitors of a host that its controller cannot reach go on.
CUTS = {"cut off from the controller": ("22", "1"), "cut off from PostgreSQL": ("1", "5432")}


@dataclass(frozen=True)
class Plan:
    """One fault of one host at one phase."""

    fault: str
    when: str
    phase: str
    victim: str
    delay: float = 0.0

    @property
    def text(self) -> str:
        """For people."""
        late = f" + {self.delay:.2f} s" if self.when == "during" else ""
        return f"{self.victim} {self.fault} {self.when} {self.phase}{late}"


def plans(rig: Rig, seed: int) -> list[Plan]:
    """Every fault before every phase, and while hosts switch and confirm; the seed chooses the host."""
    import random

    chance = random.Random(seed)  # noqa: S311
    found = []
    for fault in FAULTS:
        # `without` does not leave out the migration host, the first one: another has to be named in its settings
        victims = rig.hosts[1:] if fault == "gone" else rig.hosts
        for phase in PHASES:
            found.append(Plan(fault, "before", phase, chance.choice(victims)))
        for phase in ("Switch", "Confirm"):
            found.append(Plan(fault, "during", phase, chance.choice(victims), round(chance.uniform(0, 0.5), 3)))
    return found


class Victim:
    """A host that is hurt, and healed again."""

    def __init__(self, rig: Rig, plan: Plan) -> None:
        self.rig, self.plan, self.name = rig, plan, plan.victim
        self.pid = rig.pid(self.name)
        self.hurt_now = False

    def hurt(self) -> None:
        """The fault."""
        self.hurt_now = True
        if self.plan.fault in ("killed", "gone"):
            os.kill(int(self.pid), signal.SIGKILL)  # at once: the first process takes all others with it
            self.rig.pids.pop(self.name, None)
        elif self.plan.fault == "paused":
            self.rig.podman("pause", self.rig.container(self.name), what=f"pause {self.name}")
        else:
            dport, sport = CUTS[self.plan.fault]
            self._nft("-f", "-", text=DROP.format(dport=dport, sport=sport))

    def heal(self) -> None:
        """The end of it."""
        if not self.hurt_now:
            return
        self.hurt_now = False
        if self.plan.fault in ("killed", "gone"):
            self._start()
        elif self.plan.fault == "paused":
            self.rig.podman("unpause", self.rig.container(self.name), what=f"wake {self.name}")
        else:
            self._nft("delete", "table", "inet", "fault")

    def _start(self) -> None:
        """Power on. Podman may not have noticed yet that the host is off: it would start nothing, and say nothing."""
        until = time.monotonic() + 60
        while self.rig.pid(self.name) in ("", self.pid):
            if time.monotonic() > until:
                raise Failure(f"{self.name} does not start")
            self.rig.podman("start", self.rig.container(self.name), what=f"start {self.name}", timeout=120)
        self.rig.pids.pop(self.name, None)

    def _nft(self, *words: str, text: str = "") -> None:
        command = [*as_root(), "nsenter", "-t", self.pid, "-n", "nft", *words]
        done = subprocess.run(command, input=text, text=True, capture_output=True, timeout=20, check=False)
        if done.returncode:
            raise Failure(f"{self.name}: nft: {done.stderr.strip()}")


def host(rig: Rig, options: Namespace, report: Report) -> None:
    """Every fault at every phase."""
    chosen = [
        plan
        for plan in plans(rig, options.seed)
        if (not options.faults or plan.fault in options.faults) and (not options.phases or plan.phase in options.phases)
    ]
    for plan in judge.sample(chosen, options.runs, options.seed):
        report(one(rig, plan, options))


def one(rig: Rig, plan: Plan, options: Namespace) -> Run:
    """One fault of one host."""
    rig.given(OLD)
    rig.unmigrate()
    others = [name for name in rig.hosts if name != plan.victim]
    spared = rig.hosts if plan.fault == "cut off from the controller" else others
    victim = Victim(rig, plan)
    result = Run(CASE, f"host {plan.fault}", plan.text, options.seed)
    command = rig.deploy_command(NEW, watch=2)
    start = time.monotonic()
    at = {"at": f"{plan.when}:{plan.phase}", "do": "pause", "delay": plan.delay}
    controller = rig.start(rig.hurried(command), f"host {plan.when} {plan.phase}", at)
    try:
        fell = strike(controller, victim)
        if fell is None:
            result.notes.append("it ended before its point")
            fell = time.monotonic()
        with ThreadPoolExecutor(1) as beside:
            seen = beside.submit(rig.observe, fell, others, [controller], patience=300)
            status = controlled(controller, victim, rig.ttl + AWAY if plan.fault != "killed" else 1.0, fell)
            result.whole = seen.result()
        result.ended = rig.ended(others)
        result.notes.append(f"the deploy ended with status {status}: {controller.last_lines()}")
        if (status == 0) != (result.ended == NEW):
            result.problems.append(f"status {status}, and {result.ended} is live on the others")
        judge_mix(rig, result, start, spared)
        if plan.fault == "gone":
            without(rig, result, command, others, victim)
    finally:
        victim.heal()
    together = rig.observe(time.monotonic(), rig.hosts) if plan.fault != "gone" else came_back(rig, victim)
    if together is None:
        result.problems.append(f"{plan.victim} never became as the others: {rig.look()}")
    else:
        result.notes.append(f"whole with {plan.victim} {together:.1f} s after its return")
    rig.rerun(result, command, NEW)
    return rig.finish(result, start, spared, rig.ttl, bounded=False)


def strike(controller: Controller, victim: Victim) -> float | None:
    """Hurt the host when the controller has come to the point; when that was, None if it never came."""
    until = time.monotonic() + 180
    while time.monotonic() < until and controller.process.poll() is None:
        if controller.hit is not None:
            victim.hurt()
            fell = time.monotonic()
            controller.go.touch()
            return fell
        time.sleep(0.02)
    return None


def controlled(controller: Controller, victim: Victim, away: float, fell: float) -> int:
    """The controller's end; the host comes back in between, unless it is gone for good."""
    if victim.plan.fault != "gone":
        left = fell + away - time.monotonic()
        time.sleep(max(0.0, left))
        victim.heal()
    return controller.wait(240)


def judge_mix(rig: Rig, result: Run, start: float, spared: list[str]) -> None:
    """How long the hosts that were spared answered with different releases, until the fleet was whole again."""
    seen = judge.traffic(rig.answers, start, time.monotonic(), spared)
    result.notes.append(f"mixed until then: {seen.mixed:.2f} s")


def without(rig: Rig, result: Run, command: list[str], others: list[str], victim: Victim) -> None:
    """A host known to be gone is left out by name: the others get the release."""
    controller = rig.start([*command, "-e", f"without={victim.name}"], "without")
    status = controller.wait()
    ended = rig.ended(others)
    if status or ended != NEW:
        result.problems.append(f"without {victim.name}: status {status}, {ended} is live: {controller.last_lines()}")
    else:
        result.notes.append(f"without {victim.name}: {controller.last_lines(1)}")


def came_back(rig: Rig, victim: Victim) -> float | None:
    """A host that was left out is on again: it must serve nothing older than the fleet; seconds until it is judged."""
    began = time.monotonic()
    until = began + BACK
    while time.monotonic() < until:
        looks = rig.look([victim.name])
        if looks[victim.name] is not None:
            state = rig.on(victim.name, "systemctl is-system-running", check=False).strip()
            if state in ("running", "degraded"):
                break
        time.sleep(0.5)
    time.sleep(2)
    old = rig.fleet.shas[OLD][:12]
    stale = [one for one in rig.answers if one.host == victim.name and one.sent > began and one.release[:12] == old]
    if stale:
        return None
    return time.monotonic() - began
