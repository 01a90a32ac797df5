"""What the operator reads: one line for each phase, three for a failure, a table for a status. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plugins.module_utils import bluegreen_fleet as fleets
from plugins.module_utils import bluegreen_judge as judging
from plugins.module_utils.bluegreen_fleet import Fleet, Problem

NAME_WIDTH = 16
REFUSED = 3  # of the host tool's exit statuses
GOOD = ("live", "rolled back", "undone", "migrated", "reopened", "restored", "nothing to do", "planned")  # endings


def seconds(value: float) -> str:
    """A duration as people read it: 2.1 s, 75 s, 3 min 20 s."""
    if value < 9.95:
        return f"{value:.1f} s"
    if value < 120:
        return f"{value:.0f} s"
    return f"{int(value) // 60} min {int(value) % 60} s"


def count(number: int, noun: str) -> str:
    """`1 host`, `3 hosts`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str], most: int = 4) -> str:
    """Names in a row; the rest as a number."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def phase_line(name: str, hosts: int, took: float, detail: str) -> str:
    """One finished phase."""
    return f"  {name:<{NAME_WIDTH}}{count(hosts, 'host'):<10}{seconds(took):>9}   {detail}".rstrip()


def failure_lines(what: str, why: str, todo: str) -> list[str]:
    """Three lines: what failed, why, what to type next."""
    return [
        f"FAILED  {one_line(what)}",
        f"  why   {one_line(why) or 'no reason was given'}",
        f"  next  {one_line(todo) or 'run it again with -v'}",
    ]


def one_line(text: str) -> str:
    """A text without line breaks and control characters."""
    return " ".join("".join(char if char.isprintable() or char.isspace() else " " for char in str(text)).split())


# one phase, from the answers of all hosts


def phase_detail(phase: str, answers: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """What a phase did, in a few words. `answers`: host → what came from it."""
    answers = dict(sorted(answers.items()))
    bad = [host for host, results in answers.items() if any(result.get("verdict") != "pass" for result in results)]
    if bad:
        return f"failed on {listed(bad)}"
    merged = {host: merge(results) for host, results in answers.items()}
    write = DETAILS.get(phase)
    return write(merged) if write and merged else ""


def merge(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The steps of all answers of one host, what was sent to it or fetched by it, and what it has judged."""
    found: dict[str, Any] = {}
    for result in results:
        for step, answer in (result.get("results") or {}).items():
            before = found.setdefault(step, answer)
            if before is not answer and isinstance(answer, Mapping) and "rounds" in answer:
                found[step] = {**before, "rounds": int(before.get("rounds") or 0) + int(answer["rounds"])}
        found |= {key: result[key] for key in ("judged", "sent", "fetched") if result.get(key)}
    return found


Merged = Mapping[str, Mapping[str, Any]]


def _preflight(hosts: Merged) -> str:
    lives = [((answer.get("lease") or {}).get("status") or {}).get("live") for answer in hosts.values()]
    shas = sorted({str(live["sha"])[:12] for live in lives if live})
    return f"live {' and '.join(shas)}" if shas else "nothing is live yet"


def _stage(hosts: Merged) -> str:
    sent = {host: answer["sent"] for host, answer in hosts.items() if answer.get("sent")}
    lacking = [host for host, answer in hosts.items() if (answer.get("stage") or {}).get("have") is False]
    if lacking:
        return f"the image goes to {listed(lacking)}"
    if sent:
        return f"image {max(sent.values()) / 1e6:.0f} MB sent to {listed(list(sent))}"
    if fetched := {host: answer["fetched"] for host, answer in hosts.items() if answer.get("fetched")}:
        return f"image {max(fetched.values()) / 1e6:.0f} MB fetched by {listed(list(fetched))}"
    return "image already there"


def _plan(hosts: Merged) -> str:
    pending = [name for answer in hosts.values() for name in (answer.get("migrate") or {}).get("pending") or []]
    found: Mapping[str, Any] = next((answer["migrate"] for answer in hosts.values() if answer.get("migrate")), {})
    words = str(found.get("judged") or ("all safe" if found.get("verdict") == "safe" else "")) if pending else ""
    if found.get("migrations") and not words:
        approved = sum(one["verdict"] != "safe" for one in found["migrations"])
        words = f"{approved} approved" if approved else ""
    late = [str(name) for name in found.get("late") or []]
    if found.get("stopped"):
        words = f"{words}; " if words else ""
        words += f"{listed([str(name) for name in found['stopped']], 2)} with the application stopped"
    if late:
        words = f"{words}; " if words else ""
        words += f"{listed(late, 2)} after the switch: the way back to {str(found.get('before'))[:12]} ends there"
    tail = f"; {words}" if words else ""
    return f"{count(len(pending), 'migration')}: {listed(pending, 2)}{tail}" if pending else "no migrations"


def _migrate(hosts: Merged) -> str:
    found: Mapping[str, Any] = next((answer["migrate"] for answer in hosts.values() if answer.get("migrate")), {})
    took = {f"{one['app']}.{one['name']}": one["seconds"] for one in found.get("migrations") or []}
    names = found.get("applied") or []
    applied = [f"{name} ({seconds(took[name])})" if name in took else str(name) for name in names]
    proven = any((answer.get("live") or {}).get("proven") for answer in hosts.values())
    asked = any(answer.get("live") for answer in hosts.values())
    tail = (
        "" if not asked else ("; live release checked" if proven else "; live release: not proven (no signed-in check)")
    )
    bridged = f"; {' '.join(found['bridged'])}" if found.get("bridged") else ""
    return f"{listed(applied, 2) or 'nothing'} applied{bridged}{tail}"


def _migrate_late(hosts: Merged) -> str:
    found: Mapping[str, Any] = next((answer["migrate"] for answer in hosts.values() if answer.get("migrate")), {})
    return f"{listed(found.get('applied') or [], 2) or 'nothing'} applied; snapshot {found.get('snapshot') or 'none'}"


def _maintenance(hosts: Merged) -> str:
    return f"the application is stopped{cut_off(answer.get('maintenance') or {} for answer in hosts.values())}"


def _maintenance_end(hosts: Merged) -> str:
    ended = [host for host, answer in hosts.items() if (answer.get("maintenance") or {}).get("ended")]
    return f"the release before serves on {listed(ended)}" if ended else "the maintenance page stays"


def _plan_undo(hosts: Merged) -> str:
    found: Mapping[str, Any] = next((answer["undo"] for answer in hosts.values() if answer.get("undo")), {})
    names = [str(name) for name in found.get("undoes") or []]
    moment = "after the switch" if found.get("when") == "after" else "before the switch"
    return f"{count(len(names), 'migration')} {moment}: {listed(names, 2)}" if names else "nothing to undo"


def _undo(hosts: Merged) -> str:
    found: Mapping[str, Any] = next((answer["undo"] for answer in hosts.values() if answer.get("undo")), {})
    return f"{listed(found.get('undone') or [], 2) or 'nothing'} undone; snapshot {found.get('snapshot') or 'none'}"


def _restore(hosts: Merged) -> str:
    found: Mapping[str, Any] = next((answer["restore"] for answer in hosts.values() if answer.get("restore")), {})
    kept = [f"{alias} is back, the bad one is kept as {name}" for alias, name in (found.get("restored") or {}).items()]
    return "; ".join(kept) or "verified, nothing was changed"


def _start(hosts: Merged) -> str:
    colours = sorted({str((answer.get("start") or {}).get("colour")) for answer in hosts.values()})
    warm = all((answer.get("start") or {}).get("already_running") for answer in hosts.values())
    cut = cut_off(answer.get("start") or {} for answer in hosts.values())
    return f"{' and '.join(colours)}{', was running' if warm else ''}{cut}"


def cut_off(answers: Iterable[Mapping[str, Any]]) -> str:
    """What did not end in time on colours that were stopped, in words that go on a line; empty if all did."""
    found = [answer.get("cut") or {} for answer in answers]
    requests, websockets = (sum(int(one.get(what) or 0) for one in found) for what in ("requests", "websockets"))
    return (f", {count(requests, 'request')} cut off" if requests else "") + (
        f", {count(websockets, 'websocket')} closed" if websockets else ""
    )


def _smoke(hosts: Merged) -> str:
    live = [answer["live"] for answer in hosts.values() if answer.get("live")]
    proven = any(item.get("proven") for item in live)
    tail = "" if not live else ("; live release too" if proven else "; live release: not proven (no signed-in check)")
    return f"all checks passed{tail}"


def _canary(hosts: Merged) -> str:
    sums = [fleets.read_sums(answer["judged"]) for answer in hosts.values() if answer.get("judged")]
    shares = sorted({int(one["share"]) for found in sums for one in found["rounds"]})
    new = sum(judging.requests(one["new"]) for found in sums for one in found["rounds"])
    return f"{', '.join(map(str, shares))} %: {judging.counted(new, 'request')} of the new release"


def _switch(hosts: Merged) -> str:
    colours = sorted({str((answer.get("route") or {}).get("colour")) for answer in hosts.values()})
    return f"100 % to {' and '.join(colours)}"


def _watch(hosts: Merged) -> str:
    rounds = min((int((answer.get("smoke") or {}).get("rounds") or 0) for answer in hosts.values()), default=0)
    return f"{count(rounds, 'round')} of checks passed"


def _confirm(hosts: Merged) -> str:
    return ", ".join(["the switch is final", *_settled(hosts)])


def _revert(hosts: Merged) -> str:
    back = sorted(
        {
            str((answer.get("revert") or {}).get("live", {}).get("sha") or "nothing")[:12]
            for answer in hosts.values()
            if (answer.get("revert") or {}).get("live")
        }
    )
    return f"back on {' and '.join(back)}" if back else "nothing is live"


def _settle(hosts: Merged) -> str:
    if any((answer.get("lease") or {}).get("error") for answer in hosts.values()):
        return ", ".join([*_settled(hosts), "the lease could not be given back: it ends by itself"])
    return ", ".join(_settled(hosts)) or "lease released"


def _settled(hosts: Merged) -> list[str]:
    parts = []
    stopped = sum(len((answer.get("processes") or {}).get("stopped") or []) for answer in hosts.values())
    removed = sum(len((answer.get("prune") or {}).get("removed") or []) for answer in hosts.values())
    if stopped:
        parts.append(f"{count(stopped, 'old process')} stopped".replace("processs", "processes"))
    if removed:
        parts.append(f"{count(removed, 'old release')} removed")
    revoked = {str(each) for answer in hosts.values() for names in _revoked(answer).values() for each in names}
    if revoked:
        parts.append(f"{', '.join(sorted(revoked))} revoked in older releases")
    return parts


def _revoked(answer: Mapping[str, Any]) -> dict[str, list[str]]:
    return (answer.get("prune") or {}).get("revoked") or {}


DETAILS = {
    "preflight": _preflight, "stage": _stage, "plan_migrations": _plan, "migrate": _migrate, "start": _start,
    "smoke": _smoke, "canary": _canary, "switch": _switch, "watch": _watch, "confirm": _confirm, "revert": _revert,
    "settle": _settle, "plan_undo": _plan_undo, "undo": _undo, "restore": _restore,
    "migrate_late": _migrate_late, "maintenance": _maintenance, "maintenance_end": _maintenance_end,
}  # fmt: skip


# how it ended


def outcome(fleet: Fleet) -> dict[str, Any]:
    """The end of a run: {ok, ending, line, notes, failure}; `failure` is {what, why, next} or None."""
    end = fleets.ending(fleet)
    ok = end in GOOD
    return {
        "ok": ok,
        "ending": end,
        "app": fleet.inputs.get("app"),
        "sha": fleets.sha(fleet),
        "release": fleets.release(fleet),
        "previous": fleets.before(fleet),
        "hosts": list(fleet.hosts),
        "line": ending_line(fleet, end) if ok else "",
        "notes": notes(fleet, end),
        "failure": None if ok else failure(fleet, end),
    }


def ending_line(fleet: Fleet, end: str) -> str:
    """The last line of a good run; the callback adds the time at {time}."""
    app, commit, hosts = fleet.inputs.get("app"), fleets.sha(fleet)[:12], count(len(fleet.hosts), "host")
    previous = fleets.before(fleet)
    if end == "nothing to do":
        repaired = [host for host in fleet.hosts if fleet.status(host).get("drift")]
        if repaired:
            return f"{app}: {commit} was live already; drift repaired on {listed(repaired)} ({{time}})"
        return f"{app}: nothing to do, {commit} is live on {hosts} ({{time}})"
    if end == "planned":
        return f"{app}: this was the plan for {commit or 'a rollback'}; nothing was changed ({{time}})"
    if fleet.restoring:
        done = "is put back" if end == "restored" else "could be put back; nothing was changed"
        return f"{app}: {fleet.inputs.get('snapshot')} {done} ({{time}})"
    names = listed(undone(fleet))
    if end == "undone":
        return f"{app}: the schema follows {commit}: {names} undone ({{time}})"
    if end == "rolled back" and names:
        return f"{app}: back on {commit} on {hosts}, {names} undone ({{time}}; {previous} is marked rolled back)"
    if end == "rolled back":
        return f"{app}: back on {commit} on {hosts} ({{time}}; {previous} is marked rolled back)"
    if end == "reopened":
        return f"{app}: {commit} serves again on {hosts}, the maintenance page is gone ({{time}})"
    if end == "migrated":
        return f"{app}: {commit} was live already; {listed(ran_late(fleet)) or 'nothing'} ran late ({{time}})"
    kept = "" if previous == "nothing" else f"; previous {previous} is kept: ansible-playbook rollback.yml"
    if ran_late(fleet):
        kept = f"; {listed(ran_late(fleet))} ran after the switch"
    return f"{app}: {commit} is live on {hosts} ({{time}}{kept})"


def ran_late(fleet: Fleet) -> list[str]:
    """The migrations that ran once the release was confirmed."""
    return [str(name) for name in fleet.step("migrate_late", fleet.migration_host, "migrate").get("applied") or []]


def way_back(fleet: Fleet) -> list[str]:
    """What late migrations have left of the way back to older releases: which are over, and why."""
    if not ran_late(fleet):
        return []
    told = fleet.step("migrate_late", fleet.migration_host, "fits")
    shas = {str(row["id"]): str(row["sha"])[:12] for row in fleet.status(fleet.migration_host).get("releases") or []}
    found = [
        f"there is no way back to {shas[name]} any more: {misfits[0]}"
        for name, misfits in (told.get("fits") or {}).items()
        if misfits and name in shas and name != fleets.release(fleet)
    ]
    snapshot = fleet.step("migrate_late", fleet.migration_host, "migrate").get("snapshot")
    taken = [f"the data before {listed(ran_late(fleet))} is snapshot {snapshot}"] if snapshot else []
    return [*(found or ["the way back is not known to be over: a rollback asks the schema first"]), *taken]


def undone(fleet: Fleet) -> list[str]:
    """The migrations that this rollback has undone."""
    steps = [fleet.step(phase, fleet.migration_host, "undo") for phase in ("undo_first", "undo")]
    return [str(name) for step in steps for name in step.get("undone") or []]


def notes(fleet: Fleet, end: str) -> list[str]:
    """What deserves attention though the outcome is clear."""
    found = resumed(fleet)
    if without := fleet.inputs.get("without"):
        found.append(f"left out as asked: {listed(without)}; the next deploy brings them up to date")
    if end == "live" and not fleet.inputs.get("proven"):
        found.append("not proven: no smoke check signs in, so pages behind the sign-in were not seen")
    found += judgement_notes(fleet, end)
    found += way_back(fleet)
    if end == "live" and fleet.ran("maintenance"):
        found.append(f"visitors met the maintenance page for about {seconds(page_seconds(fleet))}")
    if end == "live" and fleets.asks_window(fleet) and not fleet.ran("maintenance"):
        found.append("no migration needed the maintenance window: the application was not stopped")
    earlier = {str(item.get("state")) for _, item in fleets.records_of(fleet, fleets.sha(fleet))}
    if end == "live" and "rolled_back" in earlier:
        found.append(f"{fleets.sha(fleet)[:12]} was rolled back before and is live again")
    differing = sorted(
        {name for host in fleet.hosts for name in fleet.step("stage", host, "stage").get("static_differing") or []}
    )
    if differing:
        found.append(
            f"static files that changed under the same hashed name keep their first bytes: {listed(differing)}"
        )
    for_now = [host for host in fleet.hosts if fleet.step("revert", host, "revert").get("provisional")]
    if for_now:
        found.append(
            f"the register could not be asked: {listed(for_now)} went back for now and follows its answer later"
        )
    if end in ("live", "rolled back", "nothing to do"):
        late = fleets.unfinished(fleet)
        for host in late:
            found.append(f"{host} did not say that it confirmed; it does so by itself, see ansible-playbook status.yml")
        for host in fleet.hosts:
            late_problems = fleets.host_problems(fleet, "confirm", host) if host not in late else []
            found += [
                f"{host}: settling failed: {one_line(problem.what)}; the release serves all the same"
                for problem in late_problems or fleets.host_problems(fleet, "settle", host)
            ]
    return found


def page_seconds(fleet: Fleet) -> float:
    """From the first host's maintenance page to the last host's switch, by the controller's clock."""
    began = [float(one["began"]) for host in fleet.hosts for one in fleet.of("maintenance", host) if "began" in one]
    ended = [float(one["ended"]) for host in fleet.hosts for one in fleet.of("switch", host) if "ended" in one]
    return max(ended) - min(began) if began and ended else 0.0


def judgement_notes(fleet: Fleet, end: str) -> list[str]:
    """What was not judged though it was asked for."""
    found = []
    away = [host for host in fleet.hosts if host not in fleets.canary_hosts(fleet)]
    if end == "live" and fleets.canary_steps(fleet) and away:
        whole = len(away) == len(fleet.hosts)
        found.append(f"no canary{'' if whole else f' on {listed(away)}'}: no live release to share visitors with")
    if end == "live" and fleet.ran("canary") and fleet.canary.verdict == judging.INCONCLUSIVE:
        found.append(f"the canary was inconclusive, and went on as asked: {fleet.canary.reasons[0]}")
    if end in ("live", "rolled back") and fleets.unjudged(fleet):
        found.append(f"unjudged: {fleets.unjudged(fleet)}")
    return found


def resumed(fleet: Fleet) -> list[str]:
    """What this run finished or undid of an earlier one that died."""
    words: dict[str, list[str]] = {}
    for host in fleet.hosts:
        answer = fleet.step("preflight", host, "resume")
        commit = str(answer.get("sha") or answer.get("finished") or answer.get("undone"))[:12]
        if answer.get("finished"):
            words.setdefault(f"an earlier run died after its decision: its switch to {commit} was finished", []).append(
                host
            )
        if answer.get("undone"):
            words.setdefault(f"an earlier run died: its switch to {commit} was undone", []).append(host)
    return [f"{line} ({listed(hosts)})" for line, hosts in words.items()]


def failure(fleet: Fleet, end: str) -> dict[str, str]:
    """What failed, why, what to type next."""
    found = fleets.problems(fleet, "settle")
    if end == "half done" and not found and fleets.late_left(fleet):
        found = [Problem("migrate_late", fleet.migration_host, "they did not run", "not every host is ready for them")]
    elif end == "half done" and not found:
        found = [
            Problem("undo", fleet.migration_host, "the migrations were not undone", "not every host let go of them")
        ]
    if not found:
        return {
            "what": "the run ended early",
            "why": "not every phase was reached",
            "next": "ansible-playbook status.yml, then the same again",
        }
    first = found[0]
    same = [problem for problem in found if (problem.phase, problem.what) == (first.phase, first.what)]
    hosts = listed([problem.host for problem in same if problem.host])
    what = f"{fleets.title(first.phase)}: {f'{hosts}: ' if hosts else ''}{first.what}"
    return {
        "what": f"{what} · {aftermath(fleet, end)}",
        "why": first.why or other_reason(found),
        "next": after_page(fleet) if fleets.page_stays(fleet) else first.todo or next_step(fleet, end),
    }


def other_reason(found: Sequence[Problem]) -> str:
    """A reason from another host when the first gave none."""
    return next((problem.why for problem in found if problem.why), "the host said no more; -v shows its whole answer")


def aftermath(fleet: Fleet, end: str) -> str:
    """What serves now."""
    previous = fleets.before(fleet)
    if fleet.restoring:
        return "nothing was changed" if end == "refused" else f"{previous} serves the data as they are"
    if stays := fleets.page_stays(fleet):
        whole = len(stays) == len(fleet.hosts)
        return f"visitors meet the maintenance page{'' if whole else f' on {listed(stays)}'}"
    if fleet.ran("maintenance_end"):
        return f"{previous} serves again"
    if fleets.late_left(fleet):
        return f"{fleets.sha(fleet)[:12]} serves, and goes on without them"
    if end == "half done":
        return f"{fleets.sha(fleet)[:12]} serves, its schema is still the newer one"
    if end != "reverted":
        return (
            "nothing was changed"
            if end == "refused"
            else (f"{previous} serves as before" if previous != "nothing" else "nothing is live")
        )
    lost = fleets.still_there(fleet)
    if lost:
        doubt = "did not answer: it goes back by itself, unless it was confirmed"
        return f"all other hosts went back to {previous}; {listed(lost)} {doubt}"
    return f"every host went back to {previous}" if previous != "nothing" else "nothing is live"


def after_page(fleet: Fleet) -> str:
    """What to type while visitors meet the maintenance page."""
    first = fleets.problems(fleet, "settle")[0]
    if first.phase == "preflight" and first.todo:
        return first.todo
    again = "deploy.yml with -e migrations_maintenance_window=true (the same, or a corrected commit) goes on"
    shot = fleet.step("migrate", fleet.migration_host, "migrate").get("snapshot")
    back = f"restore.yml -e snapshot={shot}, then rollback.yml" if shot else "rollback.yml, if the release before fits"
    return f"{f'{first.todo}; ' if first.todo else ''}{again}; {back} goes back"


def next_step(fleet: Fleet, end: str) -> str:
    """What to type when the error itself does not say."""
    if fleets.late_left(fleet):
        words = json.dumps({"migrations_late": fleets.late_migrations(fleet)})
        return f"ansible-playbook deploy.yml -e sha={fleets.sha(fleet)[:12]} -e '{words}'"
    if end == "half done":
        return f"ansible-playbook rollback.yml -e schema=reverse -e to={fleets.sha(fleet)[:12]}"
    if end == "reverted" and fleets.still_there(fleet):
        return "ansible-playbook status.yml"
    if end == "refused":
        return "ansible-playbook status.yml"
    return "correct it, build the next commit (scripts/build-artifact) and deploy that"


# plan


def plan(fleet: Fleet) -> dict[str, Any]:
    """What a deploy or rollback would do, as data."""
    result: dict[str, Any] = {
        "app": fleet.inputs.get("app"),
        "verb": fleet.inputs.get("verb"),
        "sha": fleets.sha(fleet),
        "migration_host": fleet.migration_host,
        "watch": fleet.inputs.get("watch"),
        "canary": fleets.canary_steps(fleet) if fleets.canary_hosts(fleet) else [],
        "canary_watch": fleets.canary_seconds(fleet),
        "hosts": {},
        "problems": [vars(problem) for problem in fleets.problems(fleet)],
    }
    if not fleet.rollback:
        result["artifact"] = (fleet.inputs.get("artifact") or {}).get("stem")
        result["migrations"] = fleets.verdicts(fleet)
        result["migrations_late"] = fleets.late_migrations(fleet)
        stopped = fleet.step("plan_migrations", fleet.migration_host, "migrate").get("stopped")
        result["migrations_stopped"] = list(stopped or [])
        planned = fleet.step("plan_migrations", fleet.migration_host, "migrate")
        result |= {
            f"migrations_{key}": planned[key] for key in ("method", "why_not_better", "judged") if key in planned
        }
    elif fleet.inputs.get("schema"):
        result["undo"] = dict(fleet.step("plan_undo", fleet.migration_host, "undo"))
    for host in fleet.hosts:
        live = fleet.status(host).get("live") or {}
        result["hosts"][host] = {
            "live": live.get("sha"),
            "colour": (fleet.status(host).get("idle") or {}).get("colour"),
            "needs_image": fleet.step("stage", host, "stage").get("have") is False,
            "warm": fleets.warm(fleet, host),
            "drift": list(fleet.status(host).get("drift") or []),
        }
    return result


def verdict(one: Mapping[str, Any]) -> str:
    """A pending migration and its verdict."""
    return f"{one['app']}.{one['name']} ({str(one['verdict']).replace('_', ' ')})"


def migration_lines(fleet: Fleet) -> list[str]:
    """Everything that is not simply safe about the migrations of a run that they end."""
    found = fleet.step("plan_migrations", fleet.migration_host, "migrate")
    return [f"  {line}" for line in found.get("lines") or []]


def plan_lines(found: Mapping[str, Any]) -> list[str]:
    """The plan for a person."""
    hosts = found["hosts"]
    lines = [f"Plan: {found['verb']} {found['app']} to {str(found['sha'])[:12] or '?'} on {count(len(hosts), 'host')}"]
    for host, item in hosts.items():
        here = "image is sent, then " if item["needs_image"] else ""
        drift = f"; drift: {'; '.join(item['drift'])}" if item["drift"] else ""
        place = f"{item['colour']}{' (warm)' if item['warm'] else ''}"
        if item["live"] == found["sha"]:
            place = "stays as it is, unless its configuration has changed"
        lines.append(f"  {host}: {str(item['live'] or 'nothing')[:12]} → {here}{place}{drift}")
    if found["verb"] == "deploy":
        pending = found["migrations"]
        words = (
            "known once the release is on the host" if pending is None else (", ".join(map(verdict, pending)) or "none")
        )
        lines.append(f"  migrations on {found['migration_host']}: {words}")
        if found["migrations_stopped"]:
            names = ", ".join(found["migrations_stopped"])
            lines.append(f"  with the application stopped and a maintenance page: {names}")
        if found["migrations_late"]:
            names = ", ".join(found["migrations_late"])
            lines.append(f"  after the switch: {names}; the way back to older releases ends there")
    lines += [f"  {line}" for line in (found.get("undo") or {}).get("lines") or []]
    if found["canary"]:
        shares = " %, ".join(map(str, found["canary"]))
        lines.append(f"  canary: {shares} % of the visitors, judged for {seconds(found['canary_watch'])} each")
    lines.append(f"  then: switch all visitors, watch for {seconds(float(found['watch'] or 0))}, confirm")
    return lines


# status


def status_rows(answers: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each host; `answers`: host → what the action returned."""
    rows = []
    for host, result in answers.items():
        status = (result.get("results") or {}).get("status")
        if status:
            rows.append({**status, "host": host})
            continue
        error = result.get("error") or {}
        what = error.get("what") or result.get("msg") or "no answer"
        rows.append({"host": host, "error": what, "why": error.get("why") or ""})
    return rows


COLUMNS = ("host", "live", "colour", "since", "idle", "share", "kept", "drift")


def status_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One host's line of the table."""
    if row.get("error"):
        return (str(row["host"]), "?", "", "", "", "", "", "")
    live, idle, share = row.get("live") or {}, row.get("idle") or {}, row.get("share") or {}
    kept = [item for item in row.get("releases") or [] if item.get("complete")]
    return (
        str(row["host"]),
        str(live.get("sha") or "nothing")[:12],
        str(live.get("colour") or "-"),
        str(live.get("since") or "-")[:16].replace("T", " "),
        f"{str(idle.get('sha') or '-')[:12]}{' warm' if idle.get('running') else ''}",
        f"{share.get('blue', 0)}/{share.get('green', 0)}",
        str(len(kept)),
        str(len(row.get("drift") or []) or "-"),
    )


def status_remarks(row: Mapping[str, Any]) -> list[str]:
    """What is out of the ordinary on a host."""
    found = []
    if row.get("error"):
        found.append(f"{row['error']}{': ' + row['why'] if row.get('why') else ''}")
    pending, lease = row.get("pending"), row.get("lease")
    if pending:
        back = float(pending.get("expires_in") or 0)
        share = int(pending.get("share") or 100)
        kind = "a switch" if share == 100 else f"a canary of {share} %"
        found.append(f"{kind} to {str(pending.get('sha'))[:12]} is not confirmed; it goes back in {back:.0f} s")
    if lease:
        found.append(lease_line(lease))
    if late := row.get("late"):
        found.append(f"late migrations that have not run: {listed(late['migrations'])}; type {late['next']}")
    silent = (row.get("register") or {}).get("error")
    if silent:
        found.append(f"the register cannot be asked: {silent}")
    return [f"  {row['host']}: {one_line(line)}" for line in [*found, *(row.get("drift") or [])]]


def status_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A compact table, and below it whatever is out of the ordinary."""
    table = [COLUMNS, *(status_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    for row in rows:
        lines += status_remarks(row)
    if len({str((row.get("live") or {}).get("release")) for row in rows if not row.get("error")}) > 1:
        lines.append("  the hosts serve different releases: the next deploy or rollback of the fleet makes them one")
    return lines


# leases


def lease_line(lease: Mapping[str, Any]) -> str:
    """Who may change the application, since when, doing what, and until when."""
    where = [f"process {lease['process']}"] if lease.get("process") else []
    where += [str(lease["run_url"])] if lease.get("run_url") else []
    place = f" ({', '.join(where)})" if where else ""
    left = seconds(max(0.0, float(lease.get("expires_in") or 0)))
    return one_line(
        f"lease {lease['deploy_id']}: {lease['holder']}{place} since {str(lease['since'])[:19]}: {lease['what']}; "
        f"it ends in {left} unless renewed"
    )


def unlocked(answers: Mapping[str, Mapping[str, Any]], named: str | None) -> dict[str, Any]:
    """What unlock.yml says: {line, lines, failure}. `answers`: host → what the action returned."""
    held = {host: lease for host, answer in answers.items() if (lease := _step(answer, "lease").get("lease"))}
    broken = [host for host, answer in answers.items() if _step(answer, "broken").get("broken")]
    errors = {host: answer["error"] for host, answer in answers.items() if answer.get("error")}
    silent = {host: error for host, error in errors.items() if host not in broken and error.get("code") != REFUSED}
    lines = list(dict.fromkeys(lease_line(lease) for lease in held.values()))
    result: dict[str, Any] = {"line": "", "lines": lines, "failure": None}
    if broken:
        return result | {"line": f"lease {named} is broken; its run is refused from now on ({{time}})", "lines": []}
    if named or silent or not answers:
        error = next(iter((silent or errors).values()), {"what": "no host gave an answer"})
        where = f"{listed(sorted(silent))}: " if silent else ""
        todo = str(error.get("next") or "ansible-playbook unlock.yml shows the lease that is held")
        return result | {
            "failure": {"what": f"{where}{error['what']}", "why": str(error.get("why") or ""), "next": todo}
        }
    if not lines:
        return result | {"line": "no lease is held ({time})"}
    first = next(iter(held.values()))["deploy_id"]
    return result | {"lines": [*lines, f"if that run is dead: ansible-playbook unlock.yml -e lease={first}"]}


def _step(answer: Mapping[str, Any], step: str) -> Mapping[str, Any]:
    found = (answer.get("results") or {}).get(step)
    return found if isinstance(found, Mapping) else {}


def as_json(value: object) -> str:
    """JSON for a file or the terminal."""
    return json.dumps(value, indent=2, sort_keys=True, default=str) + "\n"
