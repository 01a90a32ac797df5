"""Test hosts: what follows from an inventory, before anything is started."""

from __future__ import annotations

import io
import ipaddress
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support import hosts
from support.common import Failure
from support.hosts import Host

WEB1 = Host("web1", "10.213.55.11", "trixie", "")
DB1 = Host("db1", "10.213.55.31", "bookworm", "")


def listing(**hostvars: dict[str, Any]) -> dict[str, Any]:
    return {"_meta": {"hostvars": hostvars}}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("inventories/local", "local"),
        ("inventories/local/", "local"),
        ("inventories/local/hosts.yml", "local"),
        ("inventories/local/inventory.ini", "local"),
        ("elsewhere/one_vm.yml", "one-vm"),
        ("elsewhere/Two VMs.ini", "two-vms"),
    ],
)
def test_the_set_is_named_after_the_inventory(path: str, name: str) -> None:
    assert hosts.inventory_name(Path(path)) == name


def test_a_file_without_ending_is_named_like_any_file(tmp_path: Path) -> None:
    folder = tmp_path / "staging"
    folder.mkdir()
    (folder / "hosts").touch()
    assert hosts.inventory_name(folder / "hosts") == "staging"


def test_hosts_come_sorted_with_defaults() -> None:
    found = hosts.hosts_of(
        listing(
            web1={"ansible_host": "10.213.55.11"},
            db1={"ansible_host": "10.213.55.31", "test_host_os": "bookworm"},
        ),
        "inv",
    )
    assert found == [DB1, WEB1]


@pytest.mark.parametrize(
    ("wanted", "systems"),
    [
        ("", {"a": "trixie", "b": "bookworm", "c": "bookworm"}),
        ("bookworm", {"a": "bookworm", "b": "bookworm", "c": "bookworm"}),
        ("trixie", {"a": "trixie", "b": "trixie", "c": "bookworm"}),
    ],
)
def test_hosts_that_name_no_system_are_what_is_wanted(wanted: str, systems: dict[str, str]) -> None:
    named = {"a": {}, "b": {"test_host_usual_os": "bookworm"}, "c": {"test_host_os": "bookworm"}}
    there = {name: {"ansible_host": f"10.0.0.{number}", **more} for number, (name, more) in enumerate(named.items(), 9)}
    found = hosts.hosts_of(listing(**there), "inv", wanted)
    assert {host.name: host.system for host in found} == systems


def test_a_wanted_system_that_is_none_is_refused() -> None:
    with pytest.raises(Failure, match="it must be trixie or bookworm"):
        hosts.hosts_of(listing(a={"ansible_host": "10.0.0.9"}), "inv", "sarge")


@pytest.mark.parametrize(
    ("hostvars", "message"),
    [
        ({}, "inv: the inventory has no hosts"),
        ({"web1": {}}, "inv: web1: ansible_host must be an IPv4 address such as 10.213.55.11, not None"),
        ({"web1": {"ansible_host": "web1.example.org"}}, "not 'web1.example.org'"),
        ({"web1": {"ansible_host": "8.8.8.8"}}, "8.8.8.8 is not a private address"),
        ({"web1": {"ansible_host": "127.0.0.1"}}, "127.0.0.1 is not a private address"),
        ({"Web_1": {"ansible_host": "10.0.0.9"}}, "Web_1: a test host's name has small letters"),
        ({"w": {"ansible_host": "10.0.0.9", "test_host_os": "sarge"}}, "it must be trixie or bookworm"),
        ({"a": {"ansible_host": "10.0.0.9"}, "b": {"ansible_host": "10.0.0.9"}}, "a and b have the same address"),
    ],
)
def test_a_wrong_inventory_is_refused_in_one_line(hostvars: dict[str, Any], message: str) -> None:
    with pytest.raises(Failure) as caught:
        hosts.hosts_of(listing(**hostvars), "inv")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.code == 2


def test_one_subnet_holds_all_hosts() -> None:
    assert str(hosts.subnet_of([WEB1, DB1], "inv")) == "10.213.55.0/24"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("10.213.56.11", "db1: 10.213.56.11 is outside of 10.213.55.0/24"),
        ("10.213.55.1", "10.213.55.1 is reserved: use .2 to .254"),
        ("10.213.55.0", "reserved"),
        ("10.213.55.255", "reserved"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(address: str, message: str) -> None:
    with pytest.raises(Failure, match=message):
        hosts.subnet_of([WEB1, Host("db1", address, "trixie", "")], "inv")


@given(st.sets(st.integers(2, 254), min_size=1, max_size=20), st.integers(0, 2**24 - 1))
def test_every_usable_address_is_in_the_subnet(last: set[int], net: int) -> None:
    some = [Host(f"h{n}", str(ipaddress.IPv4Address((net << 8) + n)), "trixie", "") for n in last]
    subnet = hosts.subnet_of(some, "inv")
    assert all(ipaddress.IPv4Address(host.address) in subnet for host in some)
    assert len({hosts.mac_of(host.address) for host in some}) == len(some)


def test_hardware_addresses_are_local_and_for_one_station() -> None:
    assert hosts.mac_of("10.213.55.11") == "02:62:0a:d5:37:0b"


def test_named_hosts_are_chosen() -> None:
    assert hosts.chosen([DB1, WEB1], [], "inv") == [DB1, WEB1]
    assert hosts.chosen([DB1, WEB1], ["web1"], "inv") == [WEB1]
    with pytest.raises(Failure, match="inv has no host web7; it has db1, web1"):
        hosts.chosen([DB1, WEB1], ["web7", "web1"], "inv")


def test_the_container_has_the_hosts_name_and_address() -> None:
    command = hosts.create_command(WEB1, "local", "some/image", "bluegreen-local")
    assert command[:5] == ["create", "--name", "bluegreen-local-web1", "--hostname", "web1"]
    assert command[-2:] == ["some/image", "/sbin/init"]
    for option in ("--ip", "--network"):
        assert option in command
    assert command[command.index("--ip") + 1] == "10.213.55.11"
    assert {"--privileged", "--systemd=always", "bluegreen.inventory=local", "bluegreen.host=web1"} <= set(command)


def test_a_mirror_is_used_if_one_is_named() -> None:
    assert hosts.debootstrap_command("trixie", "out.tar")[-2:] == ["trixie", "out.tar"]
    assert (
        hosts.debootstrap_command("trixie", "out.tar", "http://mirror.example.org")[-1] == "http://mirror.example.org"
    )


def test_images_are_made_again_when_the_recipe_changes() -> None:
    recipe = hosts.digest(*hosts.debootstrap_command("trixie", "-"))
    assert recipe == hosts.digest(*hosts.debootstrap_command("trixie", "-"))
    assert recipe != hosts.digest(*hosts.debootstrap_command("bookworm", "-"))
    assert hosts.cache_script(["nginx"]) != hosts.cache_script(["nginx", "acl"])


def test_podman_gets_limits_that_may_be_set() -> None:
    conf = hosts.containers_conf({"nproc": 4096, "nofile": 1024})
    assert 'runtime = "runc"' in conf
    assert 'default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]' in conf


def test_a_hosts_files_have_safe_modes() -> None:
    with tarfile.open(
        fileobj=io.BytesIO(hosts.host_files("secret", "ssh-ed25519 AAAA web1", "ssh-ed25519 BBBB"))
    ) as tar:
        modes = {member.name: member.mode for member in tar if not member.issym()}
        links = {member.name: member.linkname for member in tar if member.issym()}
    assert modes["etc/ssh/ssh_host_ed25519_key"] == 0o600
    assert modes["root/.ssh"] == 0o700
    assert modes["root/.ssh/authorized_keys"] == 0o600
    assert links["etc/systemd/system/apt-daily.timer"] == "/dev/null"


def test_what_runs_in_the_host_compiles() -> None:
    compile(hosts.EARLY_PROGRAM, "early", "exec")
    assert "range(256)" in hosts.EARLY_PROGRAM


def test_pins_replace_older_ones_of_the_same_address() -> None:
    before = "10.0.0.2 ssh-ed25519 OLD\n10.0.0.3 ssh-ed25519 KEPT\n"
    after = hosts.known_hosts_with(before, {"10.0.0.2": "ssh-ed25519 NEW comment\n"})
    assert after == "10.0.0.2 ssh-ed25519 NEW\n10.0.0.3 ssh-ed25519 KEPT\n"
    assert hosts.known_hosts_with(after, {"10.0.0.2": "ssh-ed25519 NEW comment\n"}) == after


def test_a_missing_inventory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="no such inventory"):
        hosts.read_inventory(tmp_path / "none")


def test_a_missing_program_names_setup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hosts, "STATE", tmp_path)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(Failure, match="podman is not installed: run scripts/setup"):
        hosts.Podman()


def test_all_problems_of_parallel_work_are_told() -> None:
    def work(host: Host) -> None:
        raise Failure(f"{host.name} failed")

    with pytest.raises(Failure, match="db1 failed\nweb1 failed"):
        hosts.in_parallel(work, [DB1, WEB1])


def test_a_bug_in_parallel_work_stays_a_bug() -> None:
    with pytest.raises(ZeroDivisionError):
        hosts.in_parallel(lambda host: print(1 / 0), [WEB1])


@pytest.mark.parametrize(
    ("root", "state", "gone"),
    [
        ("here", "exited", False),
        ("there", "running", False),
        ("there", "exited", True),
        ("nowhere", "running", True),
        ("there", "lost", True),
    ],
)
def test_hosts_that_nobody_has_a_use_for_are_abandoned(tmp_path: Path, root: str, state: str, gone: bool) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    item = {"state": state, "labels": {"bluegreen.root": str(tmp_path / root)}}
    assert hosts.abandoned(item, tmp_path / "here") is gone


@pytest.mark.parametrize(
    ("said", "cgroup", "state"),
    [
        ("running", "0::/libpod_parent/libpod-c0ffee/init.scope\n", "running"),
        ("running", "0::/user.slice/session-1.scope\n", "lost"),
        ("running", None, "lost"),
        ("exited", None, "exited"),
    ],
)
def test_a_host_whose_processes_are_gone_is_lost_whatever_podman_says(
    tmp_path: Path, said: str, cgroup: str | None, state: str
) -> None:
    if cgroup is not None:
        (tmp_path / "123").mkdir()
        (tmp_path / "123" / "cgroup").write_text(cgroup)
    assert hosts.state_of({"State": said, "Id": "c0ffee", "Pid": 123}, tmp_path) == state
