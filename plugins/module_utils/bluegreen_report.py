"""The report of a run as data: phases with their times, rounds with what visitors got, verdicts. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from plugins.module_utils import bluegreen_fleet as fleets
from plugins.module_utils import bluegreen_judge as judging
from plugins.module_utils.bluegreen_fleet import Fleet

FORMAT = 1


def build(fleet: Fleet, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The content of report.json. `outcome`: what the last lines of the run say. Times are seconds since 1970."""
    done = phases(fleet)
    return {
        "format": FORMAT,
        "deploy_id": fleet.inputs.get("deploy_id"),
        "verb": fleet.inputs.get("verb"),
        "by": fleet.inputs.get("holder"),
        "run_url": fleet.inputs.get("run_url") or "",
        **{key: outcome.get(key) for key in ("app", "sha", "release", "previous", "ok", "ending", "notes", "failure")},
        "hosts": list(fleet.hosts),
        "began": min((phase["began"] for phase in done), default=None),
        "ended": max((phase["ended"] for phase in done), default=None),
        "phases": done,
        "canary": {"steps": fleets.canary_steps(fleet), "seconds": fleets.canary_seconds(fleet)},
        "watch": fleets.watch_seconds(fleet),
        "limits": dict(fleets.judge_settings(fleet)),
        "before": before(fleet),
        "rounds": [line for phase in fleets.WATCHED for line in rounds(fleet, phase)],
        "verdicts": verdicts(fleet),
        "problems": [vars(problem) for problem in fleets.problems(fleet, "settle")],
    }


def phases(fleet: Fleet) -> list[dict[str, Any]]:
    """Each phase that ran: its time, and the verdict of each host."""
    found = []
    for phase in fleets.PHASES:
        answers = {host: fleet.of(phase, host) for host in fleet.hosts if fleet.of(phase, host)}
        timed = [answer for given in answers.values() for answer in given if "began" in answer]
        if not timed:
            continue
        began, ended = min(float(answer["began"]) for answer in timed), max(float(answer["ended"]) for answer in timed)
        if phase in fleets.WATCHED:
            began = min([began, *(float(answer.get("first_began") or began) for answer in timed)])
        hosts = {host: "pass" if fleet.passed(phase, host) else "fail" for host in answers}
        found.append({"name": phase, "began": began, "ended": ended, "hosts": hosts})
    return found


def rounds(fleet: Fleet, phase: str) -> list[dict[str, Any]]:
    """The rounds of a canary or watch, all hosts together: share, time, and what visitors got from each release."""
    rows = [row for host in fleet.hosts if (row := fleet.sums(phase, host).get("rounds"))]
    found = []
    for number in range(max((len(row) for row in rows), default=0)):
        parts: Sequence[Mapping[str, Any]] = [row[number] for row in rows if number < len(row)]
        new, live = (judging.summary(judging.merge(part[role] for part in parts)) for role in ("new", "live"))
        times = [float(part["at"]) for part in parts if part.get("at")]
        found.append(
            {
                "phase": phase,
                "share": parts[0]["share"],
                "spent": min(float(part["spent"]) for part in parts),
                "at": max(times, default=None),
                "new": new,
                "live": live,
            }
        )
    return found


def before(fleet: Fleet) -> dict[str, Any] | None:
    """What visitors got in the window before the switch; None if it was not read."""
    groups = fleets.window_before(fleet)
    return (
        judging.summary(judging.merge(tally for found in groups for tally in found.values())) if any(groups) else None
    )


def verdicts(fleet: Fleet) -> dict[str, Any]:
    """The last verdict on the canary and on the watch, where there was one."""
    found = {}
    for phase in fleets.WATCHED:
        if fleet.ran(phase) and fleets.judged(fleet):
            said = fleet.canary if phase == "canary" else fleet.watch
            found[phase] = {
                "verdict": said.verdict,
                "reasons": list(said.reasons),
                "new": judging.summary(said.new),
                "live": judging.summary(said.live),
            }
    return found


def path(inputs: Mapping[str, Any]) -> str:
    """Where the report goes: `-e report=DIR`, or a directory of this run below rollout_report_dir; else empty."""
    if inputs.get("check"):
        return ""
    if inputs.get("report"):
        return str(PurePath(str(inputs["report"])) / "report.json")
    if inputs.get("report_dir"):
        return str(PurePath(str(inputs["report_dir"])) / str(inputs.get("deploy_id")) / "report.json")
    return ""
