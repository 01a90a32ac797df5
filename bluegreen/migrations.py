"""Migrations of a release: judged, allowed, run once, written down. Phases 3 and 4 of a deploy, on the migration host.

    plan     pending? → read the live schema → judge on a shadow → gate (gate.py) → keep what may run
    migrate  what was kept, and nothing else → run in the release (schema/runner.py) → ledger, footprint

Root only starts units and keeps what they say: what runs a release's code is a job of the application's user.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import time
from collections.abc import Iterable, Mapping
from typing import Any

from bluegreen import files, gate, jobs, ledger, maintenance, release, secrets
from bluegreen.context import Context
from bluegreen.errors import BluegreenError, Code, bad_input, check_failed, refused
from bluegreen.state import now

PLAN = "migrations.json"  # in the state directory: what may run
JUDGED = 600.0  # seconds for a shadow
FINISHED = 3600.0  # seconds for migrations that a dead run left at work


@dataclasses.dataclass(frozen=True)
class Options:
    """How migrations run, beside what is allowed. `databases`: alias → {host, port} past a pooler, or nothing."""

    databases: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=lambda: {"default": {}})
    lock_timeout: float = 2.0
    statement_timeout: float = 900.0
    patience: float = 120.0
    snapshots: int = 5  # kept
    recipient: str = ""  # of age: snapshots are encrypted for it

    @property
    def places(self) -> dict[str, Any]:
        """What every job is told of the databases."""
        return {
            "aliases": list(self.databases),
            "direct": {alias: dict(place) for alias, place in self.databases.items() if place},
        }


def label(one: Mapping[str, Any]) -> str:
    """app.name"""
    return f"{one['app']}.{one['name']}"


def unique(labels: list[str]) -> list[str]:
    """Each once, in order: a migration may be pending in several databases."""
    return list(dict.fromkeys(labels))


# plan


def plan(context: Context, name: str, allowed: gate.Allowed, options: Options) -> dict[str, Any]:
    """Which migrations are pending, what they would do, and whether they may: see the verb `migrate --plan`.

    Raises BluegreenError whose details hold the verdicts.
    """
    started = time.monotonic()
    finish_earlier(context, name, options)
    rows = ledger.read(context)
    done = {str(row["approval"]) for row in rows if row["release"] == name and row.get("approval")}
    ran = {
        label(row) for row in rows if row["release"] == name and row.get("late") and row["outcome"] == ledger.APPLIED
    }
    live = context.state.live()
    live_print = ledger.footprint(context, live.release) if live else None
    order = {**options.places, "ledger": ledger.applied(rows), "live": live_print}
    order |= {"late": list(allowed.late)} if allowed.late else {}
    found = jobs.ask(context, name, "plan", "pending", order, 120)
    labels = unique([label(one) for one in found["pending"]])
    late = [one for one in labels if one in allowed.late]
    answer: dict[str, Any] = {"pending": labels, "plan": found["plan"], "verdict": gate.SAFE, "migrations": []}
    answer |= {"late": late, "before": live.sha if live else "", "stopped": []}
    why_not = unjudged(found, bool(live))
    gate.check_late(allowed, found["pending"], ran, why_not or ("" if live else "nothing is live yet"))
    if not found["pending"] or why_not:
        gate.check_words(allowed, [], name, done)
        if found["problems"]:
            quiet(context, found["problems"])
            error = gate.problem(found["problems"][0], len(found["problems"]) - 1)
            error.details = {**answer, "problems": found["problems"]}
            raise error
        if found["footprint"] and not context.dry_run and not found["pending"]:
            keep(context, name, found["footprint"], options)
        items = [{**one, "verdict": gate.SAFE, "unjudged": why_not} for one in found["pending"]]
        answer["judged"] = why_not
    else:
        order = {**order, "live": whole(context, live.release, live_print, options) if live else None}
        order |= {"known_ahead": list(order["ledger"])}
        order["bundle"] = jobs.ask(context, name, "plan", "read", order, JUDGED)
        result = judge(context, name, order)
        quiet(context, [*result["problems"], *(one for item in result["migrations"] for one in item["reasons"])])
        items = gate.check(result, allowed, name, done)
        answer["stopped"] = unique([label(one) for one in items if one["verdict"] == gate.REFUSED])
        answer |= gate.public(result, name) | {"judged": "", "lines": gate.lines(result, name)}
        found["footprint"] = {**result["footprint"], "drift": (found["footprint"] or {}).get("drift", [])}
    answer["seconds"] = round(time.monotonic() - started, 2)
    if not context.dry_run:
        left = left_late(kept_plan(context), rows, live.release) if live and live.release != name else None
        if left:  # this deploy may not come through, and `status` goes on saying what waits
            left["steps"] = [one for one in left["steps"] if label(one) in labels]
        kept = {
            "left": left,
            "release": name,
            "deploy_id": context.deploy_id,
            "live": live.release if live else None,
            "at": now(),
            "pending": found["pending"],
            "steps": [step(item, name) for item in items],
            "approved": {"by": allowed.by, "reason": allowed.reason} if allowed.approve else None,
            "footprint": found["footprint"],
            "unjudged": why_not,
        }
        files.write_json(context.paths.state / PLAN, kept, 0o600)
    return answer


def finish_earlier(context: Context, name: str, options: Options) -> None:
    """Wait for what a dead run of the same release left at work, and write it down: its approvals are known then."""
    planned = kept_plan(context)
    if context.dry_run or not planned or planned["release"] != name or planned["deploy_id"] == context.deploy_id:
        return
    jobs.attach(context, name, FINISHED)
    known = {key for key, row in ledger.latest(ledger.read(context)).items() if row["outcome"] == ledger.APPLIED}
    if {(one["database"], one["app"], one["name"]) for one in planned["steps"]} - known:
        finish_rows(context, planned, jobs.ask(context, name, "plan", "pending", options.places, 120)["pending"])


def unjudged(found: Mapping[str, Any], live: bool) -> str:
    """Why the pending migrations are not judged; empty if they are."""
    if not found["pending"]:
        return ""
    aliases = {one["database"] for one in found["pending"]}
    other = [text for text in found["unjudged"] if text.split(":", 1)[0] in aliases]
    if other and len(other) == len(aliases):
        return f"not judged: {', '.join(text.split(': ', 1)[1] for text in other)}"
    if found["empty"] and not live:
        return "not judged: the database is empty and nothing is live"
    return ""


def whole(context: Context, live: str, kept: dict[str, Any] | None, options: Options) -> dict[str, Any]:
    """The live release's footprint: the one that was kept, else it is asked, which starts its Django once."""
    if kept and "drift" in kept:
        return kept
    return jobs.ask(context, live, "plan", "footprint", options.places, 120)


def judge(context: Context, name: str, order: dict[str, Any]) -> dict[str, Any]:
    """The verdicts: of a throwaway server behind a wall, else a scratch database beside the live one, or predicted."""
    from bluegreen.schema.wall import UNIT

    try:
        return jobs.ask(context, name, "judge", "judge", {**order, "methods": ["cluster"]}, JUDGED, walls=UNIT)
    except BluegreenError as problem:
        if problem.code not in (Code.CHECK_FAILED, Code.NOT_PROVISIONED):
            raise
        first = secrets.told(context.paths, str(problem))
    result = jobs.ask(context, name, "judge", "judge", {**order, "methods": ["scratch", "static"]}, JUDGED)
    return {**result, "why_not_better": [f"cluster: {first}", *result["why_not_better"]]}


def quiet(context: Context, reasons: list[dict[str, Any]]) -> None:
    """Take out of reasons what the release's own code may have told of secrets in an error."""
    texts = secrets.masks(secrets.values(context.paths)) if reasons else []
    for one in reasons:
        one["why"] = secrets.hide(one["why"], texts)


def step(item: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What is kept of a migration's verdict: what the runner needs, and what the ledger says of it."""
    kept = {
        key: item.get(key) for key in ("database", "app", "name", "verdict", "file_sha256", "sql_sha256", "unjudged")
    }
    return kept | {
        "tables": [one["name"] for one in item.get("tables") or ()],
        "rows": {one["name"]: one["rows"] for one in item.get("tables") or ()},
        "sql": list(item.get("sql") or ()),
        "late": bool(item.get("late")),
        "bridge": list(item.get("bridge") or ()) if item.get("late") else [],
        "rules": sorted({one["rule"] for one in item.get("reasons") or () if one["verdict"] != gate.SAFE}),
        "reversible": item.get("reversible"),
        "approval": gate.token(item, name) if item.get("approved") else None,
    }


def keep(context: Context, name: str, footprint: Mapping[str, Any], options: Options) -> None:
    """Remember what a release expects, and how its databases are reached."""
    ledger.keep_footprint(context, name, {**footprint, "places": options.places})
    ledger.forget_footprints(context, {name, *(path.name for path in context.paths.releases.iterdir())})


def kept_plan(context: Context) -> dict[str, Any] | None:
    """What the last plan of this host allows."""
    found = files.read_json(context.paths.state / PLAN)
    return dict(found) if isinstance(found, dict) else None


def left_late(planned: Mapping[str, Any] | None, rows: Iterable[ledger.Row], live: str) -> dict[str, Any] | None:
    """The late migrations of the live release that are not known to have run: {release, steps, approved}, or nothing.

    planned: the last plan, of that release, or of one after it that did not come through.
    """
    if planned and planned["release"] != live:
        planned = planned.get("left")
    if not planned or planned["release"] != live:
        return None
    ran = {key for key, row in ledger.latest(rows).items() if row["outcome"] == ledger.APPLIED}
    late = [one for one in planned["steps"] if one.get("late")]
    steps = [one for one in late if (one["database"], one["app"], one["name"]) not in ran]
    return {"release": live, "steps": steps, "approved": planned["approved"]} if steps else None


def waiting(context: Context) -> dict[str, Any] | None:
    """Late migrations that wait though their release is live, and the command that runs them; asks no database."""
    planned, live = kept_plan(context), context.state.live()
    if not planned or not live or not (left := left_late(planned, ledger.local(context), live.release)):
        return None
    names = unique([label(one) for one in left["steps"]])
    words: dict[str, Any] = {"migrations_late": names}
    if approve := [one["approval"] for one in left["steps"] if one["approval"]]:
        about = left["approved"]
        words |= {"migrations_approve": approve, "migrations_approved_by": about["by"]}
        words |= {"migrations_approve_reason": about["reason"]}
    given = shlex.quote(json.dumps(words, ensure_ascii=False))
    return {"migrations": names, "next": f"ansible-playbook deploy.yml -e sha={live.sha[:12]} -e {given}"}


# migrate


def migrate(
    context: Context, name: str, timeout: float, allowed: gate.Allowed, options: Options, late: bool = False
) -> dict[str, Any]:
    """Run what the plan allows: see the verb `migrate`. A second call finds nothing to do, or waits for the first.

    late: those that were named for it, once the release is confirmed; otherwise all others, and what these need before.
    """
    started = time.monotonic()
    if late:
        require_confirmed(context, name)
    attached = not context.dry_run and jobs.attach(context, name, timeout)
    order = {**options.places}
    pending = jobs.ask(context, name, "plan", "pending", order, 120)
    planned = kept_plan(context)
    if planned and not context.dry_run:
        finish_rows(context, planned, pending["pending"])
    answer: dict[str, Any] = {"applied": [], "pending": [], "attached": attached, "seconds": 0.0, "output": []}
    labels = unique([label(one) for one in pending["pending"] if not late or label(one) in allowed.late])
    if context.dry_run or not labels:
        seconds = round(time.monotonic() - started, 2)
        if not context.dry_run and pending["footprint"]:
            keep(context, name, pending["footprint"], options)
        return answer | {"pending": labels, "seconds": seconds}
    if not planned or not covers(planned, context.deploy_id, name, pending["pending"]):
        plan(context, name, allowed, options)
        planned = kept_plan(context) or {}
    if str(planned["unjudged"] or "").startswith("not judged") and not pending["footprint"]:
        return answer | by_django(context, name, timeout, planned, started)
    if any(one["verdict"] == gate.REFUSED for one in planned["steps"]) and maintenance.read(context) is None:
        what = "a migration that was refused runs only while the application is stopped"
        raise refused(what, "visitors are served here", "the same with -e migrations_maintenance_window=true")
    if not due(planned, late):
        if pending["footprint"]:
            keep(context, name, pending["footprint"], options)
        return answer | {"pending": labels, "seconds": round(time.monotonic() - started, 2)}
    return answer | by_runner(context, name, timeout, planned, options, started, late)


def due(planned: Mapping[str, Any], late: bool) -> bool:
    """Whether there is anything to run before the switch, or `late`."""
    return any(one["late"] is late or (one["bridge"] and not late) for one in planned["steps"])


def require_confirmed(context: Context, name: str) -> None:
    """Refuse to run late migrations while the release before may still be needed. Raises BluegreenError (REFUSED)."""
    live = context.state.live()
    if live is None or live.release != name or context.state.pending():
        raise refused(f"{name} is not confirmed here", "late migrations run after that", "confirm it first")


def covers(planned: Mapping[str, Any], deploy_id: str, name: str, pending: list[dict[str, Any]]) -> bool:
    """Whether all that is pending was planned in this very deploy: approvals end with it."""
    if (planned["deploy_id"], planned["release"]) != (deploy_id, name):
        return False
    known = [(one["database"], one["app"], one["name"]) for one in planned["pending"]]
    return all((one["database"], one["app"], one["name"]) in known for one in pending)


def by_runner(
    context: Context,
    name: str,
    timeout: float,
    planned: Mapping[str, Any],
    options: Options,
    started: float,
    late: bool,
) -> dict[str, Any]:
    """PostgreSQL: in the release, by schema/runner.py."""
    steps = [one for one in planned["steps"] if one["late"] is late]
    later = [one for one in planned["steps"] if one["late"] and not late]
    shot = before_approved(context, name, steps, options)
    order = {
        "app": context.app,
        **options.places,
        "steps": steps,
        "later": later,
        "lock_timeout": options.lock_timeout,
        "statement_timeout": options.statement_timeout,
        "patience": options.patience,
    }
    begun = now()
    try:
        done = jobs.ask(context, name, "migrate", "run", order, timeout, aloud=True)
    except BluegreenError:
        # refused, or it died: what it had done by then is written down all the same
        with contextlib.suppress(BluegreenError):
            finish_rows(context, planned, jobs.ask(context, name, "plan", "pending", options.places, 120)["pending"])
        raise
    labels = unique([label(one) for one in done["applied"]])
    failed = done["failed"]
    if failed:
        failed["why"] = secrets.told(context.paths, failed["why"])
    rows = [row(planned, one, ledger.APPLIED, begun, number) for number, one in enumerate(done["applied"])]
    bridged = done.get("bridged") or []
    rows += [row(planned, one, ledger.BRIDGED, begun, len(rows)) | {"bridge": one["bridge"]} for one in bridged]
    if failed and failed["name"] and failed["recorded"]:
        rows.append(row(planned, failed, ledger.APPLIED, begun, len(rows)))
    elif failed and failed["name"]:
        rows.append(row(planned, failed, ledger.FAILED, begun, len(rows)) | {"why": failed["why"]})
    silent = ledger.write(context, [{**one, "snapshot": shot} for one in rows])
    status = 1 if failed else 0
    context.state.append_history(
        "migrate",
        release=name,
        applied=labels,
        status=status,
        deploy_id=context.deploy_id,
        approved=planned["approved"],
        snapshot=shot,
        verdicts={label(one): one["verdict"] for one in steps},
        **({"late": True} if late else {}),
        **({"bridged": [label(one) for one in bridged]} if bridged else {}),
        **({"failed": label(failed), "why": failed["why"]} if failed else {}),
    )
    if failed:
        details = {"output": done["output"], "applied": labels, "failed": failed}
        said = f"{failed['why']}{f'; {len(labels)} before it stay applied' if labels else ''}"
        raise check_failed(failed["what"], said, failed["next"], details)
    keep(context, name, {**planned["footprint"], "known": done["known"]}, options)
    return {
        "applied": labels,
        "pending": unique([label(one) for one in later]),
        "bridged": [" ".join(one["bridge"]) for one in bridged],
        "migrations": done["applied"],
        "approved": planned["approved"],
        "snapshot": shot,
        "ledger": f"the register has no copy yet: {silent}" if silent else "",
        "seconds": round(time.monotonic() - started, 2),
        "output": done["output"],
    }


def before_approved(context: Context, name: str, steps: list[dict[str, Any]], options: Options) -> str:
    """A verified snapshot of the databases in which something approved, or late, runs: its id, or nothing."""
    approved = [one for one in steps if one["approval"] or one["late"]]
    if not approved:
        return ""
    from bluegreen import snapshot

    aliases = unique([str(one["database"]) for one in approved])
    told = snapshot.take(context, name, aliases, options.places, [label(one) for one in approved], options.recipient)
    snapshot.prune(context, options.snapshots)
    return str(told["id"])


def row(planned: Mapping[str, Any], one: Mapping[str, Any], outcome: str, at: str, number: int) -> dict[str, Any]:
    """A row of the ledger."""
    key = (one["database"], one["app"], one["name"])
    steps = {(step["database"], step["app"], step["name"]): step for step in planned["steps"]}
    said: Mapping[str, Any] = steps.get(key, {})
    verdict = ("verdict", "rules", "file_sha256", "sql_sha256", "rows", "approval", "reversible", "unjudged")
    return {
        "database": one["database"],
        "app": one["app"],
        "name": one["name"],
        "outcome": outcome,
        "release": planned["release"],
        "live": planned["live"],
        "at": at,
        "number": number,
        **{key: said.get(key) for key in verdict},
        **({"approved": planned["approved"]} if said.get("approval") else {}),
        **({"late": True} if said.get("late") else {}),
        **{key: one.get(key) for key in ("seconds", "attempts", "waited") if key in one},
    }


def finish_rows(context: Context, planned: Mapping[str, Any], pending: list[dict[str, Any]]) -> None:
    """Write down what ran though its caller had died: planned, no longer pending, and not in the ledger."""
    left = {(one["database"], one["app"], one["name"]) for one in pending}
    known = {key for key, row in ledger.latest(ledger.read(context)).items() if row["outcome"] == ledger.APPLIED}
    ran = [
        one
        for one in planned["steps"]
        if (key := (one["database"], one["app"], one["name"])) not in left and key not in known
    ]
    if ran:
        ledger.write(context, [row(planned, one, ledger.APPLIED, now(), number) for number, one in enumerate(ran)])


def by_django(
    context: Context, name: str, timeout: float, planned: Mapping[str, Any], started: float
) -> dict[str, Any]:
    """Another database than PostgreSQL: Django's own command."""
    words = (jobs.python(context, name), "-m", "django", "migrate", "--no-input", "--no-color")
    status, output = jobs.run(context, name, "migrate", words, timeout)
    left = jobs.ask(context, name, "plan", "pending", {}, 120)["pending"]
    finish_rows(context, planned, left)
    after = unique([label(one) for one in left])
    applied = [text for text in unique([label(one) for one in planned["pending"]]) if text not in after]
    context.state.append_history("migrate", release=name, applied=applied, status=status, deploy_id=context.deploy_id)
    if status or after:
        what = f"{(after or ['a migration'])[0]} failed" if status else f"{after[0]} is still pending"
        todo = "the old release serves; correct the migration and deploy a new commit"
        raise check_failed(what, jobs.why(output), todo, {"output": output[-30:], "applied": applied})
    return {"applied": applied, "seconds": round(time.monotonic() - started, 2), "output": output[-30:]}


# may it come back?


def fits(context: Context) -> dict[str, Any]:
    """Which confirmed releases fit the schema as it is: {fits: {release: [why not]}, why}; one catalog query.

    A release of which no footprint is kept here is not in the answer: nothing is known of it. `why`: why nothing is.
    """
    live = context.state.live()
    kept = {}
    for record in context.state.records():
        found = ledger.footprint(context, record.id)
        if found and record.state == "confirmed" and release.complete(context.paths, record.id):
            kept[record.id] = found
    if not live or not kept or context.dry_run:
        return {"fits": {}, "why": ""}
    places = kept.get(live.release, next(iter(kept.values()))).get("places") or {}
    try:
        return {**jobs.ask(context, live.release, "fit", "fit", {"kept": kept, **places}, 60), "why": ""}
    except BluegreenError as problem:
        return {"fits": {}, "why": str(problem)}  # the way back must not depend on a database that is down


def check_fits(context: Context, name: str) -> None:
    """Refuse to go back to a release that the schema has left behind. Raises BluegreenError (REFUSED)."""
    found = fits(context)
    if misfits := found["fits"].get(name):
        raise unfit(name, misfits)
    if name not in found["fits"]:
        why = found["why"] or "what it expects is kept on the migration host"
        record = context.state.record(name)
        if record and record.cold:
            todo = "from the controller: ansible-playbook rollback.yml"
            raise refused(f"whether {name} fits the schema is not known", f"{why}; migrations ran after it", todo)
        context.say(f"whether {name} fits the schema is not known: {why}")


def unfit(name: str, misfits: list[str]) -> BluegreenError:
    """Why a release cannot come back, with the ways out."""
    more = f" (and {len(misfits) - 1} more)" if len(misfits) > 1 else ""
    todo = "deploy a corrected commit: ansible-playbook deploy.yml -e sha=…; docs/migrations.md has the other ways"
    return BluegreenError(Code.REFUSED, f"{name} does not fit the schema any more", f"{misfits[0]}{more}", todo)


def options_of(params: Mapping[str, Any]) -> tuple[gate.Allowed, Options]:
    """The parameters of the verb. Raises BluegreenError (BAD_INPUT)."""
    for key in ("approve", "late"):
        if not all(isinstance(one, str) for one in params[key]):
            raise bad_input(f"{key} must be a list of texts", f"it is {params[key]!r}")
    databases = databases_of(params["databases"])
    allowed = gate.Allowed(
        tuple(params["approve"]), params["by"], params["reason"], tuple(params["late"]), params["window"]
    )
    times = {key: float(params[key]) for key in ("lock_timeout", "statement_timeout", "patience")}
    if wrong := [key for key, value in times.items() if value <= 0]:
        raise bad_input(f"{wrong[0]} must be more than 0 seconds", "without a limit all traffic may queue behind it")
    return allowed, Options(databases, **times, snapshots=params["snapshots"], recipient=params["recipient"])


def databases_of(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Where the databases are: alias → {} or {host, port}. Raises BluegreenError (BAD_INPUT)."""
    databases = dict(given) or {"default": {}}
    for alias, place in databases.items():
        if not isinstance(place, dict) or not set(place) <= {"host", "port"}:
            raise bad_input(f"migrations_databases: {alias} is {place!r}", "wanted: {} or {host: …, port: …}")
    return databases
