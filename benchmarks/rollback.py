#!/usr/bin/env python3
"""How long rollback and deploy take, beside a playbook with one module call: see benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "scripts"))

from support.common import CACHE, Failure, Progress, run_main, use_project_python  # noqa: E402

use_project_python()

from support.example_fleet import DOMAIN, Fleet, Ran, Runner, versions  # noqa: E402
from support.load import Load, LoadThread, Shape, parse_target  # noqa: E402

RESULTS = REPO / "benchmarks" / "results"
HOSTS = "Debian 13 containers with systemd, on the machine that runs Ansible"
WORK = CACHE / "benchmarks"
OLD, NEW = "r1", "r2"
RATE = 60.0  # requests per second over all app servers: enough to see the last answer to some hundredths of a second


@dataclass(frozen=True)
class Sample:
    """One measured command beside the module call that ran just before it. Times in seconds."""

    hosts: int
    connections: str  # cold: SSH connects anew; warm: the connection of the call before is used
    command: str  # rollback or deploy
    seconds: float
    one_module_call: float
    last_bad_answer: float | None  # after the start of the command; rollbacks only
    three_module_calls: float | None  # as many as a rollback needs; rollbacks only

    @property
    def ratio(self) -> float:
        """Of the command to the module call."""
        return self.seconds / self.one_module_call

    @property
    def floor(self) -> float | None:
        """Of three module calls to one: no rollback of three calls can be below."""
        return None if self.three_module_calls is None else self.three_module_calls / self.one_module_call

    @property
    def answer_ratio(self) -> float | None:
        """Of the last bad answer to the module call."""
        return None if self.last_bad_answer is None else self.last_bad_answer / self.one_module_call


def spread(values: Sequence[float]) -> str:
    """Median, and the smallest and largest value."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})" if values else "–"


def table(samples: Sequence[Sample]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| hosts | SSH | command | pairs | seconds | one call | ratio | of three calls | last bad answer | of it |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    keys = {(one.hosts, one.connections, one.command) for one in samples}
    for key in sorted(keys, key=lambda key: (key[2] != "rollback", key[0], key[1])):
        group = [one for one in samples if (one.hosts, one.connections, one.command) == key]
        answers = [one.last_bad_answer for one in group if one.last_bad_answer is not None]
        ratios = [one.answer_ratio for one in group if one.answer_ratio is not None]
        floors = [one.floor for one in group if one.floor is not None]
        cells = [
            *map(str, key),
            str(len(group)),
            spread([one.seconds for one in group]),
            spread([one.one_module_call for one in group]),
            spread([one.ratio for one in group]),
            spread(floors),
            spread(answers),
            spread(ratios),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


class Bench:
    """One fleet: r1 and r2 on it, traffic over it, pairs of commands measured."""

    def __init__(self, app_servers: int, progress: Progress) -> None:
        directory = CACHE / f"benchmarks-{app_servers}" / "inventory"
        self.fleet = Fleet(directory, WORK, app_servers, f"10.213.{60 + app_servers}.0/24")
        self.progress = progress
        logs = WORK / f"logs-{app_servers}"
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        self.runner = Runner(logs, lambda _line: None)
        self.sockets = tempfile.TemporaryDirectory(prefix="bg-")
        self.samples: list[Sample] = []
        self.round = 0
        self.first_deploy = 0.0
        self.failed = 0
        self.requests = 0

    def must(self, name: str, command: Sequence[str], timeout: float = 1800) -> Ran:
        """Runs a command that has to succeed."""
        log = self.runner.log_path(name)
        ran = self.runner(command, log, timeout=timeout)
        if ran.status != 0:
            raise Failure(f"{name}: {ran.reason or f'exit status {ran.status}'}; see {log}")
        return ran

    def prepare(self) -> None:
        """Hosts with both releases on them, the new one live."""
        count = len(self.fleet.app_servers)
        self.fleet.make_repository()
        # Every deploy has a configuration of its own, so each one starts processes anew.
        environment = {
            "ALLOWED_HOSTS": "{{ app_domain }}",
            "HTTPS": "0",
            "BENCHMARK_ROUND": "{{ benchmark_round | default('0') }}",
        }
        self.fleet.write_inventory({"app_env": environment})
        for release in (OLD, NEW):
            self.progress(f"build {release}")
            self.must(f"build {release}", self.fleet.build(release))
        self.progress(f"make and provision {count} app server(s)")
        self.must("remove old hosts", self.fleet.hosts("down"))
        self.must("make hosts", self.fleet.hosts("up"))
        self.must("provision", self.fleet.playbook("provision.yml"))
        for release in (OLD, NEW):
            self.progress(f"deploy {release}")
            ran = self.deploy(release, "cold")
            self.first_deploy = self.first_deploy or ran.seconds

    def connecting(self, connections: str, command: Sequence[str]) -> list[str]:
        """The command with SSH connections of its own (cold) or those of the commands before (warm)."""
        if connections == "warm":
            return list(command)
        # Short, because a socket's name may have 108 characters.
        place = tempfile.mkdtemp(prefix="c", dir=self.sockets.name)
        return ["env", f"ANSIBLE_SSH_CONTROL_PATH_DIR={place}", *command]

    def deploy(self, release: str, connections: str) -> Ran:
        """Deploys without a watch."""
        self.round += 1
        variables = {"sha": self.fleet.shas[release], "watch": 0, "benchmark_round": self.round}
        return self.must("deploy", self.connecting(connections, self.fleet.playbook("deploy.yml", **variables)))

    def module_calls(self, number: str, connections: str) -> float:
        """Seconds of a playbook that is compared with: one module call or three."""
        playbook = self.fleet.playbook(f"benchmarks/{number}_module_call{'' if number == 'one' else 's'}.yml")
        return self.must(f"{number} module call(s)", self.connecting(connections, playbook)).seconds

    def measure(self, rounds: int) -> None:
        """A B A C for both kinds of connections, `rounds` times, under traffic."""
        targets = [parse_target(f"http://{node.address}", DOMAIN) for node in self.fleet.app_servers]
        shape = Shape("get", "/healthz")
        load = Load(targets, profile=[shape], rate=RATE, connections=2, probe_token=self.fleet.probe_token())
        with LoadThread(load) as thread:
            for number in range(1, rounds + 1):
                for connections in ("cold", "warm"):
                    self._pairs(load, connections)
                    rollback, deploy = self.samples[-2:]
                    self.progress(
                        f"{len(targets)} host(s), {connections}, {number} of {rounds}: "
                        f"rollback {rollback.seconds:.2f} s = {rollback.ratio:.2f} × one call, last bad answer after "
                        f"{rollback.last_bad_answer or 0:.2f} s, deploy {deploy.seconds:.2f} s"
                    )
            report = thread.stop()
        self.requests, self.failed = report["requests"], report["failed"]

    def _pairs(self, load: Load, connections: str) -> None:
        hosts = len(self.fleet.app_servers)
        if connections == "warm":
            self.module_calls("one", connections)  # opens what the measured ones share
        bad = set(self.fleet.serving().values())
        if len(bad) != 1 or "" in bad:
            raise Failure(f"one release should answer everywhere, not {sorted(bad)}")
        three = self.module_calls("three", connections)
        call = self.module_calls("one", connections)
        ran = self.must("rollback", self.connecting(connections, self.fleet.playbook("rollback.yml")))
        time.sleep(1)
        seen = load.tally.releases.get(bad.pop())
        if seen is None:
            raise Failure("the load never saw the release that was rolled back")
        last = max(0.0, seen.last.monotonic - ran.started)
        self.samples.append(Sample(hosts, connections, "rollback", ran.seconds, call, last, three))
        wrong = self.fleet.not_serving(self.fleet.shas[OLD])
        if wrong:
            raise Failure(f"after the rollback {OLD} should answer, but {wrong[0]}")
        call = self.module_calls("one", connections)
        ran = self.deploy(NEW, connections)
        self.samples.append(Sample(hosts, connections, "deploy", ran.seconds, call, None, None))

    def remove(self) -> None:
        """Removes the hosts and their secrets."""
        self.must("remove hosts", self.fleet.hosts("down"))
        self.sockets.cleanup()
        shutil.rmtree(self.fleet.directory.parent, ignore_errors=True)


def write(samples: Sequence[Sample], facts: dict[str, Any], folder: Path) -> None:
    """The results for people and for programs."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [asdict(one) | {"ratio": one.ratio, "floor": one.floor, "answer_ratio": one.answer_ratio} for one in samples]
    (folder / "rollback.json").write_text(json.dumps(facts | {"samples": rows}, indent=2) + "\n", encoding="utf-8")
    made = facts["versions"]
    first = ", ".join(f"{seconds:.1f} s on {hosts} host(s)" for hosts, seconds in facts["first_deploy"].items())
    text = f"""\
# Rollback and deploy, beside one module call

{facts["date"]}, {made["ansible"]}, {made["processors"]} processors, {made["hosts"]}. bluegreen {made["bluegreen"]}.
How: [../README.md](../README.md).

{table(samples)}

Median (smallest–largest), in seconds of wall clock for the whole command; ratios are to one module call that ran just
before, *of three calls* is that of three such calls in a row, *last bad answer* counts from the start of the command.
During all of it {facts["requests"]} requests were sent, of which {facts["failed"]} failed.
The first deploy of a release, which also brings the artifact to the hosts, took {first}.

Again: `{facts["command"]}`
"""
    (folder / "rollback.md").write_text(text, encoding="utf-8")


def main(arguments: list[str]) -> int:
    """Entry point; raises Failure."""
    parser = argparse.ArgumentParser(prog="rollback.py", description=__doc__)
    parser.add_argument("--hosts", type=int, nargs="+", default=[1, 3], help="fleets to measure, in app servers (1 3)")
    parser.add_argument("--rounds", type=int, default=7, help="rollbacks and deploys for each kind of connection (7)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write (benchmarks/results)")
    given = parser.parse_args(arguments)
    if not 1 <= given.rounds <= 100:
        raise Failure(f"--rounds {given.rounds}: give a number from 1 to 100", 2)
    signal.signal(signal.SIGTERM, _interrupt)
    progress = Progress()
    WORK.mkdir(parents=True, exist_ok=True)
    benches = [Bench(count, progress) for count in given.hosts]
    for bench in benches:
        try:
            bench.prepare()
            bench.measure(given.rounds)
        finally:
            with suppress(Failure):
                bench.remove()
    samples = [sample for bench in benches for sample in bench.samples]
    facts: dict[str, Any] = {
        "format": 1,
        "date": datetime.now(UTC).date().isoformat(),
        "command": f"benchmarks/rollback.py --hosts {' '.join(map(str, given.hosts))} --rounds {given.rounds}",
        "versions": versions() | {"hosts": HOSTS},
        "requests": sum(bench.requests for bench in benches),
        "failed": sum(bench.failed for bench in benches),
        "first_deploy": {len(bench.fleet.app_servers): round(bench.first_deploy, 2) for bench in benches},
    }
    write(samples, facts, given.results)
    print(table(samples))
    return 1 if facts["failed"] else 0


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(run_main(main))
