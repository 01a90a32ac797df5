"""The test hosts under traffic: controllers are started and hurt, hosts are looked at from outside, runs are judged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import yaml

from support.common import CACHE, REPO, Failure, Progress
from support.example_fleet import APP, DOMAIN, SETTINGS, Fleet, Node, version
from support.hosts import Podman, as_root, inventory_name
from support.load import Load, LoadThread, Shape, parse_target

from . import judge
from .judge import Answer, Look, Run

WORK = CACHE / "benchmarks-faults"
PROVISIONED = WORK / "provisioned.txt"  # by which commit the hosts that run were
SUBNET = "10.213.75.0/24"
OLD, NEW = "r1", "r2"
RATE = 20.0  # requests per second and app server
PAUSE = 0.25  # seconds between two looks at the hosts
PATIENCE = 90.0  # seconds after which a fleet that is not whole never will be
MARK = "FAULT_RUN"  # names our controllers in their environment, and those of their processes that outlive them

# Of runs that nothing disturbs: a slow machine must not miss a deadline of seconds.
CALM: dict[str, object] = {
    "wait": 120,
    "rollout_process_settle": 1,
    "rollout_start_timeout": 240,
    "rollout_smoke_timeout": 60,
}

VISITS = (
    Shape("get", "/healthz", weight=10),
    Shape("fresh", "/healthz", weight=4),
    Shape("get", "/", weight=4),
    Shape("post", "/api/quote/", "POST", '{"product": "sidamo", "quantity": 2}', "application/json", weight=2),
    Shape("slow", "/slow?seconds=1", weight=1),
)

# r2 adds a column that r1 does not know: taken away again, so that every deploy has a migration to run.
UNMIGRATE = """
begin;
set local lock_timeout = '5s';
alter table orders_order drop column if exists note;
delete from django_migrations where app = 'orders' and name = '0003_order_note';
commit;
"""


def one_worker() -> dict[str, dict[str, Any]]:
    """The example's processes without their counts: to start two workers takes longer than all else in a deploy."""
    settings = yaml.safe_load((SETTINGS / "app.yml").read_text(encoding="utf-8"))
    return {
        name: {key: value for key, value in process.items() if key != "count"}
        for name, process in settings["app_processes"].items()
    }


def other_hosts(kept: Sequence[str], wanted: Sequence[str], directory: Path) -> str:
    """What to say where other app servers were kept than a run wants, by their names; empty where they fit."""
    if set(kept) == set(wanted):
        return ""
    ways = f"give --hosts {len(kept)}, or remove them: scripts/hosts down {directory}"
    return f"--hosts {len(wanted)}: {', '.join(sorted(kept))} were kept from the last time; {ways}"


class Log(StringIO):
    """Takes the load's lines and keeps what judging needs."""

    def __init__(self, hosts: Mapping[str, str], answers: list[Answer]) -> None:
        super().__init__()
        self.hosts, self.answers = hosts, answers

    def write(self, line: str) -> int:
        self.answers.append(judge.answer_of(json.loads(line), self.hosts))
        return len(line)


@dataclass
class Controller:
    """An ansible-playbook that runs, or ran."""

    process: subprocess.Popen[bytes]
    name: str
    log: Path
    timeline: Path
    go: Path
    started: float = field(default_factory=time.monotonic)

    @property
    def hit(self) -> float | None:
        """When the fault happened, or the controller stopped to let it happen."""
        return judge.moment_of(self.history, "hit")

    @property
    def history(self) -> str:
        """The timeline so far."""
        return self.timeline.read_text() if self.timeline.exists() else ""

    def wait(self, timeout: float = 300) -> int:
        """Its exit status; -9 if it was killed."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            end(self.name)
            self.process.wait(10)
            raise Failure(f"no end after {timeout:g} s; see {self.log}") from None

    def last_lines(self, count: int = 3) -> str:
        """The end of what it wrote, in one line."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " / ".join(lines[-count:])


def processes_of(name: str) -> list[int]:
    """The processes of one controller, also those that outlived it; shared SSH connections do not count."""
    wanted = f"{MARK}={name}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if (
                    wanted in (entry / "environ").read_bytes().split(b"\0")
                    and b"[mux]" not in (entry / "cmdline").read_bytes()
                ):
                    found.append(int(entry.name))
    return found


def end(name: str, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal every process of one controller."""
    for pid in processes_of(name):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    """A signal that ends a benchmark as Ctrl-C does: its hosts are removed."""
    raise KeyboardInterrupt


class Rig:
    """Three app servers, a database and a cache, with r1 live and r2 known, under steady traffic."""

    def __init__(self, app_servers: int, seed: int, progress: Progress, ttl: float, lease_ttl: float) -> None:
        self.fleet = Fleet(WORK / "inventory", WORK / "work", app_servers, SUBNET)
        # No load balancer: each host's own visitors are judged.
        self.fleet.nodes = [node for node in self.fleet.nodes if node.group != "load_balancers"]
        self.progress, self.seed, self.ttl, self.lease_ttl = progress, seed, ttl, lease_ttl
        self.logs = WORK / "logs"
        self.answers: list[Answer] = []
        self.podman = Podman()
        self.inventory = inventory_name(self.fleet.directory)
        self.pids: dict[str, str] = {}
        self.round = int(time.time())  # settings of a deploy that no deploy had before
        self.rounds: dict[str, int] = {}
        self.load: LoadThread | None = None
        self.token = ""
        self.count = 0
        self.known: set[str] = set()  # leftovers of earlier runs: each is told once

    # -- hosts

    @property
    def hosts(self) -> list[str]:
        """The app servers' names."""
        return [node.name for node in self.fleet.app_servers]

    def node(self, name: str) -> Node:
        """A host by its name."""
        return next(node for node in self.fleet.nodes if node.name == name)

    def container(self, name: str) -> str:
        """The container that is a host."""
        return f"bluegreen-{self.inventory}-{name}"

    def pid(self, name: str) -> str:
        """The first process of a host; "" while it is off."""
        words = [*self.podman.prefix, "inspect", "--format", "{{.State.Pid}}", self.container(name)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
        found = done.stdout.strip()
        return "" if found in ("", "0") else found

    def on(self, name: str, script: str, *, timeout: float = 60, check: bool = True, stdin: bytes = b"") -> str:
        """Standard output of a shell script on a host. It enters the host's namespaces: no SSH, no network needed."""
        pid = self.pids.get(name) or self.pid(name)
        if not pid:
            raise Failure(f"{name} is off")
        self.pids[name] = pid
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        words = [*as_root(), "nsenter", "-t", pid, "-m", "-u", "-i", "-n", "-p", "env", "-i", path, "HOME=/root"]
        try:
            done = subprocess.run(
                [*words, "sh", "-c", script], input=stdin, capture_output=True, timeout=timeout, check=False, cwd="/"
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"{name}: no end after {timeout:g} s: {script[:60]}") from None
        if check and done.returncode:
            raise Failure(f"{name}: status {done.returncode}: {done.stderr.decode(errors='replace').strip()[-300:]}")
        return done.stdout.decode(errors="replace")

    def everywhere(self, script: str, hosts: Iterable[str] | None = None, timeout: float = 60) -> dict[str, str]:
        """The same on several hosts at once."""
        names = list(hosts or self.hosts)
        with ThreadPoolExecutor(len(names)) as pool:
            return dict(zip(names, pool.map(lambda name: self.on(name, script, timeout=timeout), names), strict=True))

    def look(self, hosts: Iterable[str] | None = None) -> dict[str, Look | None]:
        """What hosts hold now; None for one that does not answer."""

        def one(name: str) -> Look | None:
            found = None
            with suppress(Failure):
                found = judge.look_of(self.on(name, judge.LOOK.format(app=APP), timeout=5, check=False))
            if found is None:
                self.pids.pop(name, None)  # it may be another one after a start
            return found

        names = list(hosts or self.hosts)
        with ThreadPoolExecutor(len(names)) as pool:
            return dict(zip(names, pool.map(one, names), strict=True))

    def status(self, hosts: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """What `bluegreen status` says."""
        answers = self.everywhere(f"bluegreen status --app {APP}", hosts)
        return {name: json.loads(answer) for name, answer in answers.items()}

    def leftovers(self, hosts: Iterable[str] | None = None, patience: float = 12.0) -> list[str]:
        """What hosts still hold when old processes have had the time to finish."""
        until = time.monotonic() + patience
        while True:
            status = self.status(hosts)
            listing = self.everywhere(judge.LEFTOVERS.format(app=APP), hosts)
            found = [f"{name}: {line}" for name in status for line in judge.leftovers(listing[name], status[name])]
            new = [line for line in found if line not in self.known]
            if not new or time.monotonic() > until:
                return new
            time.sleep(0.5)

    # -- making them

    @property
    def kept(self) -> bool:
        """Whether the hosts of the last time run still."""
        return bool(self.pid("web1")) and self.fleet.directory.is_dir()

    def check_kept(self) -> None:
        """Refuse a run for which other hosts were kept, before anything is done to them. Raises Failure."""
        there = [str(item["labels"]["bluegreen.host"]) for item in self.podman.containers(self.inventory)]
        there = [name for name in there if name.startswith("web")]
        if self.kept and (problem := other_hosts(there, self.hosts, self.fleet.directory)):
            raise Failure(problem, 2)

    def prepare(self) -> None:
        """Hosts with both releases on them; those that run already are used as they are."""
        self.logs.mkdir(parents=True, exist_ok=True)
        if self.kept:
            self.fleet.shas = json.loads((WORK / "shas.json").read_text())
            self.progress("the hosts of the last time are used again")
            if not PROVISIONED.is_file() or PROVISIONED.read_text() != version():
                self.must(self.fleet.playbook("provision.yml"), "provision")
        else:
            self.make()
        self.everywhere(
            "command -v strace >/dev/null || (apt-get -q update && apt-get -qy install strace)", timeout=300
        )
        PROVISIONED.write_text(version())
        self.token = self.fleet.probe_token()
        self.given(OLD)

    def make(self) -> None:
        """New hosts."""
        self.fleet.make_repository()
        (WORK / "shas.json").write_text(json.dumps(self.fleet.shas))
        environment = {
            "ALLOWED_HOSTS": "{{ app_domain }}",
            "HTTPS": "0",
            "BENCHMARK_ROUND": "{{ benchmark_round | default('0') }}",
        }
        self.fleet.write_inventory({"app_env": environment, "app_processes": one_worker()})
        for release in (OLD, NEW):
            self.progress(f"build {release}")
            self.must(self.fleet.build(release), f"build {release}")
        self.progress(f"make and provision {len(self.fleet.nodes)} hosts")
        self.must(self.fleet.hosts("down"), "remove old hosts")
        self.must(self.fleet.hosts("up"), "make hosts")
        self.must(self.fleet.playbook("provision.yml"), "provision")
        self.must(self.deploy_command(OLD), "first deploy")

    def remove(self) -> None:
        """Removes the hosts and their secrets."""
        self.must(self.fleet.hosts("down"), "remove hosts")
        shutil.rmtree(self.fleet.directory, ignore_errors=True)

    def must(self, command: Sequence[str], name: str, timeout: float = 900) -> None:
        """Run a command that has to succeed."""
        controller = self.start(command, name)
        if controller.wait(timeout):
            raise Failure(f"{name}: {controller.last_lines()}; see {controller.log}")

    # -- controllers

    def deploy_command(self, release: str, *, fresh: bool = True, **variables: object) -> list[str]:
        """deploy.yml, fresh with a configuration that no earlier deploy had; else with that of the last time."""
        if fresh or release not in self.rounds:
            self.round += 1
            self.rounds[release] = self.round
        given: dict[str, object] = {
            "sha": self.fleet.shas[release],
            "benchmark_round": self.rounds[release],
            "watch": 1,
        }
        given |= CALM | variables
        return self.fleet.playbook("deploy.yml", **given)

    def rollback_command(self, release: str, **variables: object) -> list[str]:
        """rollback.yml to a release by its name: named, so that a re-run never goes one further back."""
        return self.fleet.playbook("rollback.yml", **({"to": self.fleet.shas[release]} | CALM | variables))

    def hurried(self, command: Sequence[str], ttl: float | None = None) -> list[str]:
        """The same with a time-to-live and a lease of seconds: for the run that a fault meets."""
        times = {"rollout_ttl": self.ttl if ttl is None else ttl, "rollout_lease_ttl": self.lease_ttl}
        return [*command, *(word for key, value in times.items() for word in ("-e", f"{key}={value:g}"))]

    def start(self, command: Sequence[str], name: str, plan: Mapping[str, object] | None = None) -> Controller:
        """Start a controller. plan: what the callback is told, for example {"at": "before:Switch", "do": "KILL"}."""
        self.count += 1
        mark = uuid.uuid4().hex
        stem = self.logs / f"{self.count:04d}-{name.replace(' ', '-')}"
        timeline, go, log = stem.with_suffix(".timeline"), stem.with_suffix(".go"), stem.with_suffix(".log")
        for path in (timeline, go):
            path.unlink(missing_ok=True)
        callbacks = f"{REPO / 'plugins' / 'callback'}:{REPO / 'benchmarks' / 'faults' / 'callback'}"
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(REPO / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": callbacks,
            "PYTHONUNBUFFERED": "1",
            MARK: mark,
            "FAULT_TIMELINE": str(timeline),
            "FAULT_GO": str(go),
            **{f"FAULT_{key.upper()}": str(value) for key, value in (plan or {}).items()},
        }
        with log.open("wb") as out:
            out.write(f"$ {' '.join(command)}\n".encode())
            out.flush()
            process = subprocess.Popen(
                command,
                cwd=REPO,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Controller(process, mark, log, timeline, go)

    def given(self, release: str) -> None:
        """Whatever was before: this release is live everywhere and nothing is left behind."""
        looks = self.look()
        there = judge.whole(looks) and not judge.at_work(looks.values())
        there = there and all(look and look.sha == self.fleet.shas[release] for look in looks.values())
        if there and not self.leftovers(patience=3):
            return
        if release == OLD:
            back = self.start(self.rollback_command(OLD), f"back to {release}")
            if back.wait() == 0:  # seconds instead of a whole deploy, where the release is still known
                return
        command = self.deploy_command(release, fresh=False, retry_bad=True)
        try:
            self.must(command, f"given {release}")
        except Failure as failure:
            self.progress(f"once more: {failure}")
            self.must(command, f"given {release}")

    def unmigrate(self) -> None:
        """Take r2's migration back, so that the next deploy of it has one to run. r1 must be live."""
        self.on("db1", f"runuser -u postgres -- psql -Xq -v ON_ERROR_STOP=1 {APP}", stdin=UNMIGRATE.encode())

    # -- traffic

    def __enter__(self) -> Rig:
        names = {f"http://{node.address}": node.name for node in self.fleet.app_servers}
        targets = [parse_target(url, DOMAIN) for url in names]
        load = Load(
            targets,
            profile=VISITS,
            rate=RATE * len(targets),
            connections=4,
            timeout=10,
            probe_token=self.token,
            log=Log(names, self.answers),
        )
        self.load = LoadThread(load).start()
        time.sleep(1)
        return self

    def __exit__(self, *_: object) -> None:
        if self.load is not None:
            self.load.stop()

    # -- a run

    def observe(
        self,
        since: float,
        hosts: Sequence[str],
        controllers: Sequence[Controller] = (),
        ttl: float | None = None,
        patience: float = PATIENCE,
    ) -> float | None:
        """Seconds from `since` until these hosts were seen whole, and stayed so; None if they never were.

        Never too small: the moment counts in which it was seen, not the one in which it became so. Looks on while
        anything that could still change them is alive: a controller's orphan, a verb, a timer. ttl: count from the
        arming of the last switch if that came later (what a dead controller left under way).
        """
        offset = time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
        until = time.monotonic() + patience
        seen: float | None = None
        calm = 0
        while time.monotonic() < until:
            looks = self.look(hosts)
            if ttl is not None:
                since = max(since, judge.armed(looks.values(), ttl, offset) or since)
            if not judge.whole(looks):
                seen, calm = None, 0
            else:
                seen = time.monotonic() if seen is None else seen
                alive = judge.at_work(looks.values()) or any(processes_of(one.name) for one in controllers)
                calm = 0 if alive else calm + 1
                if calm >= 4:
                    return max(0.0, seen - since)
            time.sleep(PAUSE)
        return None

    def ended(self, hosts: Sequence[str]) -> str:
        """The release that these hosts serve, by its name: r1, r2, or several."""
        names = {sha: name for name, sha in self.fleet.shas.items()}
        return " and ".join(sorted({names.get((look and look.sha) or "", "?") for look in self.look(hosts).values()}))

    def rerun(self, result: Run, command: Sequence[str], goal: str) -> None:
        """Type the same again; it has to succeed and to reach its goal."""
        controller = self.start(command, "rerun")
        result.rerun = controller.wait()
        result.rerun_seconds = time.monotonic() - controller.started
        text = controller.last_lines()
        if result.rerun and "already live" in text:
            result.rerun = 0
            result.notes.append("the re-run found its goal reached")
        if result.rerun:
            result.notes.append(f"re-run: {text} ({controller.log.name})")
        ended = self.ended(self.hosts)
        if ended != goal:
            result.problems.append(f"after the re-run {ended} is live, not {goal}")

    def finish(
        self,
        result: Run,
        start: float,
        spared: Sequence[str],
        ttl: float | None,
        hosts: Sequence[str] | None = None,
        bounded: bool = True,
    ) -> Run:
        """Judge a run that began at `start`.

        spared: hosts whose visitors may not notice. ttl, bounded: as `judge.judge` wants them. hosts: asked for
        leftovers (all).
        """
        time.sleep(0.3)
        seen = judge.traffic(self.answers, start, time.monotonic() - 1.5, spared)
        result.requests, result.failed, result.gap, result.mixed = seen.requests, seen.failed, seen.gap, seen.mixed
        result.leftovers = self.leftovers(hosts)
        self.known |= {line for line in result.leftovers if judge.stays(line)}
        result.notes += [f"failed: {detail}" for detail in seen.failures]
        result.problems += judge.judge(result, ttl, bounded)
        del self.answers[: max(0, len(self.answers) - 2000)]
        return result


Report = Callable[[Run], None]
