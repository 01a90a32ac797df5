"""A host that was away while the fleet moved on, and a register that is silent when asked. The tests are one story."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from promises import REPO, Deployment, until

from support.hosts import Podman

OLD, NEW = "r1", "r2"
AWAY = "web3"
NGINX = "systemctl is-active nginx"
PROCESSES = "systemctl show -P MainPID 'orders@*'"


def power(fleet: Deployment, *, on: bool) -> None:
    """Cut or restore the power of the host that is away."""
    if on:
        subprocess.run(
            [REPO / "scripts" / "hosts", "up", fleet.inventory], check=True, capture_output=True, timeout=180
        )
    else:
        Podman()("kill", "--signal", "KILL", f"bluegreen-fleet-{AWAY}", what=f"cut the power of {AWAY}")


def through_the_front(fleet: Deployment) -> str:
    """The address at which visitors come in."""
    return f"http://{next(iter(fleet.groups['load_balancers'].values()))}"


@pytest.fixture(scope="module")
def away(fleet: Deployment) -> Iterator[Deployment]:
    """The fleet with one host that has no power, and the new release on the others."""
    fleet.given(OLD)
    power(fleet, on=False)
    try:
        with fleet.under_load(urls=[through_the_front(fleet)]):
            ran = fleet.must("deploy.yml", sha=fleet.sha(NEW), watch=1, without=AWAY, retry_bad=True)
        assert f"left out as asked: {AWAY}" in ran.output
        yield fleet
    finally:
        power(fleet, on=True)


def test_a_host_that_comes_back_does_not_serve_what_the_fleet_has_left(away: Deployment) -> None:
    with away.under_load(urls=[through_the_front(away)], named=True) as load:
        power(away, on=True)
        until(lambda: away.on(AWAY, "systemctl is-system-running --wait || true"), f"{AWAY} has booted", 120)
        assert away.on(AWAY, NGINX, check=False).strip() == "inactive"
        answered = {release for release in load.tally.releases if release}
    assert answered
    assert not [release for release in answered if release.startswith(away.sha(OLD)[:12])], answered


def test_status_says_why_it_serves_nothing(away: Deployment) -> None:
    ran = away.must("status.yml")
    assert any(AWAY in line and "older than the fleet's" in line for line in ran.lines), ran.tail()


def test_deploying_the_live_release_again_brings_it_up_to_date_and_leaves_the_others_alone(away: Deployment) -> None:
    stayed = [name for name in away.app_servers if name != AWAY]
    ids = {name: away.on(name, PROCESSES) for name in stayed}
    with away.under_load(urls=[through_the_front(away)]):
        away.must("deploy.yml", sha=away.sha(NEW), watch=1, wait=150)
    away.expect_live(NEW)
    assert away.on(AWAY, NGINX).strip() == "active"
    assert {name: away.on(name, PROCESSES) for name in stayed} == ids


def test_while_the_register_is_silent_hosts_go_back_and_follow_its_answer_later(fleet: Deployment) -> None:
    fleet.given(NEW)
    database = next(iter(fleet.groups["databases"]))
    process = fleet.start("rollback.yml", watch=20, rollout_ttl=6, rollout_lease_ttl=10)
    try:
        until(lambda: all(status["pending"] for status in fleet.status().values()), "the switch on all hosts", 60)
        fleet.on(database, "systemctl stop postgresql")
        os.killpg(process.pid, signal.SIGKILL)
        until(
            lambda: all((status["pending"] or {}).get("provisional") for status in fleet.status().values()),
            "all hosts go back for the time being",
            20,
        )
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        fleet.on(database, "systemctl start postgresql")
    until(lambda: not any(status["pending"] for status in fleet.status().values()), "the hosts learn the outcome", 30)
    fleet.expect_live(NEW)


def test_no_deploy_starts_while_the_register_is_silent_and_visitors_are_served(fleet: Deployment) -> None:
    database = next(iter(fleet.groups["databases"]))
    before = fleet.snapshot()
    fleet.on(database, "systemctl stop postgresql")
    try:
        ran = fleet.refuse("deploy.yml", sha=fleet.sha(OLD), watch=0)
    finally:
        fleet.on(database, "systemctl start postgresql")
    assert "register" in ran.output
    assert fleet.snapshot() == before


@pytest.mark.full
def test_the_register_may_be_on_a_server_of_somebody_else(
    fleet: Deployment, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    fleet.given(OLD)
    database = next(iter(fleet.groups["databases"]))
    address = fleet.groups["databases"][database]
    ask = "runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1"
    hba = f"$({ask} -c 'show hba_file')"
    # not ours: nothing in the inventory makes it, and its password has signs that a URL must escape
    fleet.on(database, f"{ask} -c \"create role theirs login password 'p@ss:w/rd'\"")
    fleet.on(database, f"{ask} -c 'create database theirs owner theirs'")
    fleet.on(database, f"sed -i '1i host theirs theirs {address}/24 scram-sha-256' {hba}; systemctl reload postgresql")

    def back() -> None:
        fleet.provision()
        fleet.on(database, f"sed -i '/ theirs /d' {hba}; systemctl reload postgresql")
        fleet.on(database, f"{ask} -c 'drop database theirs with (force)' -c 'drop role theirs'")
        fleet.given(OLD)

    request.addfinalizer(back)
    theirs = fleet.variant(tmp_path, bluegreen_database_url=f"postgresql://theirs:p%40ss%3Aw%2Frd@{address}/theirs")
    theirs.provision()
    with theirs.under_load():
        theirs.deploy(NEW, watch=1, retry_bad=True)
        theirs.must("rollback.yml")
        theirs.expect_live(OLD)
    decided = fleet.on(database, f"{ask} -d theirs -c 'select count(*) from decision'")
    assert int(decided) == 2, "the deploy and the rollback are decided there"
