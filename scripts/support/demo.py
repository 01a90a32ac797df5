"""The demo: a real Django application goes onto bare hosts, is upgraded, spared a broken release, and rolled back.

All of it happens under steady traffic, with the commands that a user would type. See scripts/demo --help.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TextIO

from support.common import CACHE, REPO, STATE, VENV, Failure
from support.example_fleet import DOMAIN, VISITORS, Fleet, Ran, Runner
from support.load import Load, LoadThread, parse_profile, parse_target

HOME = CACHE / "demo"
FIRST, SECOND, BROKEN = "r1", "r2", "r3"
MOST_EXTRA_SECONDS = 180.0  # how long traffic may go on only to reach the wanted number of requests
QUIET_SECONDS = 10.0  # without a terminal, a long silent step says so this often
FREE_MB = 4000


@dataclass
class Step:
    """One step of the demo. outcome: done, refused (as it must be) or failed."""

    name: str
    sha: str | None
    seconds: float
    outcome: str


class Screen:
    """Lines on a stream; on a terminal one more line below them, with a running clock."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.live = stream.isatty()
        self.started = time.monotonic()
        self._lock = threading.Lock()
        self._step = ""
        self._step_started = 0.0
        self._spoke = time.monotonic()
        self._shown = False
        self.note: Callable[[], str] = str
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="clock", daemon=True)
        self._thread.start()

    def clock(self) -> str:
        """Seconds since the start, as every line shows them."""
        return f"[{time.monotonic() - self.started:6.1f} s]"

    def line(self, text: str = "") -> None:
        """Prints one line above the clock."""
        with self._lock:
            self._wipe()
            self.stream.write(text + "\n")
            self.stream.flush()
            self._spoke = time.monotonic()

    def step(self, text: str) -> None:
        """Names what is being done now ("" for nothing)."""
        with self._lock:
            self._wipe()
            self._step, self._step_started = text, time.monotonic()

    def close(self) -> None:
        """Stops the clock."""
        self._stop.set()
        self._thread.join(2)
        with self._lock:
            self._wipe()

    def _wipe(self) -> None:
        if self._shown:
            self.stream.write("\r\x1b[K")
            self._shown = False

    def _tick(self) -> None:
        while not self._stop.wait(0.2):
            with self._lock:
                if not self._step:
                    continue
                note = self.note()
                seconds = time.monotonic() - self._step_started
                text = f"{self.clock()} {self._step} … {seconds:.0f} s" + (f"  ({note})" if note else "")
                if self.live:
                    width = shutil.get_terminal_size().columns - 1
                    self.stream.write(f"\r\x1b[K{text[:width]}")
                    self.stream.flush()
                    self._shown = True
                elif time.monotonic() - self._spoke > QUIET_SECONDS:
                    self.stream.write(text + "\n")
                    self.stream.flush()
                    self._spoke = time.monotonic()


@dataclass(frozen=True)
class Options:
    """The command line, checked."""

    hosts: int
    keep: bool
    report: Path | None
    inventory: Path
    subnet: str
    rate: float
    requests: int
    watch: int


class Demo:
    """One run. `fleet` and `runner` do the work; this tells the story and keeps the record."""

    def __init__(self, options: Options, screen: Screen, fleet: Fleet, runner: Runner) -> None:
        self.options = options
        self.screen = screen
        self.fleet = fleet
        self.runner = runner
        self.steps: list[Step] = []
        self.traffic: dict[str, Any] | None = None
        self.rollback_started = 0.0
        self.hosts_made = False
        self.problem = ""

    # -- steps

    @contextmanager
    def step(self, name: str, sha: str | None = None) -> Iterator[Step]:
        """Times one step and records it; what is raised inside fails it."""
        self.screen.line(f"{self.screen.clock()} {name}")
        self.screen.step(name)
        started = time.monotonic()
        step = Step(name, sha, 0.0, "done")
        self.steps.append(step)
        try:
            yield step
        except BaseException:
            step.outcome = "failed"
            raise
        finally:
            step.seconds = round(time.monotonic() - started, 2)
            self.screen.step("")
            self.screen.line(f"{self.screen.clock()} {name}: {step.outcome} after {step.seconds:.1f} s")

    def command(self, command: Sequence[str], timeout: float, *, own_session: bool = True) -> tuple[Ran, Path]:
        """Runs a command of the current step; its output is shown indented and logged."""
        log = self.runner.log_path(self.steps[-1].name)
        return self.runner(command, log, timeout=timeout, own_session=own_session), log

    def must(self, command: Sequence[str], timeout: float, *, own_session: bool = True) -> Ran:
        """The same for a command that has to succeed."""
        ran, log = self.command(command, timeout, own_session=own_session)
        if ran.status != 0:
            raise Failure(f"{self.steps[-1].name}: {ran.reason or f'exit status {ran.status}'}; see {shown(log)}")
        return ran

    def run(self) -> None:
        """The whole story; raises Failure where it does not go as told."""
        self.prepare()
        self.make_hosts()
        with self.step(f"deploy {FIRST}", self.fleet.shas[FIRST]):
            self.deploy(FIRST, watch=0)  # nobody visits yet
            self.expect(FIRST)
        self.under_traffic()

    def prepare(self) -> None:
        """Tools, inventory, repository, artifacts."""
        with self.step("install what is missing"):
            # In our session, so that sudo may ask for a password on the terminal.
            self.screen.step("")
            self.must([str(REPO / "scripts" / "setup")], timeout=1800, own_session=False)
            os.environ["PATH"] = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        with self.step("lay out the example and its history"):
            self.fleet.make_repository()
            self.fleet.write_inventory()
        for release in (FIRST, SECOND, BROKEN):
            with self.step(f"build the artifact of {release}", self.fleet.shas[release]):
                self.must(self.fleet.build(release), timeout=1200)

    def make_hosts(self) -> None:
        """Bare hosts, then ready ones."""
        with self.step(f"make {len(self.fleet.nodes)} bare hosts"):
            self.hosts_made = True
            self.must(self.fleet.hosts("down"), timeout=300)  # what an earlier demo kept
            self.must(self.fleet.hosts("up"), timeout=1800)
        with self.step("provision them"):
            self.must(self.fleet.playbook("provision.yml"), timeout=1800)

    def deploy(self, release: str, watch: int) -> None:
        """Deploys a release that has to go well."""
        self.must(self.fleet.playbook("deploy.yml", sha=self.fleet.shas[release], watch=watch), timeout=900)

    def expect(self, release: str) -> None:
        """Asks every URL which release answers."""
        wrong = self.fleet.not_serving(self.fleet.shas[release])
        if wrong:
            raise Failure(f"{self.steps[-1].name}: {release} should answer everywhere, but {wrong[0]}")

    def under_traffic(self) -> None:
        """Upgrade, broken release, rollback, while visitors come and go."""
        targets = [parse_target(url, DOMAIN) for url in self.fleet.urls]
        with (self.runner.logs / "traffic.jsonl").open("w", encoding="utf-8") as log:
            load = Load(
                targets,
                profile=parse_profile(VISITORS),
                rate=self.options.rate,
                connections=4,
                probe_token=self.fleet.probe_token(),
                log=log,
            )
            thread = LoadThread(load)
            self.screen.note = lambda: f"{load.tally.requests} requests, {load.tally.failed} failed"
            where = ", ".join(target.url for target in targets)
            self.screen.line(
                f"{self.screen.clock()} visitors arrive: {self.options.rate:g} requests a second at {where}"
            )
            try:
                thread.start()
                time.sleep(2)
                self.upgrade_and_back()
                self.enough(load)
            finally:
                self.traffic = thread.stop()
                self.screen.note = str
        if self.traffic["failed"]:
            first = self.traffic["failures"][0]
            raise Failure(
                f"{self.traffic['failed']} of {self.traffic['requests']} requests failed, the first: {first['method']} "
                f"{first['target']}{first['path']}: {first['detail']}; see {shown(self.runner.logs / 'traffic.jsonl')}"
            )

    def upgrade_and_back(self) -> None:
        """The three changes; after each one every URL is asked who answers."""
        shas = self.fleet.shas
        with self.step(f"deploy {SECOND}", shas[SECOND]):
            self.deploy(SECOND, self.options.watch)
            self.expect(SECOND)
        with self.step(f"deploy {BROKEN}, which is broken", shas[BROKEN]) as step:
            command = self.fleet.playbook("deploy.yml", sha=shas[BROKEN], watch=self.options.watch)
            ran, log = self.command(command, timeout=900)
            if ran.status == 0:
                raise Failure(f"{BROKEN} cannot work, but its deploy ended well; see {shown(log)}")
            self.expect(SECOND)
            step.outcome = "refused"
        with self.step(f"roll back to {FIRST}", shas[FIRST]):
            self.rollback_started = time.monotonic()
            self.must(self.fleet.playbook("rollback.yml"), timeout=900)
            self.expect(FIRST)

    def enough(self, load: Load) -> None:
        """Some more traffic, so that what comes late is seen, and until the wanted number of requests is reached."""
        with self.step("go on for a while"):
            started = time.monotonic()
            time.sleep(3)
            while load.tally.requests < self.options.requests:
                if time.monotonic() - started > MOST_EXTRA_SECONDS:
                    raise Failure(f"only {load.tally.requests} requests were answered, {self.options.requests} wanted")
                time.sleep(0.5)

    # -- record

    def rollback_seconds(self, which: str = "last_quick") -> float | None:
        """From the rollback command to the last answer of the release that was rolled back; None without a rollback.

        which: last_quick leaves out requests that take seconds by intention and were under way at the switch.
        """
        if not self.traffic or not self.rollback_started:
            return None
        moments = [
            seen[which]["monotonic"]
            for name, seen in self.traffic["releases"].items()
            if name[:12] == self.fleet.shas[SECOND][:12] and seen[which]
        ]
        return round(max(0.0, max(moments) - self.rollback_started), 3) if moments else None

    def report(self) -> dict[str, Any]:
        """What --report writes."""
        traffic = self.traffic or {}
        return {
            "format": 1,
            "ok": not self.problem,
            "problem": self.problem,
            "requests": traffic.get("requests", 0),
            "failed": traffic.get("failed", 0),
            "steps": [asdict(step) for step in self.steps],
            "rollback_seconds": self.rollback_seconds(),
            "rollback_seconds_with_slow_requests": self.rollback_seconds("last"),
            "seconds": round(time.monotonic() - self.screen.started, 1),
            "hosts": [{"name": node.name, "address": node.address} for node in self.fleet.nodes],
            "urls": self.fleet.urls,
            "host_header": DOMAIN,
            "inventory": str(self.fleet.directory),
            "ssh_key": str(self.fleet.ssh_key),
            "logs": str(self.runner.logs),
            "kept": self.options.keep,
            "traffic": self.traffic,
        }

    def summary(self) -> list[str]:
        """The end of the story in some lines."""
        lines = [""]
        for step in self.steps:
            sha = f" {step.sha[:12]}" if step.sha else ""
            lines.append(
                f"  {step.seconds:7.1f} s  {step.name}{sha}" + ("" if step.outcome == "done" else f": {step.outcome}")
            )
        if self.traffic:
            gap = max(place["longest_gap_seconds"] for place in self.traffic["targets"].values())
            lines += [
                "",
                f"  requests  {self.traffic['requests']}, of which {self.traffic['failed']} failed",
                f"  silence   at most {gap:.2f} s between two good answers of one address",
            ]
        seconds = self.rollback_seconds()
        if seconds is not None:
            slow = self.rollback_seconds("last")
            lines.append(f"  rollback  {seconds:.2f} s from the command to the last answer of the bad release")
            if slow is not None and slow > seconds + 0.05:
                lines.append(f"            ({slow:.2f} s for requests of 2 s that were under way)")
        return lines

    def how_to_reach(self) -> list[str]:
        """What to type while the hosts are kept."""
        where, second = shown(self.fleet.directory), self.fleet.shas.get(SECOND, "")[:12]
        key, pinned = shown(self.fleet.ssh_key), shown(STATE / "known_hosts")
        ssh = f"ssh -i {key} -o UserKnownHostsFile={pinned} root@{self.fleet.app_servers[0].address}"
        return [
            "",
            f"  look      curl -H 'Host: {DOMAIN}' {self.fleet.urls[0]}/",
            f"  status    .venv/bin/ansible-playbook -i {where} status.yml",
            f"  deploy    .venv/bin/ansible-playbook -i {where} deploy.yml -e sha={second}",
            f"  log in    {ssh}",
            f"  remove    scripts/hosts down {where}",
        ]

    def remove(self) -> None:
        """Removes hosts and inventory; artifacts and logs stay in the cache."""
        if self.hosts_made:
            with self.step("remove the hosts"):
                self.must(self.fleet.hosts("down"), timeout=300)
        shutil.rmtree(self.fleet.directory, ignore_errors=True)


def shown(path: Path) -> str:
    """A path as a person in the repository's root would type it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


# --- the program --------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line of scripts/demo."""
    result = argparse.ArgumentParser(
        prog="demo",
        description="One command: installs what it lacks (it says what), makes test hosts, provisions them, deploys "
        "the example application, and under steady traffic upgrades it, tries a broken release and rolls back. Removes "
        "everything in the end. Exit status 0: all went as told and no request failed.",
    )
    result.add_argument(
        "--hosts", type=int, default=1, metavar="N", help="app servers, 1 to 9 (1); from 2 with a balancer"
    )
    result.add_argument("--keep", action="store_true", help="leave the hosts running and say how to reach them")
    result.add_argument("--report", type=Path, metavar="FILE", help="write what happened as JSON")
    result.add_argument(
        "--inventory", type=Path, metavar="DIR", default=HOME / "inventory", help="where to write the inventory"
    )
    result.add_argument("--subnet", default="10.213.60.0/24", help="private /24 of the hosts (10.213.60.0/24)")
    result.add_argument("--rate", type=float, default=60.0, help="requests per second, all addresses together (60)")
    result.add_argument("--requests", type=int, default=5200, help="at least so many requests (5200)")
    result.add_argument("--watch", type=int, default=10, help="seconds that a new release is watched (10)")
    return result


def checked(arguments: Sequence[str]) -> Options:
    """The options; raises Failure before anything is changed."""
    given = parser().parse_args(arguments)
    if not 1 <= given.rate <= 2000:
        raise Failure(f"--rate {given.rate:g}: give requests per second from 1 to 2000", 2)
    if not 0 <= given.requests <= given.rate * MOST_EXTRA_SECONDS:
        most = int(given.rate * MOST_EXTRA_SECONDS)
        raise Failure(f"--requests {given.requests}: give 0 to {most}, or a higher --rate", 2)
    if not 0 <= given.watch <= 600:
        raise Failure(f"--watch {given.watch}: give seconds from 0 to 600", 2)
    if given.report:
        given.report = given.report.absolute()
        if not given.report.parent.is_dir() or not os.access(given.report.parent, os.W_OK):
            raise Failure(f"--report {given.report}: {given.report.parent} is not a directory you may write to", 2)
    return Options(**vars(given))


def main(arguments: list[str]) -> int:
    """Entry point; raises Failure for bad input."""
    options = checked(arguments)
    fleet = Fleet(options.inventory, HOME, options.hosts, options.subnet)
    HOME.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(HOME).free // 2**20
    if free < FREE_MB:
        raise Failure(f"{shown(HOME)} has {free} MB free; the demo needs {FREE_MB} MB")
    logs = HOME / "logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, _interrupt)
    screen = Screen(sys.stdout)
    runner = Runner(logs, lambda line: screen.line(f"    {line}"))
    demo = Demo(options, screen, fleet, runner)
    names = ", ".join(node.name for node in fleet.nodes)
    screen.line(f"This makes {len(fleet.nodes)} test hosts on this machine ({names}) and removes them in the end.")
    screen.line(f"Tools that are missing are installed first (scripts/setup says which). Logs: {shown(logs)}")
    try:
        return perform(demo)
    finally:
        screen.close()


def perform(demo: Demo) -> int:
    """Runs the demo, cleans up whatever happened, reports; gives the exit status."""
    status = 0
    try:
        demo.run()
    except Failure as failure:
        demo.problem, status = str(failure), 1
    except KeyboardInterrupt:
        demo.problem, status = "interrupted", 130
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # cleaning up is short and has to be done
    for line in demo.summary() if demo.steps else ():
        demo.screen.line(line)
    if demo.options.keep and demo.hosts_made:
        for line in demo.how_to_reach():
            demo.screen.line(line)
    else:
        try:
            demo.screen.line()
            demo.remove()
        except Failure as failure:
            demo.problem, status = demo.problem or str(failure), status or 1
    if demo.options.report:
        demo.options.report.write_text(json.dumps(demo.report(), indent=2) + "\n", encoding="utf-8")
    if demo.problem:
        demo.screen.line()
        demo.screen.close()
        print(f"demo: {demo.problem}", file=sys.stderr)
    return status


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
