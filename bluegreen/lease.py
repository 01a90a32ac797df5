"""Who may change the application now.

In a fleet the register says so and each host keeps a copy that never outlives the register's; one host alone keeps the
only one. Every changing verb passes `check`; long ones renew the lease while they work (`renewing`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from bluegreen import status
from bluegreen.context import Context
from bluegreen.errors import BluegreenError, Code, Silent, bad_input, refused
from bluegreen.privileges import FORK
from bluegreen.state import Deadline, Lease, now

if TYPE_CHECKING:
    from bluegreen.register import Held, Reply

TTL = 120.0  # seconds
CAP = 6 * 3600.0  # seconds: a run that hangs and goes on renewing ends there


def held_by(context: Context, lease: dict[str, Any]) -> BluegreenError:
    """Somebody else is at work."""
    return BluegreenError(
        Code.LEASE_HELD,
        f"{lease['holder']} is at work on {context.app}: {lease['what']}",
        f"since {lease['since']}, lease {lease['deploy_id']} ends in {lease['expires_in']} s unless renewed",
        f"wait for it (-e wait=600); if it is dead: ansible-playbook unlock.yml -e lease={lease['deploy_id']}",
        {"lease": lease},
    )


def lost(context: Context, reply: Reply | None = None) -> BluegreenError:
    """The caller's lease is not its own any more."""
    held = reply.lease if reply else None
    if held and held.deploy_id != context.deploy_id and held.left > 0:
        return held_by(context, held.public())
    capped = reply is None or (held is not None and held.deploy_id == context.deploy_id)
    why = "it reached its hard cap" if capped else "it expired and was taken, given back, or broken"
    return BluegreenError(
        Code.STALE_FENCE, f"the lease {context.deploy_id} on {context.app} has ended", why, "look, then start again"
    )


def check(context: Context) -> None:
    """Refuse a call without the lease, or of an older generation. Renews a lease of which less than half is left."""
    kept = context.state.kept_lease()
    mine = kept if kept and kept.deploy_id == context.deploy_id else None
    if kept and not mine and kept.left() > 0:
        raise held_by(context, kept.public())
    check_fence(context)
    if context.dry_run or (mine and mine.left() > mine.ttl / 2):
        return
    if context.registered(context.deploy_id):
        renew_registered(context, mine)
    elif mine:
        renew_local(context, mine)


def check_fence(context: Context) -> None:
    """Refuse a call of an older generation, and accept a newer one."""
    if context.fence is not None:
        context.state.raise_fence(context.fence, keep=not context.dry_run)


def renew_local(context: Context, mine: Lease) -> None:
    """Renew the lease of a host alone, also an expired one that nobody took."""
    if mine.cap_left() <= 0:
        raise lost(context)
    at = min(Deadline.after(mine.ttl).at, mine.cap_at or float("inf"))
    context.state.set_lease(dataclasses.replace(mine, expires_at=at))


def renew_registered(context: Context, mine: Lease | None) -> None:
    """Renew at the register. Where it cannot be asked, an unexpired copy is good enough."""
    ttl = mine.ttl if mine else TTL
    begun = Deadline.after(0)
    try:
        reply = context.register.renew(context.deploy_id, ttl)
    except Silent as silent:
        if mine and mine.left() > 0:
            return
        raise Silent("the lease cannot be renewed", str(silent), "start again when the register answers") from None
    if not reply.done or reply.lease is None:
        raise lost(context, reply)
    keep(context, reply.lease, begun, ttl)


def keep(context: Context, held: Held, begun: Deadline, ttl: float) -> Lease:
    """Write this host's copy. Counted from before the register was asked: it never outlives the register's."""
    cap_at = begun.at + held.cap_left
    copy = Lease(
        held.deploy_id,
        held.holder,
        held.what,
        held.since,
        begun.boot,
        min(begun.at + ttl, cap_at),
        ttl,
        held.host,
        held.process,
        held.run_url,
        cap_at,
        held.generation,
    )
    context.state.set_lease(copy)
    return copy


@contextlib.contextmanager
def renewing(context: Context) -> Iterator[None]:
    """Renew the caller's lease beside the work of a long verb, until its cap."""
    import threading

    kept = context.state.kept_lease()
    if context.dry_run or kept is None or kept.deploy_id != context.deploy_id:
        yield
        return
    done = threading.Event()
    worker = threading.Thread(target=renew_until, args=(context, done), daemon=True)
    worker.start()
    try:
        yield
    finally:
        done.set()
        worker.join()  # a late copy must not come back after the lease was released


def renew_until(context: Context, done: Any) -> None:
    """Renew each time half of the lease is over, until `done` is set or the lease is not the caller's any more."""
    pause = 0.0
    while True:
        kept = context.state.kept_lease()
        if kept is None or kept.deploy_id != context.deploy_id or kept.expires_at >= (kept.cap_at or float("inf")):
            return
        if done.wait(max(kept.left() - kept.ttl / 2, pause)):
            return
        pause = min(5.0, kept.ttl / 10)  # after a register that did not answer
        try:
            with FORK:
                check(context)
        except Silent:
            continue
        except (BluegreenError, OSError):
            return  # the next verb is refused


def verb(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    """Take, show, release or break the lease."""
    acts = {"take": take, "release": release, "break": break_, "show": show}
    return acts[params["action"]](context, params)


def show(context: Context, params: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001  one signature for all four
    """The lease as the register has it; as this host has it where the register cannot be asked."""
    kept, error = context.state.lease(), None
    if context.config.register:
        try:
            held = context.register.look().held
        except Silent as silent:
            error = str(silent)
        else:
            return {"lease": held.public() if held else None, "error": None}
    return {"lease": kept.public() if kept else None, "error": error}


def take(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    """Take the lease, or join one's own. Nothing is changed here unless it was got."""
    if not context.deploy_id:
        raise bad_input("a lease needs a deploy_id")
    if params["ttl"] <= 0 or params["cap"] <= 0:
        raise bad_input("ttl and cap of a lease must be more than 0 seconds")
    state, registered = context.state, context.registered(context.deploy_id)
    check_fence(context)
    kept = state.lease()
    # the register does not know of a person at work on one host
    if kept and kept.deploy_id != context.deploy_id and not (registered and context.registered(kept.deploy_id)):
        raise held_by(context, kept.public())
    taken, generation, register, reached = None, 0, None, state.fence()
    if registered:
        taken, reply = take_registered(context, params)
        generation, register = reply.generation, reply.id
    elif not context.dry_run:
        begun, generation = Deadline.after(0), reached + 1
        mine = kept  # taken again by its holder: the cap stays
        cap_at = mine.cap_at if mine and mine.cap_at else begun.at + params["cap"]
        if cap_at <= begun.at:
            raise lost(context)
        taken = Lease(
            context.deploy_id,
            context.holder,
            params["what"],
            mine.since if mine else now(),
            begun.boot,
            min(begun.at + params["ttl"], cap_at),
            params["ttl"],
            context.host,
            params["process"],
            params["run_url"],
            cap_at,
            generation,
        )
        state.raise_fence(generation)  # from here on who had it before is refused, also when this lease has expired
        state.set_lease(taken)
    return {
        "lease": taken.public() if taken else None,
        "generation": generation,
        "register": register,
        "fence": reached,  # by those before
        "status": status.status(context, brief=params["brief"], ask=False),
        "machine": status.machine(context),
    }


def take_registered(context: Context, params: dict[str, Any]) -> tuple[Lease | None, Reply]:
    """Take the lease at the register, then keep a copy. Returns it and the register's reply."""
    from bluegreen.register import Wanted

    if context.dry_run:
        reply = context.register.look()
        if reply.held and reply.held.deploy_id != context.deploy_id:
            raise held_by(context, reply.held.public())
        return None, reply
    begun = Deadline.after(0)
    reply = context.register.take(
        Wanted(
            context.deploy_id,
            context.holder,
            context.host,
            params["process"] or str(os.getpid()),
            params["run_url"],
            params["what"],
            params["ttl"],
            params["cap"],
            context.state.fence(),
        )
    )
    if not reply.done or reply.lease is None:
        raise lost(context, reply)
    return keep(context, reply.lease, begun, params["ttl"]), reply


def release(context: Context, params: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001
    """Give the lease back, as far as this host is concerned."""
    kept, error, released = context.state.kept_lease(), None, False
    if context.dry_run:
        return {"released": False, "error": None}
    if context.registered(context.deploy_id):
        try:
            released = context.register.release(context.deploy_id, context.host).done
        except Silent as silent:
            error = str(silent)  # it expires
    if kept and kept.deploy_id == context.deploy_id:
        context.state.clear_lease()
        released = True
    return {"released": released, "error": error}


def break_(context: Context, params: dict[str, Any]) -> dict[str, Any]:
    """Take the lease away from whoever holds it; the generation rises, so that a holder that still lives is refused."""
    state, wanted = context.state, str(params["lease"])
    kept = state.kept_lease()
    reply = context.register.look() if context.config.register else None
    held = reply.lease if reply else None
    broken: dict[str, Any] | None = None
    if wanted and held and held.deploy_id == wanted:
        broken = held.public()
    elif wanted and kept and kept.deploy_id == wanted:
        broken = kept.public()
    if broken is None:
        other = held.public() if held and held.left > 0 else kept.public() if kept and kept.left() > 0 else None
        what = f"there is no lease {wanted} on {context.app}" if wanted else "which lease? its id must be named"
        if other is None:
            raise refused(what, "no lease is held")
        raise refused(what, f"{other['deploy_id']} is held by {other['holder']}", "name that one to break it")
    if context.dry_run:
        return {"broken": broken, "fence": state.fence()}
    fence = max(state.fence(), kept.generation if kept and kept.deploy_id == wanted else 0) + 1
    if reply:
        if held and held.deploy_id == wanted:
            reply = context.register.take_away(wanted)
        fence = max(fence, reply.generation)
    state.raise_fence(fence)
    if kept and kept.deploy_id == wanted:
        state.clear_lease()
    state.append_history("lease broken", holder=broken["holder"], lease=wanted, deploy_id=context.deploy_id)
    return {"broken": broken, "fence": fence}
