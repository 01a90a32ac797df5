"""The switch and its way back. Traffic moves by one rename; a timer undoes what nobody confirms.

    route    arm the timer → write pending.json → replace the route
    decide   the register keeps COMMIT or ABORT for the whole fleet, whoever writes first (a host alone needs none)
    confirm  write active.json (the commit point) → record, route → remove pending.json → disarm
    revert   route to active.json's colour → remove pending.json → disarm

A crash between two steps leaves a timer, or the boot-time reconcile, that finishes what was begun. Where the register
cannot be asked, the way back is provisional: pending.json stays, and the timer's service asks until it knows.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

from bluegreen import deadman, maintenance, outdated, processes, release, route, secrets, start, units
from bluegreen.config import other
from bluegreen.context import Context
from bluegreen.errors import BluegreenError, Code, Silent, check_failed, refused
from bluegreen.state import ABORT, COMMIT, Deadline, Live, Pending, Record, now

if TYPE_CHECKING:
    from bluegreen.register import Reply

ASK_AGAIN = 3.0  # seconds


def route_to(context: Context, name: str, share: int, ttl: float, kind: str, fresh: bool) -> dict[str, Any]:
    """Route `share` percent to the idle colour, which must run `name`; see the verb `route`."""
    state = context.state
    live, pending = state.live(), state.pending()
    gate = outdated.read(context) if context.registered(context.deploy_id) else None
    window = maintenance.read(context)
    if live and live.release == name and not pending and gate is None and window is None:
        return {"already_live": True, "colour": live.colour, "generation": route.current_generation(context.paths)}
    if pending:
        refuse_other_pending(context, pending, name)
    colour = other(live.colour) if live else start.idle_colour(context)
    # a fresh answer of the release itself says more than systemd does
    if release.resolved(context.paths, colour) != name or not (fresh or start.is_active(context.app, colour)):
        raise refused(
            f"{name} does not run on the {colour} colour", "", f"bluegreen start --app {context.app} --release {name}"
        )
    if share != 100:
        refuse_share(live, gate, window)
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
        # until it is confirmed, what served before stands in for it: it serves again if this is undone
        sound = live is not None and gate is None and window is None
        generation = start.prepare_route(
            context,
            live.colour if live else colour,
            share if live else 0,
            [live.colour] if live and sound else (),
        )
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
            context.effective_fence(),
            outdated=gate if gate is not None else pending.outdated if pending else None,
            maintenance=window if window is not None else pending.maintenance if pending else None,
        )
    )
    route.use(context.paths, generation)
    switched_at = time.time()
    if gate is not None:
        outdated.clear(context)
    if window is not None:
        maintenance.clear(context)
    if pending:
        deadman.disarm(context.app, pending.timer)
    state.append_history(
        "route", release=name, sha=sha, share=share, deploy_id=context.deploy_id, generation=generation
    )
    return {"colour": colour, "generation": generation, "previous": previous, "switched_at": switched_at}


def refuse_share(live: Live | None, gate: dict[str, Any] | None, window: dict[str, Any] | None) -> None:
    """Refuse a canary where no release serves that could share its visitors."""
    todo = "deploy without a canary first"
    if live is None:
        raise refused("there is no live release to share with", "", todo)
    if gate is not None:
        raise refused("this host has no release to share visitors with", outdated.sentence(gate), todo)
    if window is not None:
        raise refused("visitors meet the maintenance page", "nobody is there to share", "deploy without a canary")


def refuse_other_pending(context: Context, pending: Pending, name: str) -> None:
    """Refuse to route over a switch that is not this one: the register may have said what becomes of it."""
    foreign = context.registered(pending.deploy_id) and pending.deploy_id != context.deploy_id
    if pending.release != name or foreign or pending.decided or pending.provisional:
        raise refused(
            "another switch is pending on this host",
            f"{pending.release} since {pending.since}",
            f"bluegreen revert --app {context.app}",
        )


def extend(context: Context, ttl: float, name: str | None) -> dict[str, Any]:
    """Move the deadline of a pending switch: the controller still watches. `name`: refuse if that one is undone."""
    pending = context.state.pending()
    if name:
        require_routed(context, name)
    if not pending or pending.provisional or context.dry_run:
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


def require_routed(context: Context, name: str) -> None:
    """Refuse to go on with a release whose switch this host has undone: that says nothing about the release."""
    live, pending = context.state.live(), context.state.pending()
    there = pending and pending.release == name and not pending.provisional
    if not there and not (live and live.release == name):
        raise refused(f"the switch to {name} was undone here", "its deadline passed, or another host gave up", "")


def decide(context: Context, wanted: str, name: str, why: str, without: list[str]) -> dict[str, Any]:
    """Write what becomes of this deploy, or learn it; see the verb `decide`."""
    if not context.registered(context.deploy_id):
        return {"decision": wanted, "host": context.host, "at": now(), "first": True}
    live, pending = context.state.live(), context.state.pending()
    mine = pending if pending and pending.deploy_id == context.deploy_id else None
    confirmed = live if live and live.deploy_id == context.deploy_id else None
    # a COMMIT that this host knows of is written again: a database that failed over may have lost it
    known = confirmed is not None or (mine is not None and mine.decided == COMMIT)
    asked = wanted
    there = pending is None and live is not None and live.release == name  # nothing to switch on this host
    if wanted == COMMIT and not known and not there:
        chosen = require_pending(context, pending, name)
        if not chosen.provisional:
            require_all(context, chosen)
        if chosen.deadline.left() <= 0:
            asked = ABORT  # its time has passed: the timer says so this very moment
    if context.dry_run:
        return {"decision": wanted, "host": context.host, "at": now(), "first": False}
    leased = asked == COMMIT and not known
    reply = write_decision(context, mine or confirmed, asked, why, leased, name, without)
    row = reply.decision
    if row is None:
        held = reply.held
        raise BluegreenError(
            Code.STALE_FENCE,
            f"the lease of {context.deploy_id} has ended, so it cannot commit",
            f"{held.holder} is at work: {held.what}" if held else "it expired and was taken, given back, or broken",
            "the switch is reverted; start again",
        )
    answer = {"decision": row.decision, "host": row.host, "at": row.at, "first": reply.done, "why": row.why}
    if mine and mine.decided != row.decision:
        mine = dataclasses.replace(mine, decided=row.decision)
        context.state.set_pending(mine)
    if wanted == COMMIT and row.decision == ABORT:
        if mine:
            undo(context, mine, row.why, bad=False)
        what = "another host gave up first" if mine else f"the register says ABORT of {name}, which is confirmed here"
        todo = "" if mine else "its COMMIT was lost; deploy again"
        raise check_failed(what, f"{row.host}: {row.why or 'not confirmed in time'}", todo, answer)
    return answer


def write_decision(
    context: Context,
    of: Pending | Live | None,
    wanted: str,
    why: str,
    leased: bool,
    name: str = "",
    without: list[str] | None = None,
) -> Reply:
    """Ask the register to keep a decision about a pending or confirmed switch. Raises Silent."""
    from bluegreen.register import Decision

    return context.register.decide(
        Decision(
            of.deploy_id if of else context.deploy_id,
            wanted,
            context.host,
            why,
            (of.fence if of else 0) or context.effective_fence(),
            of.release if of else name,
            of.sha if of else "",
            of.kind if isinstance(of, Pending) else "deploy",
            without or [],
            "",
        ),
        leased,
    )


def require_pending(context: Context, pending: Pending | None, name: str) -> Pending:
    """The pending switch, if it is this deploy's and to that release."""
    if pending is None:
        what = f"no switch to {name} is pending on this host"
        raise refused(what, "its deadline passed and it was reverted", "start again")
    if pending.release != name or pending.deploy_id != context.deploy_id:
        raise refused(
            f"the pending switch is to {pending.release}",
            f"it belongs to {pending.deploy_id}",
            f"bluegreen revert --app {context.app}",
        )
    return pending


def require_all(context: Context, pending: Pending) -> None:
    """Refuse to make final what some visitors have not met."""
    # what the route says counts: a killed `route` leaves a pending switch that no visitor has met
    share = min(pending.share, routed(context, pending.colour))
    if share != 100:
        raise refused(f"only {share} % are routed to {pending.release}", "", "route 100 % first")


def routed(context: Context, colour: str) -> int:
    """The share of a colour by the route."""
    return route.shares(route.read(context.paths), context.paths)[colour]


def confirm(context: Context, name: str) -> dict[str, Any]:
    """Make the pending switch to `name` final; see the verb `confirm`."""
    live, pending = context.state.live(), context.state.pending()
    if pending is None and live and live.release == name:
        return {"live": dataclasses.asdict(live), "changed": False}
    pending = require_pending(context, pending, name)
    if not committed(live, pending):
        if not context.registered(pending.deploy_id):
            require_all(context, pending)
        elif pending.decided != COMMIT:
            require_commit(context, pending)
    if context.dry_run:
        return {"changed": True}
    return {"live": dataclasses.asdict(finish(context, pending)), "changed": True}


def require_commit(context: Context, pending: Pending) -> None:
    """Refuse to confirm what the register did not commit."""
    row = context.register.look(pending.deploy_id).decision
    if row is None:
        raise refused(f"{pending.deploy_id} is not decided", "", "bluegreen decide comes first")
    if row.decision != COMMIT:
        raise refused(f"{row.host} gave up {pending.deploy_id} first", row.why, f"bluegreen revert --app {context.app}")


def committed(live: Live | None, pending: Pending) -> bool:
    """Whether the commit point of a pending switch was reached, and a crash came before the rest."""
    return live is not None and (live.deploy_id, live.release) == (pending.deploy_id, pending.release)


def finish(context: Context, pending: Pending, wait: float = 60.0) -> Live:
    """Confirm, whatever a crash or a provisional revert left to do. Waits up to `wait` seconds for a stopped colour."""
    live = context.state.live()
    if live is None or not committed(live, pending):
        go_forward(context, pending, wait)
        live = make_live(context, live, pending)
    finish_confirm(context, live, pending)
    return live


def make_live(context: Context, before: Live | None, pending: Pending) -> Live:
    """The commit point: what is pending becomes what is confirmed here."""
    previous = {**dataclasses.asdict(before), "previous": None} if before else None
    fence = pending.fence or context.effective_fence()
    chosen = Live(pending.colour, pending.release, pending.sha, pending.deploy_id, fence, now(), previous)
    context.state.set_live(chosen)
    return chosen


def go_forward(context: Context, pending: Pending, wait: float) -> None:
    """Route everything to a switch that is decided, where that is not so. The colour must hold and run the release."""
    colour, name = pending.colour, pending.release
    if release.resolved(context.paths, colour) != name or not release.complete(context.paths, name):
        raise check_failed(
            f"{name} was committed, but {colour} does not hold it any more", "", "deploy the fleet's release again"
        )
    if not pending.provisional and routed(context, colour) == 100:
        return
    if wait and not start.is_active(context.app, colour):
        unit, begun = units.web_unit(context.app, colour), time.time()
        units.systemctl("reset-failed", unit, check=False)
        units.systemctl("start", "--no-block", unit)
        start.wait_for_unit(unit, begun, time.monotonic() + wait)
    maintenance.clear(context)
    start.write_route(context, colour)


def finish_confirm(context: Context, chosen: Live, pending: Pending) -> None:
    """What follows the commit point. pending.json goes last: while it is there, whoever comes next does this again."""
    state, kind = context.state, pending.kind
    left = str(chosen.previous["release"]) if chosen.previous else ""
    record = state.record(chosen.release) or Record(chosen.release, chosen.sha, "")
    # a rollback keeps the place in the order, so that the next one goes further back
    fence = record.confirmed_fence if kind == "rollback" and record.confirmed_fence else chosen.fence
    state.set_record(
        dataclasses.replace(
            record, state="confirmed", confirmed_fence=fence, deployed_at=chosen.since, reason="", cold=False
        )
    )
    if kind == "rollback" and left != chosen.release:
        mark(context, left, "rolled_back", "rolled back by an operator")
    warm = other(chosen.colour)
    maintenance.clear(context)
    if pending.maintenance is not None:
        let_go(context)  # what needed the window has left older releases behind
    start.write_route(context, chosen.colour, stand_ins=stand_ins(context, warm))
    state.append_history(
        "confirm", release=chosen.release, sha=chosen.sha, kind=kind, deploy_id=chosen.deploy_id, fence=chosen.fence
    )
    # one that a resume confirmed without a running colour serves nothing until it runs
    held = context.registered(pending.deploy_id) and outdated.read(context) is not None
    if held and start.is_active(context.app, chosen.colour):
        outdated.clear(context)
    state.clear_pending()
    deadman.disarm(context.app, pending.timer)


def stand_ins(context: Context, colour: str) -> list[str]:
    """The colour, if nginx may fall back to it: a warm release that was confirmed and not left as bad."""
    name = release.resolved(context.paths, colour)
    record = context.state.record(name) if name else None
    sound = record and record.state == "confirmed" and not record.cold and start.is_active(context.app, colour)
    return [colour] if sound else []


def let_go(context: Context) -> None:
    """Keep no release but the live one warm from now on, and never fall back to one: the schema leaves them behind."""
    live = context.state.live()
    for record in context.state.records():
        if record.state == "confirmed" and not record.cold and not (live and record.id == live.release):
            context.state.set_record(dataclasses.replace(record, cold=True))


def mark(context: Context, name: str, state: str, why: str) -> None:
    """Remember what became of a release."""
    record = context.state.record(name)
    if record:
        context.state.set_record(dataclasses.replace(record, state=state, reason=why))


def revert(context: Context, why: str, bad: bool) -> dict[str, Any]:
    """Undo the pending switch, unless it was decided otherwise; see the verb `revert`."""
    live, pending = context.state.live(), context.state.pending()
    shown = dataclasses.asdict(live) if live else None
    if pending is None:
        decided = COMMIT if live and live.deploy_id == context.deploy_id else None
        return {"reverted": False, "live": shown, "decided": decided}
    if context.dry_run:
        return {"reverted": not committed(live, pending), "live": shown}
    try:
        return follow(context, pending, why, bad)
    except Silent as silent:
        go_back_provisionally(context, pending, why, bad, ask=True)
        shown = {"provisional": True, "live": shown, "why": str(silent)}
        return {"reverted": True, "decided": None, "from": pending.release, **shown}


def follow(context: Context, pending: Pending, why: str, bad: bool, wait: float = 60.0) -> dict[str, Any]:
    """Do what was decided about a pending switch: ABORT if nothing was. Raises Silent."""
    live = context.state.live()
    decision = resolve(context, live, pending, why)
    if decision == COMMIT:
        live = finish(context, pending, wait)
    else:
        undo(context, pending, pending.why or why, bad or pending.bad)
    shown = {"decided": decision, "live": dataclasses.asdict(live) if live else None}
    return {"reverted": decision == ABORT, "from": pending.release, **shown}


def resolve(context: Context, live: Live | None, pending: Pending, why: str) -> str:
    """COMMIT or ABORT: this host's commit point says, or the register, where ABORT is the answer to nothing.

    Raises Silent.
    """
    if committed(live, pending):
        return COMMIT
    if not context.registered(pending.deploy_id):
        return ABORT
    if not pending.decided:
        row = write_decision(context, pending, ABORT, why, leased=False).decision
        if row is None:
            raise Silent("the register keeps no decision", "its tables are damaged", "look at its database")
        if row.decision == COMMIT:
            # should the register fall silent now: it was said
            context.state.set_pending(dataclasses.replace(pending, decided=COMMIT))
        return row.decision
    return pending.decided


def route_back(context: Context, live: Live | None, pending: Pending) -> None:
    """Route everything to what was confirmed."""
    if pending.outdated is not None:
        outdated.mark(context, pending.outdated)  # nobody meets the release that the fleet has left
    if pending.maintenance is not None:
        maintenance.mark(context, pending.maintenance)  # the release before may not fit the schema any more
    # nothing was ever confirmed: point at the colour where nothing runs, so that nginx answers "not deployed"
    start.write_route(context, live.colour if live else other(pending.colour))


def undo(context: Context, pending: Pending, why: str, bad: bool) -> None:
    """Go back to what was confirmed, for good."""
    state, live = context.state, context.state.live()
    route_back(context, live, pending)
    if bad:
        mark(context, pending.release, "bad", why)
    state.clear_pending()
    deadman.disarm(context.app, pending.timer)
    deploy_id = context.deploy_id or pending.deploy_id
    state.append_history("revert", release=pending.release, sha=pending.sha, why=why, bad=bad, deploy_id=deploy_id)
    if live and maintenance.read(context) is None:
        processes.start_early(context, live.colour)


def go_back_provisionally(context: Context, pending: Pending, why: str, bad: bool, ask: bool) -> None:
    """Go back while the register cannot be asked, and go on asking. `ask`: a timer does, this call does not."""
    state, live = context.state, context.state.live()
    timer = pending.timer
    if ask:
        timer, armed = deadman.arm(context.app, pending.deploy_id, ASK_AGAIN)
        armed()
    if not pending.provisional or routed(context, pending.colour):
        route_back(context, live, pending)
    if not pending.provisional:
        state.append_history("revert", release=pending.release, why=why, provisional=True, deploy_id=pending.deploy_id)
    state.set_pending(
        dataclasses.replace(pending, timer=timer, provisional=True, why=pending.why or why, bad=bad or pending.bad)
    )
    if ask:
        deadman.disarm(context.app, pending.timer)
    if live and maintenance.read(context) is None:
        processes.start_early(context, live.colour)


def deadman_fired(context: Context, deploy_id: str) -> dict[str, Any]:
    """The timer's call: do what was decided about a deploy's switch whose deadline has passed.

    Raises Silent after a provisional revert: systemd then calls again.
    """
    pending = context.state.pending()
    if pending is None or pending.deploy_id != deploy_id or (pending.deadline.left() > 0 and not pending.provisional):
        return {"reverted": False}
    why = "not confirmed in time"
    try:
        return follow(context, pending, why, bad=False)
    except Silent:
        go_back_provisionally(context, pending, why, bad=False, ask=False)
        raise


def confirm_unserved(context: Context, pending: Pending, problem: BluegreenError) -> None:
    """Confirm what was committed though its release does not come up here: the fleet has left the one before.

    The host serves nothing until the run that asks has brought it up to date.
    """
    outdated.mark(context, {"why": secrets.told(context.paths, str(problem))})
    finish_confirm(context, make_live(context, context.state.live(), pending), pending)


def resume(context: Context) -> dict[str, Any]:
    """Finish or undo what an earlier run left pending; see the verb `resume`."""
    pending = context.state.pending()
    answer: dict[str, Any] = {"finished": None, "undone": None, "sha": None, "deploy_id": None}
    if pending is None or pending.deploy_id == context.deploy_id:
        return answer
    answer |= {"sha": pending.sha, "deploy_id": pending.deploy_id}
    if context.dry_run:
        return answer
    why = f"{context.deploy_id} began before it was confirmed"
    try:
        told = follow(context, pending, why, bad=False)
    except BluegreenError as problem:
        if problem.code is not Code.CHECK_FAILED:
            raise
        confirm_unserved(context, pending, problem)
        told = {"reverted": False}
    return answer | {"undone" if told["reverted"] else "finished": pending.release}
