"""Where a rollback goes, and a rollback of this host alone."""

from __future__ import annotations

import re
from typing import Any

from bluegreen import maintenance, processes, release, smoke, start, switch, web
from bluegreen.context import Context
from bluegreen.errors import bad_input, check_failed, refused
from bluegreen.privileges import call
from bluegreen.state import Live, Record


def choose_target(live: Live | None, records: list[Record], present: set[str], wanted: str | None) -> Record:
    """The release to roll back to: the newest confirmed one older than the live one, or the one named.

    Raises BluegreenError that names the candidates.
    """
    if live is None:
        raise refused(
            "there is nothing to roll back from",
            "no release is live on this host",
            "run ansible-playbook deploy.yml -e sha=…",
        )
    order = {record.id: record.confirmed_fence for record in records}
    here = [
        record
        for record in records
        if record.id in present and record.state == "confirmed" and record.id != live.release
    ]
    older = [record for record in here if record.confirmed_fence < order.get(live.release, live.fence)]
    names = ", ".join(record.sha[:12] for record in older) or "none"
    if wanted:
        if live.sha.startswith(wanted) or live.release == wanted:
            raise refused(f"{wanted} is already live", "", "name another release, or leave it out to go one back")
        matching = [
            record
            for record in records
            if (record.sha.startswith(wanted) or record.id == wanted) and record.id in present
        ]
        good = [record for record in matching if record.state == "confirmed"]
        if good:
            return good[0]
        if matching:
            raise refused(
                f"{wanted} is {matching[0].state.replace('_', ' ')}",
                matching[0].reason or "it was never confirmed",
                f"candidates: {names}",
            )
        raise refused(f"{wanted} is not on this host", f"candidates: {names}", "deploy it instead")
    if not older:
        raise refused(
            "there is nothing to roll back to",
            "no older confirmed release is on this host",
            "deploy a good one instead",
        )
    return older[0]


def rollback_target(context: Context, wanted: str | None) -> dict[str, Any]:
    """Where a rollback would go; changes nothing."""
    if wanted and not re.fullmatch(r"[0-9a-f]{6,40}|[0-9a-f]{12}-[0-9a-f]{8}", wanted):
        raise bad_input(f"{wanted!r} is neither a sha nor a release", "wanted: 6 to 40 hex digits, or an id of status")
    live = context.state.live()
    records = context.state.records()
    present = {record.id for record in records if release.complete(context.paths, record.id)}
    target = choose_target(live, records, present, wanted)
    colour = start.idle_colour(context)
    warm = release.resolved(context.paths, colour) == target.id and start.is_active(context.app, colour)
    return {"release": target.id, "sha": target.sha, "artifact": target.artifact, "warm": warm, "colour": colour}


def front_target(context: Context, name: str) -> smoke.Target:
    """This host's nginx as checks see it."""
    static_url = str(release.config_of(context.paths, name).get("static_url") or "/static/")
    return smoke.Target(web.Where(context.config.front), context.visitor(front=True), name, static_url)


def rollback(context: Context, wanted: str | None, ttl: float) -> dict[str, Any]:
    """A rollback of this host alone, for a person on it; the others go on as they are."""
    from bluegreen import migrations  # slow to import

    if maintenance.read(context) is not None:
        todo = f"bluegreen maintenance --app {context.app} --action end: the live release serves again, if it fits"
        raise refused("visitors meet the maintenance page", "a rollback moves visitors that a release serves", todo)
    goal = rollback_target(context, wanted)
    if context.dry_run:
        return goal
    name = str(goal["release"])
    migrations.check_fits(context, name)
    if not goal["warm"]:
        start.start(context, name, timeout=60, warm=True, alive=1)
    moved = switch.route_to(context, name, 100, ttl, "rollback", fresh=True)
    front = front_target(context, name)
    problem = str(call(lambda: smoke.identity(front, 5, 5)))
    if problem:
        switch.revert(context, problem, bad=False)
        raise check_failed(
            f"{name} does not answer through nginx", problem, "the release before it serves again; see bluegreen status"
        )
    confirmed = switch.confirm(context, name)
    processes.settle(context, str(moved["colour"]), wait=False, alive=0)
    context.say(
        f"{name} is live on this host only; the other hosts of the fleet go on as they are "
        "(ansible-playbook rollback.yml moves all)"
    )
    return {**goal, "live": confirmed["live"]}
