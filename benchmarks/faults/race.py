"""Several controllers at once: one may change the fleet, the others change nothing."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from support.example_fleet import APP

from .judge import Run
from .rig import NEW, OLD, Controller, Report, Rig, processes_of

CASE = "race"
FREEZES = ("Start", "Switch", "Watch", "Confirm")


def race(rig: Rig, options: Namespace, report: Report) -> None:
    """Leases, then whole controllers, then a frozen one."""
    rig.given(OLD)
    rig.given(NEW)
    for number in range(1, options.rounds + 1):
        report(leases(rig, number, options))
    for number in range(1, options.playbook_rounds + 1):
        report(playbooks(rig, number, options))
    for number in range(1, options.playbook_rounds + 1):
        report(both(rig, number, options))
    for phase in FREEZES:
        report(frozen(rig, phase, options))


def ask(rig: Rig, host: str, deploy: str, action: str) -> dict[str, Any]:
    """One lease call on one host, as a controller's batch."""
    step = {"verb": "lease", "action": action, "ttl": 20.0, "what": f"race {deploy}", "brief": True}
    if action == "release":
        step = {"verb": "lease", "action": "release"}
    call = {"deploy_id": deploy, "holder": deploy, "fence": None, "steps": [step]}
    text = rig.on(host, f"exec bluegreen batch --app {APP}", stdin=json.dumps(call).encode(), check=False, timeout=120)
    try:
        answer: dict[str, Any] = json.loads(text)
    except ValueError:
        return {"ok": False, "error": {"what": text[-200:], "code": "no answer"}}
    return answer


def leases(rig: Rig, number: int, options: Namespace) -> Run:
    """Many controllers want the lease on all hosts at the same moment: one gets it, on all of them."""
    point = f"{options.controllers} controllers, round {number}"
    result = Run(CASE, f"{options.controllers} want the lease at once", point, options.seed)
    start = time.monotonic()
    ids = [f"20260101t000000-{uuid.uuid4().hex[:6]}" for _ in range(options.controllers)]
    pairs = [(deploy, host) for deploy in ids for host in rig.hosts]
    with ThreadPoolExecutor(len(pairs)) as pool:
        answers = dict(zip(pairs, pool.map(lambda pair: ask(rig, pair[1], pair[0], "take"), pairs), strict=True))
    granted = {deploy: [host for host in rig.hosts if answers[deploy, host].get("ok")] for deploy in ids}
    winners = [deploy for deploy in ids if len(granted[deploy]) == len(rig.hosts)]
    partly = {deploy: hosts for deploy, hosts in granted.items() if 0 < len(hosts) < len(rig.hosts)}
    if len(winners) != 1:
        result.problems.append(f"{len(winners)} winners")
    if partly:
        result.problems.append(f"granted on some hosts only: {partly}")
    codes = {str((answer.get("error") or {}).get("code")) for answer in answers.values() if not answer.get("ok")}
    if codes - {"5"}:
        others = [
            answer["error"] for answer in answers.values() if not answer.get("ok") and answer["error"]["code"] != 5
        ]
        result.notes.append(f"other refusals ({len(others)}): {others[0]}")
    held = {name: (status["lease"] or {}).get("deploy_id") for name, status in rig.status().items()}
    if winners and set(held.values()) != set(winners):
        result.problems.append(f"{winners[0]} won, the hosts name {held}")
    for deploy in [*winners, *partly]:
        for host in rig.hosts:
            ask(rig, host, deploy, "release")
    result.whole = 0.0
    result.ended = rig.ended(rig.hosts)
    return rig.finish(result, start, rig.hosts, None)


def told(controller: Controller) -> str:
    """Its status and last words."""
    return f"status {controller.process.returncode}: {controller.last_lines()}"


def playbooks(rig: Rig, number: int, options: Namespace) -> Run:
    """Real controllers at once, each with a configuration of its own."""
    result = Run(CASE, f"{options.deploys} deploys at once", f"round {number}", options.seed)
    rig.given(OLD)
    start = time.monotonic()
    commands = [rig.deploy_command(NEW, wait=0) for _ in range(options.deploys)]
    controllers = [rig.start(command, "at once") for command in commands]
    statuses = [controller.wait(600) for controller in controllers]
    one_winner(rig, result, controllers, statuses, {NEW})
    return rig.finish(result, start, rig.hosts, rig.ttl, bounded=False)


def both(rig: Rig, number: int, options: Namespace) -> Run:
    """A deploy and a rollback at once."""
    result = Run(CASE, "deploy and rollback at once", f"round {number}", options.seed)
    rig.given(NEW)
    start = time.monotonic()
    first = rig.start(rig.deploy_command(NEW, wait=0), "deploy at once")
    second = rig.start(rig.rollback_command(OLD, wait=0), "rollback at once")
    statuses = [first.wait(), second.wait()]
    goals = {goal for goal, status in zip((NEW, OLD), statuses, strict=True) if status == 0}
    one_winner(rig, result, [first, second], statuses, goals)
    return rig.finish(result, start, rig.hosts, rig.ttl, bounded=False)


def one_winner(rig: Rig, result: Run, controllers: list[Controller], statuses: list[int], goals: set[str]) -> None:
    """Exactly one ended well, and its release is live."""
    ended = time.monotonic()
    result.whole = rig.observe(ended, rig.hosts, controllers)
    result.ended = rig.ended(rig.hosts)
    if statuses.count(0) != 1:
        result.problems.append(f"{statuses.count(0)} ended well: {statuses}")
    if result.ended not in goals:
        result.problems.append(f"{result.ended} is live, not {goals}")
    result.notes += [told(one) for one, status in zip(controllers, statuses, strict=True) if status][:2]


def frozen(rig: Rig, phase: str, options: Namespace) -> Run:
    """A controller sleeps past its lease; another one works meanwhile; the first wakes up and may change nothing."""
    result = Run(CASE, "a controller frozen past its lease", f"before {phase}", options.seed)
    rig.given(OLD)
    rig.unmigrate()
    start = time.monotonic()
    plan = {"at": f"before:{phase}", "do": "pause"}
    sleeper = rig.start(rig.hurried(rig.deploy_command(NEW, wait=0)), f"sleeper {phase}", plan)
    until = time.monotonic() + 180
    while sleeper.hit is None and sleeper.process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    pids = processes_of(sleeper.name)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    other = rig.start(rig.deploy_command(OLD), "the other")
    result.rerun = other.wait()
    before = {name: (status["live"], status["fence"]) for name, status in rig.status().items()}
    sleeper.go.touch()
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    status = sleeper.wait()
    result.whole = rig.observe(time.monotonic(), rig.hosts, [sleeper])
    result.ended = rig.ended(rig.hosts)
    after = {name: (found["live"], found["fence"]) for name, found in rig.status().items()}
    if result.rerun:
        result.notes.append(f"the other: {told(other)} ({other.log.name})")
    if status == 0:
        result.problems.append("the revived controller says that it succeeded")
    if before != after:
        result.problems.append(f"the revived controller changed {before} to {after}")
    result.notes.append(f"the revived: {told(sleeper)}")
    return rig.finish(result, start, rig.hosts, rig.ttl, bounded=False)
