"""The example application on a fleet of test hosts: what the demo and the benchmarks have in common.

It writes an inventory with fresh secrets, and names the commands that make hosts, build artifacts, provision, deploy
and roll back. Every command is one that a user would type.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.common import REPO, STATE, Failure, program, run, write_atomic
from support.hosts import ssh_command

APP = "orders"
DOMAIN = "orders.example.org"
SETTINGS = REPO / "examples" / APP / "deploy"
MARK = "# Written by scripts/demo or a benchmark; written anew each time.\n"
MOST_APP_SERVERS = 9

# What visitors of the shop do; nothing of it leaves anything behind in the database.
VISITORS: list[dict[str, Any]] = [
    {"kind": "get", "path": "/", "weight": 20},
    {"kind": "get", "path": "/products/sidamo/", "weight": 10},
    {"kind": "get", "path": "/orders/", "weight": 5},
    {"kind": "get", "path": "/healthz", "weight": 20},
    {"kind": "fresh", "path": "/", "weight": 8},
    {"kind": "fresh", "path": "/accounts/login/", "weight": 7},
    {
        "kind": "post",
        "path": "/api/quote/",
        "body": '{"product": "sidamo", "quantity": 2}',
        "content_type": "application/json",
        "weight": 15,
    },
    {"kind": "asset", "path": "/", "weight": 5},
    {"kind": "slow", "path": "/slow?seconds=2", "weight": 1},
    {"kind": "slow", "path": "/stream?seconds=2", "weight": 1},
    {"kind": "upload", "path": "/upload", "body": 262144, "seconds": 1, "weight": 1},
]


@dataclass(frozen=True)
class Node:
    """One test host of the fleet."""

    name: str
    address: str
    group: str


def layout(app_servers: int, subnet: str) -> list[Node]:
    """The hosts of a fleet: app servers, a load balancer if there is more than one, a database and a cache host.

    subnet: a private /24. Raises Failure.
    """
    if not 1 <= app_servers <= MOST_APP_SERVERS:
        raise Failure(f"{app_servers} app servers: give a number from 1 to {MOST_APP_SERVERS}", 2)
    try:
        network = ipaddress.IPv4Network(subnet)
    except ValueError:
        raise Failure(f"{subnet!r} is not a network: give for example 10.213.60.0/24", 2) from None
    if network.prefixlen != 24 or not network.is_private or network.is_loopback:
        raise Failure(f"{subnet} is not a private /24: give for example 10.213.60.0/24", 2)
    base = network.network_address
    nodes = [Node(f"web{number}", str(base + 10 + number), "app_servers") for number in range(1, app_servers + 1)]
    if app_servers > 1:
        nodes.append(Node("lb1", str(base + 21), "load_balancers"))
    nodes.append(Node("db1", str(base + 31), "databases"))
    nodes.append(Node("cache1", str(base + 41), "caches"))
    return nodes


def inventory_text(nodes: Sequence[Node], state: Path = STATE) -> str:
    """hosts.yml for these nodes (JSON values are YAML values)."""
    options = f'-o UserKnownHostsFile="{state / "known_hosts"}" -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes'
    groups: dict[str, dict[str, dict[str, dict[str, str]]]] = {}
    for node in nodes:
        hosts = groups.setdefault(node.group, {"hosts": {}})["hosts"]
        hosts[node.name] = {"ansible_host": node.address, "test_host_os": "trixie"}
    variables = {"ansible_ssh_private_key_file": str(state / "id_ed25519"), "ansible_ssh_common_args": options}
    return f"---\n{MARK}" + json.dumps({"all": {"vars": variables, "children": groups}}, indent=2) + "\n"


def secrets_text(template: str) -> str:
    """The example's secrets file with every value replaced by a random one."""
    names = re.findall(r"^([a-z_][a-z0-9_]*):", template, flags=re.MULTILINE)
    if not names:
        raise Failure(f"{SETTINGS / 'secrets.yml'} names no secret")
    return f"---\n{MARK}" + "".join(f"{name}: {secrets.token_urlsafe(32)}\n" for name in names)


class Fleet:
    """Hosts, inventory and artifacts of one run. `directory`: the inventory's; `work`: repository and artifacts."""

    def __init__(self, directory: Path, work: Path, app_servers: int, subnet: str) -> None:
        self.directory = directory.absolute()
        self.source = work.absolute() / APP
        self.store = work.absolute() / "artifacts"
        self.signing_key = work.absolute() / "signing_key"
        self.nodes = layout(app_servers, subnet)
        self.shas: dict[str, str] = {}
        self.ssh_key = STATE / "id_ed25519"
        self._probe = ""

    @property
    def app_servers(self) -> list[Node]:
        """The app servers, sorted by name."""
        return [node for node in self.nodes if node.group == "app_servers"]

    @property
    def entrance(self) -> Node:
        """Where visitors come in: the load balancer if there is one."""
        return next((node for node in self.nodes if node.group == "load_balancers"), self.nodes[0])

    @property
    def urls(self) -> list[str]:
        """The entrance first, then every app server."""
        nodes = [self.entrance, *(node for node in self.app_servers if node != self.entrance)]
        return [f"http://{node.address}" for node in nodes]

    def write_inventory(self, extra: dict[str, object] | None = None) -> None:
        """Writes the inventory with new secrets; `extra` settings come last. Refuses a directory of somebody else."""
        hosts = self.directory / "hosts.yml"
        if self.directory.exists() and any(self.directory.iterdir()):
            if not hosts.is_file() or MARK not in hosts.read_text(encoding="utf-8"):
                raise Failure(f"{self.directory} holds something else: name a directory that is empty or not there", 2)
            shutil.rmtree(self.directory)
        values = self.directory / "group_vars" / "app_servers"
        values.mkdir(mode=0o700, parents=True)
        signers = self.directory / "allowed_signers.txt"
        signers.write_text(f"{MARK}example {self.make_signing_key()}\n", encoding="utf-8")
        settings: dict[str, object] = {"app_source": str(self.source), "artifact_store": str(self.store)}
        settings |= {"artifact_signers": str(signers), "artifact_require_signature": True} | (extra or {})
        hosts.write_text(inventory_text(self.nodes), encoding="utf-8")
        (values / "app.yml").write_bytes((SETTINGS / "app.yml").read_bytes())
        template = (SETTINGS / "secrets.yml").read_text(encoding="utf-8")
        write_atomic(values / "secrets.yml", secrets_text(template), 0o600)
        # Named so that it is read last: Ansible reads these files in the order of their names.
        (values / "zz-here.yml").write_text(f"---\n{MARK}{json.dumps(settings, indent=2)}\n", encoding="utf-8")

    def make_signing_key(self) -> str:
        """The key that signs the artifacts, made once beside them. Returns its public half."""
        if not self.signing_key.exists():
            self.signing_key.parent.mkdir(parents=True, exist_ok=True)
            words = ["-q", "-t", "ed25519", "-N", "", "-C", "example", "-f", str(self.signing_key)]
            run([program("ssh-keygen"), *words], what="make a key that signs", timeout=30)
        return " ".join(self.signing_key.with_suffix(".pub").read_text(encoding="utf-8").split()[:2])

    def make_repository(self) -> None:
        """Lays out the example's history as a git repository and reads its commits."""
        shutil.rmtree(self.source, ignore_errors=True)  # an older one may hold an older history
        command = [str(REPO / "scripts" / "example-repo"), str(self.source), "--app", APP, "--format", "json"]
        out = run(command, what="make the example's repository", timeout=120)
        self.shas = {one["name"]: one["sha"] for one in json.loads(out)["releases"]}

    # -- commands, as a user types them

    def hosts(self, verb: str) -> list[str]:
        """scripts/hosts up or down."""
        return [str(REPO / "scripts" / "hosts"), verb, str(self.directory)]

    def build(self, release: str) -> list[str]:
        """scripts/build-artifact for one release of the example."""
        words = [str(REPO / "scripts" / "build-artifact"), "-i", str(self.directory), "--rev", self.shas[release]]
        return [*words, "--sign", str(self.signing_key)]

    def playbook(self, name: str, **variables: object) -> list[str]:
        """ansible-playbook NAME with extra variables."""
        command = [program("ansible-playbook"), "-i", str(self.directory), str(REPO / name)]
        for key, value in variables.items():
            command += ["-e", f"{key}={value}"]
        return command

    # -- asking

    def probe_token(self) -> str:
        """The token with which answers name their release; a secret of the hosts."""
        if not self._probe:
            command = ssh_command(self.app_servers[0].address, "bluegreen", "tokens", "--app", APP)
            self._probe = str(json.loads(run(command, what="ask for the probe token", timeout=60))["probe"])
        return self._probe

    def serving(self) -> dict[str, str]:
        """Which release answers at each URL ("" if none says so)."""
        return {url: release_at(url, DOMAIN, self.probe_token()) for url in self.urls}

    def not_serving(self, sha: str) -> list[str]:
        """URLs at which something else than this commit answers."""
        return [f"{url}: {found or 'no answer'}" for url, found in self.serving().items() if found[:12] != sha[:12]]


def release_at(url: str, host: str, token: str, headers: Mapping[str, str] | None = None) -> str:
    """The release id that answers at a base URL; "" if there is no answer or no stamp."""
    return answer_at(url, host, token, headers)[0]


def answer_at(url: str, host: str, token: str, headers: Mapping[str, str] | None = None) -> tuple[str, str]:
    """The release id that answers at a base URL, "" if none does; and what came instead of one."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    try:
        connection.request("GET", "/healthz", headers={"Host": host, "X-Bluegreen-Probe": token, **(headers or {})})
        answer = connection.getresponse()
        answer.read()
        return answer.headers.get("X-Bluegreen-Release", ""), f"status {answer.status}"
    except (OSError, http.client.HTTPException) as error:
        return "", f"{type(error).__name__}: {error}"
    finally:
        connection.close()


# --- running commands ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """A command that has ended. `started` is on the monotonic clock; `reason`: its own words, of use if it failed."""

    status: int
    started: float
    seconds: float
    reason: str


def reason(lines: Sequence[str]) -> str:
    """Why a command failed, in its own words: what and why of a playbook's three lines, else its last line."""
    for number in range(len(lines) - 1, 0, -1):
        if lines[number].startswith("  why "):
            return f"{lines[number - 1].strip()}: {lines[number].removeprefix('  why ').strip()}"
    return lines[-1].strip() if lines else ""


class Runner:
    """Runs commands one after the other; their output goes to log files and, line by line, to `show`."""

    def __init__(self, logs: Path, show: Callable[[str], None]) -> None:
        self.logs = logs
        self.show = show
        self._count = 0

    def log_path(self, name: str) -> Path:
        """The next log's path."""
        self._count += 1
        return self.logs / f"{self._count:02d}-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.log"

    def __call__(self, command: Sequence[str], log: Path, *, timeout: float, own_session: bool = True) -> Ran:
        """Runs a command to its end. own_session: Ctrl-C reaches us alone, and we end the command in order.

        Raises Failure after `timeout` seconds; ends the command on every exception.
        """
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment = {**kept, "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"), "PYTHONUNBUFFERED": "1"}
        started = time.monotonic()
        last: deque[str] = deque(maxlen=50)
        with log.open("a", encoding="utf-8") as out:
            out.write(f"$ {' '.join(command)}\n")
            out.flush()
            process = subprocess.Popen(
                command,
                cwd=REPO,
                env=environment,
                stdin=subprocess.DEVNULL if own_session else None,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=own_session,
            )
            overdue = threading.Event()
            timer = threading.Timer(timeout, lambda: end(process, overdue))
            timer.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    out.write(line)
                    out.flush()
                    if line.strip():
                        last.append(line.rstrip())
                        self.show(line.rstrip())
                status = process.wait()
            except BaseException:
                end(process)
                raise
            finally:
                timer.cancel()
            if overdue.is_set():
                raise Failure(f"no end after {timeout:g} s: {' '.join(command[:4])} …")
        return Ran(status, started, time.monotonic() - started, reason(list(last)))


def end(process: subprocess.Popen[str], why: threading.Event | None = None) -> None:
    """Ends a command that was started, politely, then not; sets `why` first."""
    if why is not None:
        why.set()
    for ask, patience in ((process.terminate, 20.0), (process.kill, 5.0)):
        if process.poll() is None:
            with suppress(ProcessLookupError):
                ask()
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)


def version() -> str:
    """The commit that is measured."""
    return run(["git", "-C", REPO, "describe", "--always", "--dirty"], what="ask git", timeout=30).strip()


def versions() -> dict[str, str]:
    """What was measured, and with what."""
    core = run([program("ansible"), "--version"], what="ask Ansible's version", timeout=60).splitlines()[0]
    return {
        "bluegreen": version(),
        "ansible": core,
        "python": platform.python_version(),
        "processors": str(os.cpu_count()),
    }
