"""The switch and its way back. Traffic moves by one rename; a timer undoes what nobody confirms.

    route    arm the timer → write pending.json → replace the route
    confirm  write active.json (the commit point) → record, route → remove pending.json → disarm
    revert   route to active.json's colour → remove pending.json → disarm

A crash between two steps leaves a timer, or the boot-time reconcile, that finishes what was begun.
"""

from __future__ import annotations

import dataclasses
import re
import time
from typing import Any

from bluegreen import deadman, processes, release, route, smoke, start, units, web
from bluegreen.config import other
from bluegreen.context import Context
from bluegreen.errors import BluegreenError, bad_input, check_failed, refused
from bluegreen.privileges import call
from bluegreen.state import Deadline, Live, Pending, Record, now


def route_to(context: Context, name: str, share: int, ttl: float, kind: str, fresh: bool) -> dict[str, Any]:
    """Route `share` percent to the idle colour, which must run `name`; see the verb `route`."""
    state = context.state
    live, pending = state.live(), state.pending()
    if live and live.release == name and not pending:
        return {"already_live": True, "colour": live.colour, "generation": route.current_generation(context.paths)}
    if pending and pending.release != name:
        raise refused(
            "another switch is pending on this host",
            f"{pending.release} since {pending.since}",
            f"bluegreen revert --app {context.app}",
        )
    colour = other(live.colour) if live else start.idle_colour(context)
    # a fresh answer of the release itself says more than systemd does
    if release.resolved(context.paths, colour) != name or not (fresh or start.is_active(context.app, colour)):
        raise refused(
            f"{name} does not run on the {colour} colour", "", f"bluegreen start --app {context.app} --release {name}"
        )
    if live is None and share != 100:
        raise refused("there is no live release to share with", "", "deploy without a canary first")
    if context.dry_run:
        return {"colour": colour, "share": share}
    previous = route.current_generation(context.paths)
    sha = str(release.config_of(context.paths, name)["sha"])
    # the deadline first: the timer must never fire before it has passed, because it fires once
    deadline = Deadline.after(ttl)
    timer, armed = deadman.arm(context.app, context.deploy_id, ttl)
    try:
        # beside systemd's work
        if fresh and (problem := start.answers(context, colour, name, 5)):
            raise check_failed(
                f"the warm {colour} colour does not answer",
                problem,
                f"journalctl -u {units.web_unit(context.app, colour)}",
            )
        generation = start.prepare_route(context, colour if live is None else live.colour, share if live else 0)
        armed()
    except (BluegreenError, OSError):
        deadman.disarm(context.app, timer)
        raise
    state.set_pending(
        Pending(
            colour,
            name,
            sha,
            share,
            context.deploy_id,
            kind,
            deadline.boot,
            deadline.at,
            pending.since if pending else now(),
            timer,
        )
    )
    route.use(context.paths, generation)
    switched_at = time.time()
    if pending:
        deadman.disarm(context.app, pending.timer)
    state.append_history(
        "route", release=name, sha=sha, share=share, deploy_id=context.deploy_id, generation=generation
    )
    return {"colour": colour, "generation": generation, "previous": previous, "switched_at": switched_at}


def extend(context: Context, ttl: float) -> dict[str, Any]:
    """Move the deadline of a pending switch: the controller still watches."""
    pending = context.state.pending()
    if not pending or context.dry_run:
        return {"extended": False}
    deadline = Deadline.after(ttl)
    # the timer names the deploy that is pending, whoever extends it
    timer, armed = deadman.arm(context.app, pending.deploy_id, ttl)
    armed()
    context.state.set_pending(
        dataclasses.replace(pending, deadline_boot=deadline.boot, deadline_at=deadline.at, timer=timer)
    )
    deadman.disarm(context.app, pending.timer)
    return {"extended": True}


def confirm(context: Context, name: str) -> dict[str, Any]:
    """Make the pending switch to `name` final; see the verb `confirm`."""
    state = context.state
    live, pending = state.live(), state.pending()
    if pending is None:
        if live and live.release == name:
            return {"live": dataclasses.asdict(live), "changed": False}
        raise refused(
            f"no switch to {name} is pending on this host", "its deadline passed and it was reverted", "start again"
        )
    if pending.release != name or pending.deploy_id != context.deploy_id:
        raise refused(
            f"the pending switch is to {pending.release}",
            f"it belongs to {pending.deploy_id}",
            f"bluegreen revert --app {context.app}",
        )
    if live and committed(live, pending):
        if not context.dry_run:
            finish_confirm(context, live, pending)
        return {"live": dataclasses.asdict(live), "changed": True}
    # what the route says counts: a killed `route` leaves a pending switch that no visitor has met
    share = min(pending.share, route.shares(route.read(context.paths), context.paths)[pending.colour])
    if share != 100:
        raise refused(f"only {share} % are routed to {name}", "", "route 100 % first")
    if context.dry_run:
        return {"changed": True}
    previous = dataclasses.asdict(live) if live else None
    if previous:
        previous["previous"] = None
    chosen = Live(pending.colour, name, pending.sha, context.deploy_id, context.effective_fence(), now(), previous)
    state.set_live(chosen)
    finish_confirm(context, chosen, pending)
    return {"live": dataclasses.asdict(chosen), "changed": True}


def committed(live: Live | None, pending: Pending) -> bool:
    """Whether the commit point of a pending switch was reached, and a crash came before the rest."""
    return live is not None and (live.deploy_id, live.release) == (pending.deploy_id, pending.release)


def finish_confirm(context: Context, chosen: Live, pending: Pending) -> None:
    """What follows the commit point. pending.json goes last: while it is there, whoever comes next does this again."""
    state, kind = context.state, pending.kind
    left = str(chosen.previous["release"]) if chosen.previous else ""
    record = state.record(chosen.release) or Record(chosen.release, chosen.sha, "")
    # a rollback keeps the place in the order, so that the next one goes further back
    fence = record.confirmed_fence if kind == "rollback" and record.confirmed_fence else chosen.fence
    state.set_record(
        dataclasses.replace(record, state="confirmed", confirmed_fence=fence, deployed_at=chosen.since, reason="")
    )
    if kind == "rollback" and left != chosen.release:
        mark(context, left, "rolled_back", "rolled back by an operator")
    warm = other(chosen.colour)
    start.write_route(context, chosen.colour, fallback=may_fall_back(context, warm))
    state.append_history(
        "confirm", release=chosen.release, sha=chosen.sha, kind=kind, deploy_id=chosen.deploy_id, fence=chosen.fence
    )
    state.clear_pending()
    deadman.disarm(context.app, pending.timer)


def may_fall_back(context: Context, colour: str) -> bool:
    """Whether nginx may use a colour as fallback: a warm release that was confirmed and not left as bad."""
    name = release.resolved(context.paths, colour)
    record = context.state.record(name) if name else None
    return bool(record and record.state == "confirmed" and start.is_active(context.app, colour))


def mark(context: Context, name: str, state: str, why: str) -> None:
    """Remember what became of a release."""
    record = context.state.record(name)
    if record:
        context.state.set_record(dataclasses.replace(record, state=state, reason=why))


def revert(context: Context, why: str, bad: bool) -> dict[str, Any]:
    """Undo the pending switch, or one this very deploy has confirmed; see the verb `revert`."""
    state = context.state
    live, pending = state.live(), state.pending()
    if live and pending and committed(live, pending):
        if not context.dry_run:
            finish_confirm(context, live, pending)
        pending = None
    if pending is None:
        if live and live.previous and context.deploy_id and live.deploy_id == context.deploy_id:
            return _undo_confirm(context, live, why, bad)
        return {"reverted": False, "live": dataclasses.asdict(live) if live else None}
    if context.dry_run:
        return {"reverted": True, "live": dataclasses.asdict(live) if live else None}
    if live:
        start.write_route(context, live.colour)
    else:
        # nothing was ever confirmed: point at the colour where nothing runs, so that nginx answers "not deployed"
        start.write_route(context, other(pending.colour))
    if bad:
        mark(context, pending.release, "bad", why)
    state.clear_pending()
    deadman.disarm(context.app, pending.timer)
    state.append_history(
        "revert", release=pending.release, sha=pending.sha, why=why, deploy_id=context.deploy_id or pending.deploy_id
    )
    if live:
        processes.start_early(context, live.colour)
    return {"reverted": True, "from": pending.release, "live": dataclasses.asdict(live) if live else None}


def _undo_confirm(context: Context, live: Live, why: str, bad: bool) -> dict[str, Any]:
    """Another host could not confirm: go back to what was confirmed before this deploy."""
    before = Live(**live.previous) if live.previous else None
    if (
        before is None
        or release.resolved(context.paths, before.colour) != before.release
        or not start.is_active(context.app, before.colour)
    ):
        raise refused(
            f"{live.release} is confirmed here and the release before it is no longer warm",
            "",
            "run ansible-playbook rollback.yml",
        )
    if context.dry_run:
        return {"reverted": True, "live": dataclasses.asdict(before)}
    start.write_route(context, before.colour)
    context.state.set_live(before)
    record = context.state.record(live.release)
    if bad or (record and record.confirmed_fence == live.fence):
        mark(context, live.release, "bad" if bad else "staged", why)
    # else a rollback is undone: its target was confirmed before, and what it left is good again
    mark(context, before.release, "confirmed", "")
    context.state.append_history(
        "revert", release=live.release, sha=live.sha, why=why, deploy_id=context.deploy_id, confirmed=True
    )
    return {"reverted": True, "from": live.release, "live": dataclasses.asdict(before)}


def deadman_fired(context: Context, deploy_id: str) -> dict[str, Any]:
    """The timer's call: revert if that deploy's switch is still pending and its deadline has passed."""
    pending = context.state.pending()
    if pending is None or pending.deploy_id != deploy_id or pending.deadline.left() > 0:
        return {"reverted": False}
    live = context.state.live()
    if live and committed(live, pending):
        finish_confirm(context, live, pending)
        return {"reverted": False}
    return revert(context, "not confirmed in time", bad=False)


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
    goal = rollback_target(context, wanted)
    if context.dry_run:
        return goal
    name = str(goal["release"])
    if not goal["warm"]:
        start.start(context, name, timeout=60, warm=True, alive=1)
    moved = route_to(context, name, 100, ttl, "rollback", fresh=True)
    front = front_target(context, name)
    problem = str(call(lambda: smoke.identity(front, 5, 5)))
    if problem:
        revert(context, problem, bad=False)
        raise check_failed(
            f"{name} does not answer through nginx", problem, "the release before it serves again; see bluegreen status"
        )
    confirmed = confirm(context, name)
    processes.settle(context, str(moved["colour"]), wait=False, alive=0)
    context.say(
        f"{name} is live on this host only; the other hosts of the fleet go on as they are "
        "(ansible-playbook rollback.yml moves all)"
    )
    return {**goal, "live": confirmed["live"]}
