#!/usr/bin/env python3
"""Faults while a fleet changes its release, under traffic: are the promises kept? See benchmarks/faults.md."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO / "scripts"))

from support.common import Failure, Progress, run_main, use_project_python  # noqa: E402

use_project_python()

from faults import controller, host_tool, hosts, judge, race  # noqa: E402
from faults.judge import Run  # noqa: E402
from faults.rig import WORK, Rig, interrupt  # noqa: E402

from support.example_fleet import versions  # noqa: E402

RESULTS = REPO / "benchmarks" / "results"
PAGE = REPO / "benchmarks" / "faults.md"
TEMPLATE = REPO / "benchmarks" / "faults" / "page.md"

CASES = {
    "controller-kill": controller.controller_kill,
    "host-tool-kill": host_tool.host_tool_kill,
    "host-tool-error": host_tool.host_tool_error,
    "host": hosts.host,
    "race": race.race,
}


class Results:
    """What was measured, by command; a command that is run again replaces its figures."""

    def __init__(self, folder: Path, page: Path) -> None:
        self.path, self.page = folder / "faults.json", page
        self.cases: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self.cases = json.loads(self.path.read_text(encoding="utf-8"))["cases"]

    def put(self, command: str, runs: list[Run]) -> None:
        """Keep a command's runs and write everything anew."""
        facts = {"command": command, "date": datetime.now(UTC).date().isoformat(), "versions": versions()}
        self.cases[command] = facts | {"runs": [one.as_json() for one in runs]}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"format": 1, "cases": dict(sorted(self.cases.items()))}
        self.path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        self.page.write_text(page(self.cases), encoding="utf-8")


def page(cases: dict[str, dict[str, Any]]) -> str:
    """benchmarks/faults.md."""
    measured = sorted(
        {
            f"`{command}`: {case['date']}, bluegreen {case['versions']['bluegreen']}, {case['versions']['ansible']}, "
            f"{case['versions']['processors']} processors"
            for command, case in cases.items()
        }
    )
    told = judge.broken(cases)
    broken = "\n".join(f"- {line}" for line in told) if told else "None."
    missing = judge.not_met(cases, list(CASES))
    return TEMPLATE.read_text(encoding="utf-8").format(
        table=judge.table(cases), broken=broken, missing=missing, measured="\n".join(f"- {line}" for line in measured)
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="faults.py", description=__doc__)
    result.add_argument("case", nargs="+", choices=[*CASES, "all"], metavar="CASE", help=", ".join([*CASES, "all"]))
    result.add_argument("--hosts", type=int, default=3, help="app servers (3)")
    result.add_argument("--seed", type=int, default=1, help="chooses points, moments and kinds of death (1)")
    result.add_argument("--runs", type=int, help="so many of the points, chosen by the seed; without it all of them")
    result.add_argument("--ttl", type=float, default=3, help="seconds until an unconfirmed switch goes back (3)")
    result.add_argument("--lease-ttl", type=float, default=3, help="seconds until a dead controller's lease ends (3)")
    result.add_argument("--signal", choices=("KILL", "INT", "TERM"), default="KILL", help="how controllers end (KILL)")
    result.add_argument(
        "--commands", nargs="+", choices=("deploy", "rollback"), default=["deploy", "rollback"], help="(both)"
    )
    result.add_argument(
        "--during", action=argparse.BooleanOptionalAction, default=True, help="also while hosts work on a task (yes)"
    )
    result.add_argument(
        "--verbs", nargs="+", choices=host_tool.VERBS, default=list(host_tool.VERBS), help="of the host tool (all)"
    )
    result.add_argument("--faults", nargs="+", choices=hosts.FAULTS, help="of hosts (all)")
    result.add_argument("--phases", nargs="+", choices=hosts.PHASES, help="of controller-kill and host (all)")
    result.add_argument("--rounds", type=int, default=100, help="rounds for the lease (100)")
    result.add_argument("--controllers", type=int, default=20, help="that want the lease at once (20)")
    result.add_argument("--deploys", type=int, default=4, help="whole controllers at once (4)")
    result.add_argument("--playbook-rounds", type=int, default=3, help="rounds with whole controllers (3)")
    result.add_argument("--keep", action="store_true", help="leave the hosts for the next time")
    result.add_argument("--results", type=Path, default=RESULTS, help="where the figures are kept (benchmarks/results)")
    return result


def main(arguments: list[str]) -> int:
    """Entry point; raises Failure."""
    given = parser().parse_args(arguments)
    if given.runs is not None and given.runs < 1:
        raise Failure(f"--runs {given.runs}: give a number above 0, or leave it out for all", 2)
    if given.ttl < 1 or given.lease_ttl < 1:
        raise Failure("--ttl and --lease-ttl are seconds, at least 1", 2)
    signal.signal(signal.SIGTERM, interrupt)
    wanted = list(CASES) if "all" in given.case else list(dict.fromkeys(given.case))
    progress = Progress()
    WORK.mkdir(parents=True, exist_ok=True)
    rig = Rig(given.hosts, given.seed, progress, given.ttl, given.lease_ttl)
    rig.check_kept()
    results = Results(given.results, PAGE if given.results == RESULTS else given.results / "faults.md")
    bad = 0
    done: list[str] = []
    try:
        rig.prepare()
        for name in wanted:
            runs: list[Run] = []

            def report(one: Run, runs: list[Run] = runs, name: str = name) -> None:
                runs.append(one)
                shown = "; ".join(one.problems) or "good"
                whole = "never" if one.whole is None else f"{one.whole:.2f} s"
                progress(
                    f"{name} {len(runs)}: {one.point}: ended on {one.ended}, whole after {whole}, "
                    f"{one.failed} of {one.requests} failed, gap {one.gap:.2f} s, mixed {one.mixed:.2f} s, "
                    f"re-run {one.rerun}: {shown}"
                )
                for note in one.notes:
                    progress(f"    {note}")

            options = [word for word in _without_results(arguments) if word not in (*CASES, "all", "--keep")]
            command = shlex.join(["benchmarks/faults.py", name, *options])
            try:
                with rig:
                    CASES[name](rig, given, report)
            finally:
                if runs:
                    results.put(command, runs)
                    done.append(command)
            bad += sum(1 for one in runs if one.problems)
    finally:
        if not given.keep:
            with suppress(Failure):
                rig.remove()
    print(judge.table({command: results.cases[command] for command in done}))
    return 1 if bad else 0


def _without_results(arguments: list[str]) -> list[str]:
    """The arguments that say what is measured, without where it is written."""
    if "--results" not in arguments:
        return arguments
    at = arguments.index("--results")
    return [*arguments[:at], *arguments[at + 2 :]]


if __name__ == "__main__":
    sys.exit(run_main(main))
