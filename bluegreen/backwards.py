"""Undo the migrations that newer releases ran, so that an older one stands on its own schema. On the migration host.

    plan   what is newer, by the ledger → tried on a shadow → may it, when, and what is lost; changes nothing
    undo   the same again → verified snapshot → undone one at a time, from the newer release's code → ledger

It is done when one of the two releases fits the schema at every step: after visitors are on the older one if that fits
all the way, otherwise before, if the newer one does.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bluegreen import files, jobs, ledger, migrations, release
from bluegreen.context import Context
from bluegreen.errors import BluegreenError, Code, check_failed, refused
from bluegreen.migrations import Options, label, unique
from bluegreen.state import now

KEPT = "undo.json"  # in the state directory: what is being undone
AFTER, BEFORE, NEVER = "after", "before", "never"
WAYS = (
    "roll back the code only (leave schema out), or deploy a corrected commit (deploy.yml -e sha=…), "
    "or give up what was written since a snapshot and restore it: docs/migrations.md, Going back"
)


# decided without I/O


def newer_rows(rows: Iterable[ledger.Row], older: str, since: str) -> list[list[str]]:
    """[database, app, name] of what is applied by other releases since the older one was staged, oldest first."""
    found = [row for row in ledger.latest(rows).values() if row["outcome"] == ledger.APPLIED]
    found = [row for row in found if row["release"] != older and str(row["at"]) >= since]
    found.sort(key=lambda row: (str(row["at"]), int(row.get("number") or 0)))
    return [[str(row["database"]), str(row["app"]), str(row["name"])] for row in found]


def when(told: Mapping[str, Any], live: bool) -> tuple[str, str]:
    """When the schema may go back (after, before, never), and why not, where it never may.

    told: what `back` answered; live: the older release serves already, so going back is what it needs.
    """
    older, newer = told["older"], told["newer"]
    if older["end"]:
        return NEVER, f"the older release would not fit even then: {first(older['end'])}"
    if live or not (older["start"] or older["way"]):
        return AFTER, ""
    if not newer["way"] and not newer["end"]:
        return BEFORE, ""
    lacks = first([*older["start"], *older["way"]])
    breaks = first([*newer["way"], *newer["end"]])
    return NEVER, f"no release fits all the way: the older one lacks before ({lacks}), the live one after ({breaks})"


def first(lines: Sequence[str]) -> str:
    """The first line, and how many more there are."""
    return f"{lines[0]}{f' (and {len(lines) - 1} more)' if len(lines) > 1 else ''}"


def lines(steps: Sequence[Mapping[str, Any]], moment: str) -> list[str]:
    """The plan for a person: what is undone, when, and what that loses or invents."""
    if not steps:
        return []
    words = {AFTER: "once visitors are on the older release", BEFORE: "before visitors move: the live release fits"}
    found = [f"undoes {len(steps)} migration{'s' if len(steps) > 1 else ''}, {words[moment]}:"]
    for step in steps:
        found.append(f"  {label(step)}")
        found += [f"    {line}" for line in step["costs"]]
    return found


# acting


def releases(context: Context, newer: str | None, older: str) -> tuple[str, str]:
    """The release whose code undoes, and the one that is to fit. Raises BluegreenError."""
    live = context.state.live()
    if live is None:
        raise refused("no release is live on this host", "", "run ansible-playbook deploy.yml -e sha=…")
    if newer is None:
        # after the switch the older one is live, and what was live before undoes
        before = (live.previous or {}).get("release")
        newer = str(before) if live.release == older and before else live.release
    if newer == older:
        raise refused(
            f"{older} is live, and nothing newer is known", "", "name the release whose migrations are undone"
        )
    for name in (newer, older):
        if not release.complete(context.paths, name):
            raise refused(f"{name} is not on this host", "its code is needed", "sudo bluegreen status shows what is")
    return newer, older


def plan(context: Context, newer: str | None, older: str, options: Options) -> dict[str, Any]:
    """What undoing would do: {steps, when, lines, …}. Raises BluegreenError (REFUSED) with the ways out."""
    started = time.monotonic()
    newer, older = releases(context, newer, older)
    record = context.state.record(older)
    rows = ledger.read(context)
    ours = newer_rows(rows, older, record.staged_at if record else "")
    answer: dict[str, Any] = {"release": newer, "to": older, "steps": [], "undoes": [], "when": AFTER, "lines": []}
    order: dict[str, Any] = {**options.places}
    order |= {"ours": ours, **jobs.ask(context, older, "plan", "known", order, 120)}
    order["older"] = migrations.whole(context, older, ledger.footprint(context, older), options)
    order["newer"] = ledger.footprint(context, newer) or {}
    order["bundle"] = jobs.ask(context, newer, "plan", "read", options.places, migrations.JUDGED)
    told = tried(context, newer, order)
    if told["problems"]:
        error = refused(f"the schema cannot go back: {first(told['problems'])}", "nothing was changed", WAYS)
        error.details = {"problems": told["problems"]}
        raise error
    live = context.state.live()
    moment, why_not = when(told, live is not None and live.release == older) if told["steps"] else (AFTER, "")
    if moment == NEVER:
        raise refused("the schema cannot go back while visitors are served", why_not, WAYS)
    labels = unique([label(one) for one in told["steps"]])
    answer |= {"steps": told["steps"], "undoes": labels, "when": moment, "lines": lines(told["steps"], moment)}
    answer["applied"] = {alias: one["applied"] for alias, one in order["bundle"]["databases"].items()}
    return answer | {"method": told["method"], "older": order["older"], "seconds": round(time.monotonic() - started, 2)}


def tried(context: Context, newer: str, order: dict[str, Any]) -> dict[str, Any]:
    """The reverse on a throwaway server behind a wall, else in a scratch database; it is never predicted."""
    from bluegreen.schema.wall import UNIT

    try:
        return jobs.ask(
            context, newer, "judge", "back", {**order, "methods": ["cluster"]}, migrations.JUDGED, walls=UNIT
        )
    except BluegreenError as problem:
        if problem.code not in (Code.CHECK_FAILED, Code.NOT_PROVISIONED):
            raise
    return jobs.ask(context, newer, "judge", "back", {**order, "methods": ["scratch"]}, migrations.JUDGED)


def undo(context: Context, newer: str | None, older: str, timeout: float, options: Options) -> dict[str, Any]:
    """Undo what `plan` names, if it may be done now. The same again goes on where an earlier one ended."""
    started = time.monotonic()
    if context.state.pending():
        raise refused("a switch is pending", "which release serves is not decided", "confirm or revert it first")
    if not context.dry_run:
        # an earlier run's may still be at work: wait for it, and look at what it left
        jobs.attach(context, releases(context, newer, older)[0], timeout)
    planned = plan(context, newer, older, options)
    answer = {key: planned[key] for key in ("release", "to", "undoes", "when", "lines")}
    answer |= {"undone": [], "snapshot": "", "seconds": round(time.monotonic() - started, 2)}
    if context.dry_run:
        return answer
    finish_rows(context, planned["applied"])
    if not planned["steps"]:
        return answer
    live = context.state.live()
    if planned["when"] == AFTER and not (live and live.release == planned["to"]):
        todo = "ansible-playbook rollback.yml -e schema=reverse does both, in order"
        raise refused("visitors must be on the older release first", "the live one needs what is undone", todo)
    return answer | _undo(context, planned, timeout, options, started)


def finish_rows(context: Context, applied: Mapping[str, Sequence[Sequence[str]]]) -> None:
    """Write down what was undone though its caller had died. applied: what the databases say now."""
    path = context.paths.state / KEPT
    kept = files.read_json(path)
    if not isinstance(kept, dict):
        return
    there = {(alias, app, name) for alias, pairs in applied.items() for app, name in pairs}
    gone = [one for one in kept["steps"] if (one["database"], one["app"], one["name"]) not in there]
    rows = [undone_row(kept, one, now(), number, kept["snapshot"]) for number, one in enumerate(gone)]
    if rows:
        ledger.write(context, rows)
    files.remove_file(path)


def _undo(
    context: Context, planned: Mapping[str, Any], timeout: float, options: Options, started: float
) -> dict[str, Any]:
    from bluegreen import snapshot

    newer, steps = str(planned["release"]), list(planned["steps"])
    aliases = unique([str(one["database"]) for one in steps])
    why = [f"undoing {label(one)}" for one in steps]
    shot = str(snapshot.take(context, newer, aliases, options.places, why, options.recipient)["id"])
    snapshot.prune(context, options.snapshots)
    order = {
        "app": context.app, **options.places, "steps": steps, "older": planned["older"],
        "lock_timeout": options.lock_timeout, "statement_timeout": options.statement_timeout,
        "patience": options.patience,
    }  # fmt: skip
    begun = now()
    kept = {"release": newer, "to": planned["to"], "snapshot": shot, "steps": [without_sql(one) for one in steps]}
    files.write_json(context.paths.state / KEPT, kept, 0o600)
    files.remove_file(context.paths.state / migrations.PLAN)  # what it allowed is no longer so
    done = jobs.ask(context, newer, "migrate", "undo", order, timeout, aloud=True)
    rows = [undone_row(planned, one, begun, number, shot) for number, one in enumerate(done["undone"])]
    failed = done["failed"]
    if failed and failed["name"] and failed["finished"]:
        rows.append(undone_row(planned, failed, begun, len(rows), shot))
    silent = ledger.write(context, rows)
    files.remove_file(context.paths.state / KEPT)
    labels = unique([label(one) for one in done["undone"]])
    problem = failed["what"] if failed else (first(done["left"]) if done["left"] else "")
    context.state.append_history(
        "undo", release=newer, to=planned["to"], undone=labels, snapshot=shot, status=1 if problem else 0,
        deploy_id=context.deploy_id, **({"failed": problem} if problem else {}),
    )  # fmt: skip
    details = {"output": done["output"], "undone": labels, "snapshot": shot, "failed": failed}
    if failed:
        stays = f"; {len(labels)} before it stay undone" if labels else ""
        raise check_failed(failed["what"], f"{failed['why']}{stays}; snapshot {shot}", failed["next"], details)
    if done["left"]:
        what = f"the schema went back, and {planned['to']} does not fit it"
        raise check_failed(what, first(done["left"]), f"put back what it misses; snapshot {shot} has the rows", details)
    return {
        "undone": labels,
        "migrations": done["undone"],
        "snapshot": shot,
        "ledger": f"the register has no copy yet: {silent}" if silent else "",
        "seconds": round(time.monotonic() - started, 2),
        "output": done["output"],
    }


def without_sql(step: Mapping[str, Any]) -> dict[str, Any]:
    """What the ledger needs of a step."""
    return {key: step[key] for key in ("database", "app", "name", "file_sha256", "costs")}


def undone_row(planned: Mapping[str, Any], one: Mapping[str, Any], at: str, number: int, shot: str) -> dict[str, Any]:
    """A row of the ledger: this migration is no longer applied."""
    steps = {(step["database"], step["app"], step["name"]): step for step in planned["steps"]}
    step = steps[one["database"], one["app"], one["name"]]
    return {
        "database": one["database"],
        "app": one["app"],
        "name": one["name"],
        "outcome": ledger.UNDONE,
        "release": planned["release"],
        "live": planned["to"],
        "at": at,
        "number": number,
        "snapshot": shot,
        "costs": step["costs"],
        "file_sha256": step["file_sha256"],
        **{key: one[key] for key in ("seconds", "attempts", "waited") if key in one},
    }
