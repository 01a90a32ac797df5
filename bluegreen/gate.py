"""What may follow from the verdicts on a release's migrations. Pure functions; bluegreen/migrations.py acts on them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bluegreen.errors import BluegreenError, bad_input, refused

APPROVAL = re.compile(r"(?P<label>[A-Za-z_]\w*\.\w+)@sha256:[0-9a-f]{64}")
SAFE, NEEDS_APPROVAL, REFUSED = "safe", "needs_approval", "refused"
Item = Mapping[str, Any]  # a migration of the classifier's answer


@dataclasses.dataclass(frozen=True)
class Allowed:
    """What somebody allows in this deploy, by name."""

    approve: tuple[str, ...] = ()
    by: str = ""
    reason: str = ""
    late: tuple[str, ...] = ()  # app.name of those that run once the new release is confirmed
    window: bool = False  # the application is stopped while they run


def label(item: Item) -> str:
    """app.name"""
    return f"{item['app']}.{item['name']}"


def token(item: Item, release: str) -> str:
    """What approves a migration: bound to its file and its SQL (by the classifier), and here to the release."""
    digest = str(item["approval"]).rpartition("@sha256:")[2]
    return f"{label(item)}@sha256:{hashlib.sha256(f'{digest}:{release}'.encode()).hexdigest()}"


def check_words(allowed: Allowed, items: Sequence[Item], release: str, done: Collection[str] = ()) -> None:
    """Refuse words that cannot mean anything here. Raises BluegreenError (BAD_INPUT).

    done: approvals whose migrations this release has run: the same command works again.
    """
    labels = [label(item) for item in items]
    pending = f"pending: {', '.join(labels) or 'nothing'}"
    for one in [one for one in allowed.approve if one not in done]:
        match = APPROVAL.fullmatch(one)
        if not match:
            raise bad_input(f"{one!r} is not an approval", "it is app.name@sha256: and 64 hex digits", "copy it whole")
        if match["label"] not in labels:
            raise bad_input(f"the approval of {match['label']} names nothing pending", pending, "leave it out")
        if one not in {token(item, release) for item in items}:
            why = "it is bound to the migration's file, its SQL and the release, and one of them is another now"
            raise bad_input(f"the approval of {match['label']} is not for this deploy", why, "look again, approve anew")
    if allowed.approve and not (allowed.by.strip() and allowed.reason.strip()):
        lacks = "migrations_approved_by" if not allowed.by.strip() else "migrations_approve_reason"
        raise bad_input(f"{lacks} is missing", "an approval says who gives it, and why", f"-e {lacks}='…'")


def check_late(allowed: Allowed, pending: Sequence[Item], ran: Collection[str], why_not: str) -> None:
    """Refuse late migrations that cannot be meant. Raises BluegreenError (BAD_INPUT, REFUSED).

    pending: each with the labels that it `needs`; ran: those that this release has run late: the same command works
    again. why_not: nothing of it can be judged.
    """
    labels = list(dict.fromkeys(label(one) for one in pending))
    for name in allowed.late:
        if name not in labels and name not in ran:
            why = f"pending: {', '.join(labels) or 'nothing'}"
            raise bad_input(f"migrations_late: {name} is not pending", why, "leave it out")
    late = [name for name in allowed.late if name in labels]
    if late and why_not:
        raise refused(f"{late[0]} cannot run late", why_not, "leave migrations_late out")
    for one in pending:
        if label(one) not in late and (first := [name for name in one.get("needs") or () if name in late]):
            words = json.dumps({"migrations_late": [name for name in labels if name in (*late, label(one))]})
            what = f"{label(one)} depends on {first[0]}, which is to run late"
            raise refused(what, "what depends on a late migration is late too", f"name both: -e '{words}'")


def not_late(result: Mapping[str, Any]) -> BluegreenError | None:
    """Why a migration that was named cannot run once the new release is live; None if all can."""
    late = [item for item in result["migrations"] if item.get("late")]
    if late and result.get("method") == "static":
        why = "whether the new release works without it is not known without a shadow"
        return refused(f"{label(late[0])} cannot run late", why, "docs/migrations.md, The shadow, says what one needs")
    for item in late:
        if not item["late_possible"]:
            why = "the new release does not work on the schema before it, or it moves data with Python code"
            todo = "leave it out of migrations_late, or correct it and deploy a new commit"
            return refused(f"{label(item)} cannot run late", why, todo)
    return None


def check(
    result: Mapping[str, Any], allowed: Allowed, release: str, done: Collection[str] = ()
) -> list[dict[str, Any]]:
    """The migrations that may run now, in order, each with what lets it. Raises BluegreenError that says what does not.

    result: the classifier's answer. The error's details hold all of it, and lines for a person.
    """
    items = list(result["migrations"])
    check_words(allowed, items, release, done)
    blocked = [one for one in result["problems"] if one["verdict"] == REFUSED]
    if blocked:
        raise _with_details(problem(blocked[0], len(blocked) - 1), result, release)
    if error := not_late(result):
        raise _with_details(error, result, release)
    barred = [item for item in items if item["verdict"] not in (SAFE, NEEDS_APPROVAL)]
    if barred := [item for item in barred if not (allowed.window and stoppable(item))]:
        raise _with_details(no(barred), result, release)
    asks = [item for item in items if item["verdict"] != SAFE and token(item, release) not in allowed.approve]
    if asks:
        raise _with_details(please(asks, release), result, release)
    return [{**item, "approved": item["verdict"] != SAFE} for item in items]


def stoppable(item: Item) -> bool:
    """Whether a migration that is refused may run, approved, while the application is stopped."""
    return item["verdict"] == REFUSED and bool(item.get("window_possible")) and not item.get("late")


def problem(one: Mapping[str, Any], more: int = 0) -> BluegreenError:
    """Something that is wrong before any migration runs."""
    rest = f" (and {more} more)" if more else ""
    what = f"the migrations cannot be trusted: {sentence(one)}{rest}"
    return refused(what, remedy(one), "correct it and deploy a new commit")


def no(items: Sequence[Item]) -> BluegreenError:
    """The refusal of the first of the migrations that are refused."""
    item = items[0]
    reasons = [one for one in item["reasons"] if one["verdict"] == REFUSED] or [{"why": "its verdict is not known"}]
    more = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
    when = ", also once the new release is live" if item.get("late") else ""
    what = f"{label(item)} is refused{when}: {sentence(reasons[0])}{more}"
    todo = "correct it and deploy a new commit; docs/migrations.md shows how"
    if all(one.get("late_possible") and not one.get("late") for one in items):
        words = json.dumps({"migrations_late": list(dict.fromkeys(label(one) for one in items))})
        todo = f"{todo}; or the code first, and no way back after it: the same with -e '{words}'"
    elif all(stoppable(one) for one in items):
        todo = f"{todo}; or with the application stopped: the same with -e migrations_maintenance_window=true"
    return refused(what, remedy(reasons[0]), todo)


def please(items: Sequence[Item], release: str) -> BluegreenError:
    """What asks for an approval, and the words that give it."""
    first = [one for one in items[0]["reasons"] if one["verdict"] != SAFE]
    names = ", ".join(label(item) for item in items)
    verb = "needs" if len(items) == 1 else "need"
    what = f"{names} {verb} approval: {sentence(first[0]) if first else 'it was not judged safe'}"
    others = [sentence(one) for item in items for one in item["reasons"] if one["verdict"] != SAFE][1:]
    hint = next((text for one in first if (text := remedy(one))), "")
    why = " · ".join([*others, *([hint] if hint else [])]) or "what it does cannot be undone by going back"
    words: dict[str, Any] = {
        "migrations_approve": [token(item, release) for item in items],
        "migrations_approved_by": "who",
        "migrations_approve_reason": "why",
    }
    if any(item["verdict"] == REFUSED for item in items):
        words["migrations_maintenance_window"] = True
    return refused(what, why, f"look at it, then the same with -e '{json.dumps(words)}'")


def sentence(one: Mapping[str, Any]) -> str:
    """A reason: where, and why."""
    place = ".".join(str(part) for part in (one.get("table"), one.get("column")) if part)
    return f"{place + ': ' if place else ''}{one['why']}"


def remedy(one: Mapping[str, Any]) -> str:
    """What to write instead, in how many releases: its first line; `lines` has the code."""
    instead = (str(one.get("instead") or "").splitlines() or [""])[0].strip().rstrip(":")
    releases = int(one.get("releases") or 1)
    return f"instead{f', in {releases} releases' if releases > 1 else ''}: {instead}" if instead else ""


def _with_details(error: BluegreenError, result: Mapping[str, Any], release: str) -> BluegreenError:
    error.details = {**public(result, release), "lines": lines(result, release)}
    return error


def public(result: Mapping[str, Any], release: str) -> dict[str, Any]:
    """The classifier's answer as a plan shows it; what approves a migration is bound to the release."""
    items = [
        {**{key: value for key, value in item.items() if key != "file"}, "approval": token(item, release)}
        for item in result["migrations"]
    ]
    kept = ("verdict", "method", "method_detail", "why_not_better", "problems", "seconds")
    return {
        "pending": [label(item) for item in items],
        **{key: result[key] for key in kept if key in result},
        "migrations": items,
        "verdicts": [{"name": label(item), "verdict": item["verdict"]} for item in items],
    }


def lines(result: Mapping[str, Any], release: str) -> list[str]:
    """What is not simply safe, for a person."""
    found = [f"{sentence(one)}" for one in result["problems"] if one["verdict"] == REFUSED]
    for item in result["migrations"]:
        if item["verdict"] == SAFE and not item.get("late"):
            continue
        found.append(f"{label(item)}: {str(item['verdict']).replace('_', ' ')}{', late' if item.get('late') else ''}")
        found += [f"  before the switch: {one}" for one in item["bridge"] if item.get("late")]
        for one in item["reasons"]:
            if one["verdict"] != SAFE:
                found.append(f"  {sentence(one)}")
                found += [f"    {line}" for line in str(one.get("instead") or "").splitlines()]
        if item["verdict"] == NEEDS_APPROVAL:
            found.append(f"  {token(item, release)}")
    if result.get("method") == "static":
        why = "; ".join(str(one) for one in result.get("why_not_better") or ())
        found.append(f"predicted without a shadow{f' ({why})' if why else ''}: raw SQL and Python are never safe then")
    return found
