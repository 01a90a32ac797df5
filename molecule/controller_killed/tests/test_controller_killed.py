"""The controller dies without a word: visitors notice nothing, all hosts end on one release, the same again works.

A handful of the points that `benchmarks/faults.py controller-kill` goes through one by one; SEED chooses among those
that do not stand by name. The tests are one story: a deploy is what the rollback after it goes back from.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path

import pytest
from promises import LOGS, REPO, Deployment, until

from support.example_fleet import release_at

OLD, NEW = "r1", "r2"
TTL = 5  # seconds until an unconfirmed switch goes back
LEASE = 4  # seconds until the lease of a dead controller is free
SEED = int(os.environ.get("FAULT_SEED", "1"))
CHANCE = random.Random(SEED)
TIMES = {"wait": 60}
HURRIED = {"rollout_ttl": TTL, "rollout_lease_ttl": LEASE}  # for the run that dies

# Where the controller dies: before the switch, right after it, right before its confirmation, while hosts work.
FULL = pytest.mark.full
POINTS = [
    pytest.param("deploy.yml", f"before:{CHANCE.choice(['Stage', 'Start', 'Smoke'])}", marks=FULL),
    pytest.param("rollback.yml", "before:Confirm", marks=FULL),
    ("deploy.yml", "before:Watch"),  # right after the switch
    ("rollback.yml", f"during:{CHANCE.choice(['Preflight', 'Switch'])}"),
    ("deploy.yml", "before:Confirm"),
]


def killed(fleet: Deployment, playbook: str, point: str, whom: str, directory: Path, **extra: object) -> None:
    """Run a playbook whose controller is killed at a point; nothing of what it prints is waited for."""
    callbacks = f"{REPO / 'plugins' / 'callback'}:{REPO / 'benchmarks' / 'faults' / 'callback'}"
    plan = {"FAULT_AT": point, "FAULT_DO": "KILL", "FAULT_WHOM": whom, "FAULT_DELAY": f"{CHANCE.uniform(0, 0.4):.3f}"}
    timeline = directory / "timeline"
    LOGS.mkdir(parents=True, exist_ok=True)
    with (LOGS / f"killed-{playbook}-{point.replace(':', '-')}.log").open("wb") as log:
        process = subprocess.Popen(
            fleet.command(playbook, **{**HURRIED, **extra}),
            cwd=REPO,
            env=fleet.environment() | {"ANSIBLE_CALLBACK_PLUGINS": callbacks, "FAULT_TIMELINE": str(timeline)} | plan,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status = process.wait(180)
    assert status == -signal.SIGKILL, f"the controller should die {point}, it ended with status {status}: {log.name}"


def serves_everywhere(fleet: Deployment, release: str, token: str) -> bool:
    """Whether visitors get this release through every door."""
    wanted = fleet.sha(release)[:12]
    return all(release_at(url, fleet.domain, token).startswith(wanted) for url in fleet.urls)


@pytest.mark.parametrize(("playbook", "point"), POINTS)
def test_the_fleet_ends_on_one_release_in_time_and_the_same_again_works(
    fleet: Deployment, playbook: str, point: str, tmp_path: Path
) -> None:
    deploys = playbook == "deploy.yml"
    before, goal = (OLD, NEW) if deploys else (NEW, OLD)
    fleet.given(before)
    extra = {"sha": fleet.sha(NEW), "watch": 1} if deploys else {"to": fleet.sha(OLD)}
    token = fleet.probe_token()
    with fleet.under_load(rate=15):
        killed(fleet, playbook, point, CHANCE.choice(("all", "parent")), tmp_path, **extra)
        # What the controller left under way may still arm a switch: its deadline counts from then.
        late = 1 if point.startswith("during") else 0
        until(lambda: serves_everywhere(fleet, before, token), f"every host is back on {before}", TTL + 1 + late)
        until(lambda: not any(status["pending"] for status in fleet.status().values()), "nothing is pending", 15)
        fleet.must(playbook, **TIMES, **extra)
        fleet.expect_live(goal)
    assert [status["lease"] for status in fleet.status().values()] == [None] * len(fleet.app_servers)


def test_a_re_run_need_not_wait_for_the_deadline(fleet: Deployment, tmp_path: Path) -> None:
    fleet.must("rollback.yml", to=fleet.sha(OLD))
    with fleet.under_load(rate=15):
        killed(fleet, "deploy.yml", "before:Confirm", "all", tmp_path, sha=fleet.sha(NEW), watch=1, rollout_ttl=120)
        assert all(status["pending"] for status in fleet.status().values()), "the switch should be pending everywhere"
        ran = fleet.must("deploy.yml", **TIMES, sha=fleet.sha(NEW), watch=1)
        fleet.expect_live(NEW)
    assert ran.seconds < 100, ran.tail()
