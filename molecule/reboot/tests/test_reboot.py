"""Power cuts with a switch pending: every host comes up on the confirmed release before its nginx answers."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from promises import REPO, Deployment, until

from support.example_fleet import release_at
from support.hosts import Podman

OLD, NEW = "r1", "r2"
CUT = ("web1", "web3")  # one that mounts images, one that has to unpack them


class Watcher:
    """Asks hosts all the time which release answers, also while they boot."""

    def __init__(self, fleet: Deployment, names: tuple[str, ...]) -> None:
        self.seen: dict[str, list[str]] = {name: [] for name in names}
        self._end = threading.Event()
        token = fleet.probe_token()
        self._threads = [
            threading.Thread(
                target=self._watch, args=(name, f"http://{fleet.address(name)}", fleet.domain, token), daemon=True
            )
            for name in names
        ]

    def _watch(self, name: str, url: str, host: str, token: str) -> None:
        while not self._end.wait(0.02):
            if found := release_at(url, host, token):
                self.seen[name].append(found)

    def start(self) -> Watcher:
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        self._end.set()


@pytest.fixture
def pending(fleet: Deployment) -> Iterator[subprocess.Popen[bytes]]:
    """A deploy that has switched and not confirmed, and whose controller is then killed."""
    fleet.given(OLD)
    process = fleet.start(
        "deploy.yml", sha=fleet.sha(NEW), watch=25, rollout_ttl=30, rollout_lease_ttl=60, retry_bad=True
    )
    try:
        until(lambda: all(status["pending"] for status in fleet.status().values()), "the switch on all hosts", 120)
        assert all(found.startswith(fleet.sha(NEW)[:12]) for found in fleet.serving().values())
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a controller without a word."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def boot_seconds(fleet: Deployment, host: str, unit: str, moment: str) -> float:
    """When a unit reached a moment of its start, in seconds since the boot."""
    return int(fleet.on(host, f"systemctl show -P {moment}TimestampMonotonic {unit}")) / 1e6


def test_after_a_power_cut_with_a_pending_switch_every_host_ends_on_the_confirmed_release(
    fleet: Deployment, pending: subprocess.Popen[bytes]
) -> None:
    watcher = Watcher(fleet, CUT)
    # The controller dies first, then two hosts; the third has its dead-man only.
    kill(pending)
    cut_at = time.monotonic()
    podman = Podman()
    for name in CUT:
        podman("kill", "--signal", "KILL", f"bluegreen-fleet-{name}", what=f"cut the power of {name}")
    watcher.start()
    try:
        subprocess.run(
            [REPO / "scripts" / "hosts", "up", fleet.inventory], check=True, capture_output=True, timeout=180
        )
        until(lambda: fleet.expect_live(OLD) is None, "all hosts are back on the confirmed release", 120)
    finally:
        watcher.stop()
    for name in CUT:
        answered = set(watcher.seen[name])
        assert answered, f"{name} never answered"
        assert all(release.startswith(fleet.sha(OLD)[:12]) for release in answered), (
            name,
            answered,
            time.monotonic() - cut_at,
        )
        assert boot_seconds(fleet, name, "bluegreen-reconcile", "ExecMainExit") <= boot_seconds(
            fleet, name, "nginx", "ExecMainStart"
        )


def test_images_are_open_again_where_hosts_mount_and_where_they_cannot(fleet: Deployment) -> None:
    mounted = {
        name: found.split() for name, found in fleet.everywhere("findmnt -rn -o TARGET -t squashfs || true").items()
    }
    images = fleet.everywhere("readlink -f /srv/orders/*/app")
    assert mounted["web1"]
    assert mounted["web3"] == [], "this host has no loop devices"
    for name, found in images.items():
        for path in found.split():
            assert fleet.host(name).file(path).is_directory, (name, path)


def test_background_processes_are_back_after_the_boot(fleet: Deployment) -> None:
    for name, status in fleet.status().items():
        assert [
            row for row in status["processes"] if row["colour"] == status["live"]["colour"] and not row["active"]
        ] == [], name


def test_nobody_has_to_clean_up_before_the_next_deploy(fleet: Deployment) -> None:
    until(
        lambda: all(status["lease"] is None for status in fleet.status().values()),
        "the dead controller's lease ends",
        90,
    )
    with fleet.under_load(rate=15):
        fleet.deploy(NEW, watch=1, retry_bad=True)


def test_a_clean_reboot_comes_back_by_itself(fleet: Deployment) -> None:
    live = fleet.live()["web2"]
    before = fleet.on("web2", "cat /proc/sys/kernel/random/boot_id; systemctl show -P UserspaceTimestampMonotonic")
    Podman()("restart", "bluegreen-fleet-web2", what="restart web2", timeout=180)
    assert before
    until(lambda: fleet.live()["web2"] == live and fleet.status()["web2"]["drift"] == [], "web2 serves as before", 90)
