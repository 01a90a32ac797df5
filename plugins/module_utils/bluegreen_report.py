"""The report of a run as data: phases with their times, rounds with what visitors got, verdicts. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from plugins.module_utils import bluegreen_fleet as fleets
from plugins.module_utils import bluegreen_judge as judging
from plugins.module_utils import bluegreen_kpi as figures
from plugins.module_utils.bluegreen_fleet import Fleet

FORMAT = 1
SAID = ("verdict", "reasons")  # of a round
NOTHING_SAID: Mapping[str, Any] = {"verdict": None, "reasons": []}


def build(fleet: Fleet, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The content of report.json. `outcome`: what the last lines of the run say; the page is drawn from this alone.

    Times are seconds since 1970 by the controller's clock, lengths and latencies seconds, shares percent. Unknown is
    None; lists are empty in a run that had none (a rollback has no rounds and no verdicts).

    deploy_id, verb, by, run_url, app, sha, release: the run, who started it, and what it was about
    previous: what was live before it, 12 characters · ok, ending: see bluegreen_fleet.ending · notes: lines
    failure: {what, why, next} or None · problems: [{phase, host, what, why, todo, code}], the first is the reason
    hosts: names in order · by_host: {name: {before, colour, after, state}}, see `places`
    began, ended · phases: [{name, began, ended, hosts: {name: pass or fail}}], those that ran
    canary: {steps, seconds} · watch: seconds · limits: the settings judge_* without their prefix; all as asked for
    rounds: [{phase, share, spent, seconds, at, new, live, kpis, verdict, reasons}] of all hosts together, see `rounds`
    kpis: [{name, query, min, max, for, verdicts: {phase: {verdict, reason}}}]; their values stand in the rounds
    before: what visitors got in the window before the switch · verdicts: {phase: {verdict, reasons, new, live}}, where
      `live` of the watch is the window before
    new, live, before: {requests, errors, ok, client, server, none, gone, p50, p95, p99}
    """
    done = phases(fleet)
    return {
        "format": FORMAT,
        "deploy_id": fleet.inputs.get("deploy_id"),
        "verb": fleet.inputs.get("verb"),
        "by": fleet.inputs.get("holder"),
        "run_url": fleet.inputs.get("run_url") or "",
        **{key: outcome.get(key) for key in ("app", "sha", "release", "previous", "ok", "ending", "notes", "failure")},
        "hosts": list(fleet.hosts),
        "by_host": places(fleet),
        "began": min((phase["began"] for phase in done), default=None),
        "ended": max((phase["ended"] for phase in done), default=None),
        "phases": done,
        "canary": {"steps": fleets.canary_steps(fleet), "seconds": fleets.canary_seconds(fleet)},
        "watch": fleets.watch_seconds(fleet),
        "limits": dict(fleets.judge_settings(fleet)),
        "before": before(fleet),
        "rounds": [line for phase in fleets.WATCHED for line in rounds(fleet, phase)],
        "kpis": kpis(fleet),
        "verdicts": verdicts(fleet),
        "problems": [vars(problem) for problem in fleets.problems(fleet, "settle")],
    }


def places(fleet: Fleet) -> dict[str, dict[str, str]]:
    """Each host: the commits that it served before and after, the colour of the new release, and how that came about.

    state: confirmed, went back, unchanged; or unknown, where visitors were moved and the host did not say the rest.
    """
    found = {}
    for host in fleet.hosts:
        first = str((fleet.status(host).get("live") or {}).get("sha") or "")
        back = fleet.step("revert", host, "revert").get("live") or {}
        if fleets.confirmed_on(fleet, host):
            state, last = "confirmed", fleets.sha(fleet)
        elif host not in fleets.moved(fleet):
            state, last = "unchanged", first
        elif fleet.passed("revert", host):
            state, last = "went back", str(back.get("sha") or first)
        else:
            state, last = "unknown", ""
        found[host] = {"before": first, "colour": fleets.new_colour(fleet, host), "after": last, "state": state}
    return found


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
    """The rounds of a canary or watch, all hosts together, and what visitors got from each release in them.

    kpis: [{name, value, why}], what Prometheus said of the settings judge_kpis; a value of None has a reason ·
    verdict: after it (so far, pass, fail, inconclusive; None if a host was lost in it) ·
    reasons: why, or what is lacking for a pass ·
    share: of the new release · spent: how long its step or the watch had lasted then · at: when it ended ·
    seconds: how long it was. A host reads on where its last round ended, so that each begins where the one before ends,
    and the first of the watch at the switch.
    """
    since = switched(fleet) if phase == "watch" else None
    rows = {host: row for host in fleet.hosts if (row := fleet.sums(phase, host).get("rounds"))}
    found: list[dict[str, Any]] = []
    for number in range(max((len(row) for row in rows.values()), default=0)):
        parts: Mapping[str, Mapping[str, Any]] = {host: row[number] for host, row in rows.items() if number < len(row)}
        new, live = (judging.summary(judging.merge(part[role] for part in parts.values())) for role in ("new", "live"))
        times = [float(part["at"]) - skew(fleet, host) for host, part in parts.items() if part.get("at")]
        one = {
            "phase": phase,
            "share": next(iter(parts.values()))["share"],
            "spent": min(float(part["spent"]) for part in parts.values()),
            "at": max(times, default=None),
            "new": new,
            "live": live,
            **next(({key: part[key] for key in SAID} for part in parts.values() if "verdict" in part), NOTHING_SAID),
            "kpis": list((figures.at_round(fleet.asked.get(phase, ()), number + 1) or {}).get("kpis") or []),
        }
        found.append(one | {"seconds": length(one, found[-1] if found else None, since)})
    wanted = fleets.canary_hosts(fleet) if phase == "canary" else fleet.hosts
    if found and all(len(rows.get(host) or []) == len(found) for host in wanted):
        found[-1] |= fleets.judgement(fleet, phase)
    return found


def skew(fleet: Fleet, host: str) -> float:
    """Seconds that a host's clock is ahead of the controller's, as the preflight found it."""
    return next((float(answer["clock_skew"]) for answer in fleet.of("preflight", host) if "clock_skew" in answer), 0.0)


def switched(fleet: Fleet) -> float | None:
    """When the last host routed all visitors, about: the checks of the same call came after it."""
    found = []
    for host in fleet.hosts:
        spent = sum(float(check.get("ms") or 0) for check in fleet.step("switch", host, "smoke").get("checks") or [])
        found += [float(answer["ended"]) - spent / 1000 for answer in fleet.of("switch", host) if "ended" in answer]
    return max(found, default=None)


def length(one: Mapping[str, Any], last: Mapping[str, Any] | None, since: float | None) -> float:
    """Seconds of a round: from the end of the last one, or `since`; if that is unknown, what it added to its step."""
    since = last["at"] if last is not None else since
    if one["at"] and since and one["at"] > since:
        return round(float(one["at"]) - since, 1)
    goes_on = last is not None and last["share"] == one["share"] and last["spent"] < one["spent"]
    return round(float(one["spent"]) - (float(last["spent"]) if last is not None and goes_on else 0.0), 1)


def before(fleet: Fleet) -> dict[str, Any] | None:
    """What visitors got in the window before the switch; None if it was not read."""
    groups = fleets.window_before(fleet)
    return (
        judging.summary(judging.merge(tally for found in groups for tally in found.values())) if any(groups) else None
    )


def kpis(fleet: Fleet) -> list[dict[str, Any]]:
    """The settings judge_kpis, each with what it said at the end of the canary and of the watch, if it was asked."""
    found = []
    for kpi in fleets.judge_settings(fleet).get("kpis") or []:
        said = {}
        for phase in fleets.WATCHED:
            if fleet.ran(phase) and kpi in fleets.kpis(fleet, phase):
                word, reason = figures.verdict(kpi, fleet.asked.get(phase, ()), fleets.rounds_done(fleet, phase))
                said[phase] = {"verdict": word, "reason": reason}
        found.append({**dict.fromkeys(figures.KEYS), "for": "both", **kpi, "verdicts": said})
    return found


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


def page_path(target: str) -> str:
    """Where the page of a report goes: beside it."""
    return str(PurePath(target).with_suffix(".html"))


def path(inputs: Mapping[str, Any]) -> str:
    """Where the report goes: `-e report=DIR`, or a directory of this run below rollout_report_dir; else empty."""
    if inputs.get("check"):
        return ""
    if inputs.get("report"):
        return str(PurePath(str(inputs["report"])) / "report.json")
    if inputs.get("report_dir"):
        return str(PurePath(str(inputs["report_dir"])) / str(inputs.get("deploy_id")) / "report.json")
    return ""
