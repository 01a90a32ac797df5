"""--check says what would happen and changes nothing, on hosts that nobody has provisioned and on a live one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from promises import Deployment

MACHINE = (
    "find /etc /srv /usr/local /var/lib /opt -xdev -path /var/lib/apt -prune -o -path /var/lib/systemd -prune"
    " -o -path /var/lib/private -prune -o -printf '%p %y %m %u %g %l %s\\n' | LC_ALL=C sort;"
    " dpkg-query -W; getent passwd; systemctl list-units -q --plain --type=service --state=active | cut -d' ' -f1"
)


@pytest.mark.parametrize(("host", "python"), [("bare12", "3.11"), ("bare13", "3.13")])
def test_provisioning_a_fresh_host_in_check_mode_ends_well_and_changes_nothing(
    vm: Deployment, host: str, python: str, tmp_path: Path
) -> None:
    itself = {"hosts": {host: {"ansible_host": vm.address(host)}}}
    groups = {"app_servers": itself, "monitoring": itself}
    fresh = vm.variant(tmp_path, hosts=groups, app_python=python)
    before = fresh.on(host, MACHINE)
    fresh.must("provision.yml", "--check")
    assert fresh.on(host, MACHINE).splitlines() == before.splitlines()


def test_provisioning_a_live_host_in_check_mode_changes_nothing(vm: Deployment) -> None:
    vm.given("n1")
    before = vm.snapshot()
    with vm.under_load():
        vm.must("provision.yml", "--check")
    assert vm.snapshot() == before


def test_a_deploy_in_check_mode_shows_the_plan_and_changes_nothing(vm: Deployment, tmp_path: Path) -> None:
    vm.given("n1")
    before = vm.snapshot()
    plan = tmp_path / "plan.json"
    ran = vm.must("deploy.yml", "--check", sha=vm.sha("n2"), plan_out=plan)
    assert "plan" in ran.output.lower(), ran.tail()
    assert vm.sha("n2") in plan.read_text()
    assert json.loads(plan.read_text())["hosts"]["vm1"]["live"] == vm.sha("n1")
    assert vm.snapshot() == before
    vm.expect_live("n1")


def test_a_rollback_in_check_mode_changes_nothing(vm: Deployment) -> None:
    vm.given("n1")
    vm.deploy("n2", watch=0)
    before = vm.snapshot()
    vm.must("rollback.yml", "--check")
    assert vm.snapshot() == before
    vm.expect_live("n2")
