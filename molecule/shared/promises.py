"""What scenarios state promises with: playbooks as a person types them, hosts asked over SSH, traffic judged.

Nothing here waits for a fixed time: `until` waits for a condition, with a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import testinfra
import yaml

from support.example_fleet import VISITORS, answer_at
from support.load import Load, LoadThread, parse_profile, parse_target, summary

REPO = Path(__file__).resolve().parents[2]
STATE = REPO / ".hosts"
LOGS = REPO / ".cache" / "test" / "playbooks"
INVENTORIES = REPO / "molecule" / "shared" / "inventories"
RELEASES = REPO / ".cache" / "test" / "releases.json"

SSH_OPTIONS = (
    f"-o UserKnownHostsFile='\"{STATE / 'known_hosts'}\"' -o StrictHostKeyChecking=yes"
    " -o IdentitiesOnly=yes -o BatchMode=yes"
)

# What visitors do; nothing of it leaves anything behind in the database.
VISITS: dict[str, list[dict[str, Any]]] = {
    "orders": VISITORS,
    "notes": [
        {"kind": "get", "path": "/", "weight": 20},
        {"kind": "fresh", "path": "/sign-in", "weight": 10},
        {"kind": "get", "path": "/status", "weight": 5},
        {"kind": "asset", "path": "/", "weight": 5},
    ],
}


@dataclass(frozen=True)
class Ran:
    """A command that has ended, and all it wrote."""

    command: str
    status: int
    output: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """The lines that say something."""
        return [line.rstrip() for line in self.output.splitlines() if line.strip()]

    def tail(self, count: int = 40) -> str:
        """The command and the end of what it wrote."""
        return "\n".join(
            [f"$ {self.command}", *self.lines[-count:], f"(exit status {self.status}, {self.seconds:.1f} s)"]
        )

    @property
    def changes(self) -> dict[str, int]:
        """How many tasks changed something, by host, from the recap of Ansible's own output (`-v`)."""
        recap = r"^(\S+)\s+: ok=\d+\s+changed=(\d+)"
        return {name: int(count) for name, count in re.findall(recap, self.output, re.MULTILINE)}

    def changed_tasks(self) -> str:
        """The tasks that changed something, from Ansible's own output (`-v`)."""
        task, found = "", []
        for line in self.lines:
            if line.startswith("TASK "):
                task = line
            if line.startswith("changed:"):
                found.append(f"{task}\n  {line[:200]}")
        return "\n".join(found)


@dataclass
class Evidence:
    """What a failing test shows: the last commands, and the deployments whose hosts are asked."""

    ran: list[Ran] = field(default_factory=list)
    deployments: dict[str, Deployment] = field(default_factory=dict)


EVIDENCE = Evidence()


def approvals(ran: Ran) -> dict[str, str]:
    """What a refused deploy says that approves its migrations, as `-e` words."""
    told = re.search(r"-e '(\{.*\})'", ran.lines[-1])
    assert told, ran.tail()
    approve = json.loads(told[1])["migrations_approve"]
    return {
        "migrations_approve": ",".join(approve),
        "migrations_approved_by": "tests",
        "migrations_approve_reason": "tried",
    }


def until(condition: Callable[[], Any], what: str, timeout: float = 60.0) -> Any:
    """Wait until a condition holds; what it gave. Fails with `what` and the last problem after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    problem = "it never held"
    while time.monotonic() < deadline:
        try:
            found = condition()
            if found:
                return found
        except (AssertionError, OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
            problem = str(error) or type(error).__name__
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {timeout:g} s ({problem})")


def known_releases() -> dict[str, dict[str, str]]:
    """The releases that the prepare step built: name → {sha, stem}."""
    found: dict[str, dict[str, str]] = json.loads(RELEASES.read_text())
    return found


class Deployment:
    """One application on the hosts of an inventory."""

    def __init__(self, inventory: Path) -> None:
        self.inventory = inventory
        listing = yaml.safe_load((inventory / "hosts.yml").read_text())
        groups = listing["all"]["children"]["test_hosts"]["children"]
        self.groups: dict[str, dict[str, str]] = {
            name: {host: values["ansible_host"] for host, values in group["hosts"].items()}
            for name, group in groups.items()
        }
        settings: dict[str, Any] = {}
        for path in sorted((inventory / "group_vars" / "app_servers").glob("*.yml")):
            settings |= yaml.safe_load(path.read_text()) or {}
        self.settings = settings
        self.app = str(settings.get("app_name"))
        self.domain = str(settings.get("app_domain"))

    # -- hosts

    @property
    def app_servers(self) -> dict[str, str]:
        """Name → address of the app servers, sorted."""
        return dict(sorted(self.groups.get("app_servers", {}).items()))

    @property
    def urls(self) -> list[str]:
        """Every place where visitors come in: the load balancer, and each app server directly."""
        addresses = [*self.groups.get("load_balancers", {}).values(), *self.app_servers.values()]
        return [f"http://{address}" for address in addresses]

    def address(self, name: str) -> str:
        """The address of a host of any group."""
        return next(hosts[name] for hosts in self.groups.values() if name in hosts)

    def host(self, name: str, user: str = "root") -> Any:
        """A host, asked over SSH by testinfra."""
        # No shared connections: after a power cut they would hang.
        return testinfra.get_host(
            f"ssh://{user}@{self.address(name)}",
            ssh_identity_file=str(STATE / "id_ed25519"),
            ssh_extra_args=SSH_OPTIONS,
            controlpersist=0,
        )

    def on(self, name: str, command: str, *, check: bool = True) -> str:
        """Standard output of a command that root runs on a host."""
        done = self.host(name).run(command)
        assert done.rc == 0 or not check, f"{name}: {command}: exit status {done.rc}: {done.stderr or done.stdout}"
        return str(done.stdout)

    def everywhere(self, command: str, *, check: bool = True) -> dict[str, str]:
        """Standard output of a command on every app server."""
        with ThreadPoolExecutor() as pool:
            found = {name: pool.submit(self.on, name, command, check=check) for name in self.app_servers}
            return {name: future.result() for name, future in found.items()}

    # -- commands, as a person types them

    def command(self, playbook: str, *words: str, **extra: object) -> list[str]:
        """The words of `ansible-playbook PLAYBOOK …`; `extra` are `-e name=value`."""
        options = [word for key, value in extra.items() for word in ("-e", f"{key}={value}")]
        return [str(REPO / ".venv" / "bin" / "ansible-playbook"), "-i", str(self.inventory), playbook, *words, *options]

    def environment(self) -> dict[str, str]:
        """What the command sees: ansible.cfg of the repository, and nothing of Molecule."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("MOLECULE", "ANSIBLE"))}
        return own | {"ANSIBLE_CONFIG": str(REPO / "ansible.cfg"), "PYTHONUNBUFFERED": "1", "ANSIBLE_NOCOLOR": "1"}

    def playbook(self, playbook: str, *words: str, timeout: float = 400.0, **extra: object) -> Ran:
        """Run a playbook from the repository's root to its end, whatever the end is."""
        EVIDENCE.deployments.setdefault(self.app, self)
        command = self.command(playbook, *words, **extra)
        LOGS.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        with tempfile.NamedTemporaryFile(
            "w+", prefix=f"{Path(playbook).stem}-", suffix=".log", dir=LOGS, delete=False
        ) as log:
            # A session of its own, and a file: nothing that the playbook leaves behind can hold us up.
            process = subprocess.Popen(
                command,
                cwd=REPO,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                status = process.wait()
            seconds = time.monotonic() - started
        shown = shlex.join(["ansible-playbook", *command[1:]]).replace(f"{REPO}/", "")
        ran = Ran(shown, status, Path(log.name).read_text(errors="replace"), seconds)
        EVIDENCE.ran.append(ran)
        assert seconds < timeout, f"no end after {timeout:g} s\n{ran.tail()}"
        return ran

    def start(self, playbook: str, *words: str, **extra: object) -> subprocess.Popen[bytes]:
        """Start a playbook and do not wait for it; end it with `kill`."""
        LOGS.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", prefix=f"{Path(playbook).stem}-", suffix=".log", dir=LOGS, delete=False
        ) as log:
            return subprocess.Popen(
                self.command(playbook, *words, **extra),
                cwd=REPO,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def must(self, playbook: str, *words: str, **extra: object) -> Ran:
        """Run a playbook that has to end well."""
        ran = self.playbook(playbook, *words, **extra)
        assert ran.status == 0, f"{playbook} should end well\n{ran.tail()}"
        return ran

    def refuse(self, playbook: str, *words: str, **extra: object) -> Ran:
        """Run a playbook that has to end with a failure, told in three lines: what, why, what to type next."""
        ran = self.playbook(playbook, *words, **extra)
        assert ran.status != 0, f"{playbook} should fail\n{ran.tail()}"
        assert_told_in_three_lines(ran)
        return ran

    def provision(self) -> Ran:
        """provision.yml."""
        return self.must("provision.yml", timeout=900)

    def provision_again(self) -> None:
        """provision.yml on hosts that are ready: it changes nothing, and no visitor notices."""
        before = self.snapshot()
        with self.under_load():
            ran = self.must("provision.yml", "-v", timeout=600)
            if any(ran.changes.values()):  # an earlier version of this repository may have provisioned these hosts
                before = self.snapshot()
                ran = self.must("provision.yml", "-v", timeout=600)
        assert ran.changes, ran.tail()
        assert set(ran.changes.values()) == {0}, f"{ran.changes}\n{ran.changed_tasks()}"
        assert self.snapshot() == before

    def deploy(self, release: str, **extra: object) -> Ran:
        """Deploy a release by its name; it has to serve afterwards."""
        ran = self.must("deploy.yml", sha=self.sha(release), **extra)
        self.expect_live(release)
        return ran

    def given(self, release: str) -> None:
        """Whatever was before: this release is live, and nothing is pending."""
        for name, status in self.status().items():
            assert status["pending"] is None, f"{name} has a pending switch: {status['pending']}"
        if set(self.live().values()) != {self.sha(release)}:
            self.deploy(release, watch=0, retry_bad=True)
        self.expect_calm()

    def sha(self, release: str) -> str:
        """The commit of a release."""
        return known_releases()[release]["sha"]

    # -- what is there

    def status(self) -> dict[str, dict[str, Any]]:
        """What the host tool says on each app server."""
        answers = self.everywhere(f"bluegreen status --app {self.app}")
        return {name: json.loads(answer) for name, answer in answers.items()}

    def live(self) -> dict[str, str | None]:
        """The live commit of each app server."""
        return {name: (status["live"] or {}).get("sha") for name, status in self.status().items()}

    def probe_token(self) -> str:
        """The token with which answers name their release."""
        first = next(iter(self.app_servers))
        return str(json.loads(self.on(first, f"bluegreen tokens --app {self.app}"))["probe"])

    def serving(self) -> dict[str, str]:
        """Which release answers visitors at each URL, or what came instead."""
        token = self.probe_token()
        answers = {url: answer_at(url, self.domain, token) for url in self.urls}
        return {url: release or f"no release: {instead}" for url, (release, instead) in answers.items()}

    def expect_live(self, release: str) -> None:
        """Every host has this release as its live one, without drift, and it answers visitors everywhere."""
        sha = self.sha(release)
        for name, status in self.status().items():
            assert (status["live"] or {}).get("sha") == sha, (
                f"{name} should have {release} ({sha[:12]}) live: {status['live']}"
            )
            assert status["pending"] is None, f"{name}: {status['pending']}"
        for url, found in self.serving().items():
            assert found.startswith(sha[:12]), f"{url} should answer with {release} ({sha[:12]}): {found}"

        self.expect_calm()

    def expect_calm(self) -> None:
        """No drift, and nothing that starts or stops; old processes may finish first, after visitors have moved."""

        def calm() -> bool:
            drift = {name: status["drift"] for name, status in self.status().items() if status["drift"]}
            states = "--state=activating --state=deactivating"
            moving = self.everywhere(f"systemctl list-units -q --plain {states} '{self.app}@*' '{self.app}-*'")
            assert not drift, drift
            assert not any(moving.values()), moving
            return True

        until(calm, "the hosts settle", 90)

    def snapshot(self) -> dict[str, str]:
        """Everything that serves on each app server (state, links, units, processes, mounts), to compare."""
        app = self.app
        pruned = (f"srv/{app}/data/*", f"srv/{app}/inbox/*", f"srv/{app}/images/*/*", "*/routes/*")
        skip = " ".join(f"-path '{path}' -prune -o" for path in pruned)
        # What a run writes down about itself does not serve.
        skip += " -name history.jsonl -o -name lease.json -o -name fence -o -name lock -o"
        places = f"srv/{app} var/lib/bluegreen/{app} etc/bluegreen etc/nginx etc/systemd/system"
        units = f"systemctl list-units -q --plain --state=active '{app}@*' '{app}-*' nginx.service | cut -d' ' -f1"
        return self.everywhere(
            f"cd / && find {places} {skip} -printf '%p %y %m %u %l %s\\n' | LC_ALL=C sort;"
            f" readlink /var/lib/bluegreen/{app}/route; findmnt -rn -o TARGET,SOURCE -t squashfs | sort;"
            f" for unit in $({units}); do echo $unit $(systemctl show -P MainPID $unit); done"
        )

    # -- traffic

    @contextlib.contextmanager
    def under_load(
        self,
        rate: float = 25.0,
        at_least: int = 20,
        urls: Sequence[str] = (),
        *,
        named: bool = False,
        spared: bool = True,
    ) -> Iterator[Load]:
        """Visitors at every URL (or at some) while the block runs: not one of their requests may fail.

        named: their answers say which release gave them. spared: off where some of them are meant to meet what fails.
        """
        targets = [parse_target(url, self.domain) for url in urls or self.urls]
        token = self.probe_token() if named else ""
        load = Load(targets, profile=parse_profile(VISITS[self.app]), rate=rate, connections=4, probe_token=token)
        thread = LoadThread(load).start()
        try:
            until(lambda: load.tally.requests >= at_least, "the first visitors", 30)
            yield load
            enough = load.tally.requests + at_least
            until(lambda: load.tally.requests >= enough, "visitors go on after it", 30)
        finally:
            report = thread.stop()
        assert report["failed"] == 0 or not spared, f"a visitor's request failed\n{summary(report)}"

    # -- evidence

    def evidence(self) -> str:
        """Status and the last lines of the journal of every app server, as far as they can be had."""
        parts = []
        for name in self.app_servers:
            with contextlib.suppress(Exception):
                journal = f"journalctl -q --no-pager -n 25 -u '{self.app}*' -u nginx -u 'bluegreen*'"
                told = self.host(name).run(f"bluegreen status --app {self.app}; {journal}")
                parts.append(f"--- {name}\n{told.stdout}{told.stderr}")
        return "\n".join(parts)

    # -- variants

    def variant(
        self, directory: Path, *, hosts: dict[str, Any] | None = None, drop: Sequence[str] = (), **settings: object
    ) -> Deployment:
        """A copy of this inventory with other groups of hosts, without some settings, or with others."""
        copied = directory / "inventory"
        shutil.copytree(self.inventory, copied)
        listing = yaml.safe_load((copied / "hosts.yml").read_text())
        top = listing["all"]["children"]["test_hosts"]
        top["vars"]["test_state"] = str(STATE)
        if hosts is not None:
            top["children"] = hosts
        (copied / "hosts.yml").write_text(yaml.safe_dump(listing))
        values = copied / "group_vars" / "app_servers"
        for path in values.glob("*.yml"):
            kept = {key: value for key, value in yaml.safe_load(path.read_text()).items() if key not in drop}
            path.write_text(yaml.safe_dump(kept))
        own = values / "zz-variant.yml"
        earlier = yaml.safe_load(own.read_text()) if own.exists() else {}
        own.write_text(yaml.safe_dump({**earlier, **settings}))
        return Deployment(copied)


def assert_told_in_three_lines(ran: Ran) -> None:
    """A failure ends in three lines: what failed, why, what to type next."""
    last = ran.lines[-3:]
    starts = [line.split()[0] if line.split() else "" for line in last]
    assert starts == ["FAILED", "why", "next"], f"a failure ends in three lines\n{ran.tail()}"


def deployment(name: str) -> Deployment:
    """The application on a set of test hosts: molecule/shared/inventories/<name>."""
    return Deployment(INVENTORIES / name)
