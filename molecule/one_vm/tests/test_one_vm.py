"""One Debian 12 VM, SQLite: the notes, with nothing but an inventory and group_vars. The tests are one story."""

from __future__ import annotations

import re
import shlex

from artifacts import OF_VM, SYSTEM
from promises import Deployment, until


def test_the_inventory_holds_only_the_examples_settings_and_a_handful_of_lines(vm: Deployment) -> None:
    values = vm.inventory / "group_vars" / "app_servers"
    own = [line for line in (values / "test.yml").read_text().splitlines() if re.match(r"\w+:", line)]
    assert len(own) <= 12
    assert sorted(path.name for path in values.glob("*.yml")) == ["app.yml", "secrets.yml", "test.yml"]


def test_the_host_has_its_system_and_the_python_of_that(vm: Deployment) -> None:
    assert vm.on("vm1", "python3 -c 'import sys; print(*sys.version_info[:2], sep=\".\")'").strip() == OF_VM
    assert vm.host("vm1").system_info.codename == (SYSTEM or "bookworm")


def test_a_provisioned_host_runs_and_starts_what_it_needs_at_boot(vm: Deployment) -> None:
    host = vm.host("vm1")
    assert host.service("nginx").is_running
    assert host.service("nginx").is_enabled
    assert host.service("bluegreen-reconcile").is_enabled


def test_the_deploy_user_may_run_one_program_as_root_and_nothing_else(vm: Deployment) -> None:
    host = vm.host("vm1", user="deploy")
    assert host.run("sudo -n /usr/local/bin/bluegreen status --app notes").rc == 0
    assert host.run("sudo -n /bin/true").rc != 0
    assert host.run("cat /etc/bluegreen/notes.key").rc != 0


def test_before_the_first_deploy_visitors_read_that_nothing_is_there_yet(vm: Deployment) -> None:
    if vm.live()["vm1"] is None:
        ask = "curl -s -m 9 -o /dev/null -w '%{http_code}' -H 'Host: notes.example.org' http://127.0.0.1/"
        upgrade = "-H 'Connection: Upgrade' -H 'Upgrade: websocket'"
        mark = "/run/nginx.closing"  # while nginx is about to load its configuration anew
        found = vm.on("vm1", f"{ask}; echo; {ask} {upgrade}; echo; touch {mark}; {ask}; rm {mark}")
        assert found.split() == ["503", "503", "503"], "a page, a websocket, a page while connections are ended"


def test_the_first_deploy_serves(vm: Deployment) -> None:
    if vm.live()["vm1"] is None:
        ran = vm.deploy("n1")
        assert len(ran.lines) <= 25, f"phases, not a wall of tasks\n{ran.tail()}"
    vm.given("n1")
    vm.expect_live("n1")


def test_the_second_deploy_loses_no_request(vm: Deployment) -> None:
    with vm.under_load():
        vm.deploy("n2", retry_bad=True)


def test_what_was_written_before_is_there_after(vm: Deployment) -> None:
    # SQLite and uploads live in the data directory that releases share.
    assert vm.on("vm1", "stat -c %U:%a /srv/notes/data").strip() == "notes:750"
    count = "select count(*) from django_migrations where app='journal'"
    ask = f"import sqlite3; print(sqlite3.connect('/srv/notes/data/notes.sqlite3').execute(\"{count}\").fetchone()[0])"
    assert vm.on("vm1", f"python3 -c {shlex.quote(ask)}").strip() == "2"


def test_its_background_process_is_that_of_the_live_release(vm: Deployment) -> None:
    sha = vm.sha("n2")[:12]
    shown = vm.on("vm1", "pgrep -af process_notes")
    assert len(shown.splitlines()) == 1, shown
    pid = shown.split()[0]
    assert sha in vm.on("vm1", f"tr '\\0' '\\n' < /proc/{pid}/environ | grep ^BLUEGREEN_RELEASE=")


def test_rollback_is_back_on_the_first_release_and_loses_no_request(vm: Deployment) -> None:
    with vm.under_load():
        ran = vm.must("rollback.yml")
        vm.expect_live("n1")
    assert "back on" in ran.lines[-1], ran.tail()


def test_a_release_that_was_rolled_back_may_be_deployed_again_with_a_notice(vm: Deployment) -> None:
    ran = vm.deploy("n2")
    assert "rolled back before" in ran.output, ran.tail()


def test_a_release_whose_server_does_not_start_is_refused_and_the_old_one_serves(vm: Deployment) -> None:
    with vm.under_load():
        vm.refuse("deploy.yml", sha=vm.sha("n3"))
        vm.expect_live("n2")


def test_the_person_on_the_host_can_roll_back_without_the_controller(vm: Deployment) -> None:
    with vm.under_load():
        vm.on("vm1", "bluegreen rollback --app notes")
        until(lambda: vm.expect_live("n1") is None, "the first release serves", 20)


def test_a_command_runs_once_in_the_live_release(vm: Deployment) -> None:
    ran = vm.must("manage.yml", "-e", "command='showmigrations journal'")
    assert "[X] 0001_initial" in ran.output, ran.tail()
    assert "0002" not in ran.output, f"the live release is the first one\n{ran.tail()}"


def test_provisioning_again_changes_nothing_and_no_visitor_notices(vm: Deployment) -> None:
    vm.provision_again()
    vm.expect_live("n1")


def test_status_shows_every_host_as_data(vm: Deployment) -> None:
    ran = vm.must("status.yml", format="json")
    assert vm.sha("n1") in ran.output, ran.tail()
