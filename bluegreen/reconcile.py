"""Make the host what its state says: after a boot, before nginx; after a crash; or when somebody edited something."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from typing import TYPE_CHECKING, Any

from bluegreen import (
    deadman,
    files,
    images,
    maintenance,
    outdated,
    processes,
    prune,
    release,
    route,
    start,
    switch,
    units,
)
from bluegreen.config import COLOURS, other
from bluegreen.context import Context
from bluegreen.errors import BluegreenError, Silent
from bluegreen.state import Live, Pending

if TYPE_CHECKING:
    from bluegreen.register import Reply

PATIENCE = 5.0  # seconds for the registers of all applications together: nginx waits for this
PAUSE = 0.5
waited = 0.0  # seconds spent on registers that did not answer


def prepare_directories(context: Context) -> None:
    """The directories that a boot clears, and those that links may name."""
    run = context.paths.run
    if not run.is_dir():
        units.run(("systemd-tmpfiles", "--create", "--prefix=/run/bluegreen"), check=False)
    run.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(LookupError):
        shutil.chown(run, context.config.user, context.config.user)
    run.chmod(0o2750)
    for directory in (context.paths.state / "empty", context.paths.routes, context.paths.records):
        directory.mkdir(exist_ok=True)


def open_images(context: Context) -> list[str]:
    """Open the images of both colours first, then all others. Returns the problems met."""
    paths = context.paths
    urgent = [
        release.image_of(paths, name)
        for colour in COLOURS
        if (name := release.resolved(paths, colour)) and release.complete(paths, name)
    ]
    problems = []
    for name in dict.fromkeys(urgent + images.staged(paths)):
        try:
            images.require_open(paths, context.config, name)
        except BluegreenError as problem:
            problems.append(str(problem))
    return problems


def reconcile(context: Context, wait: float) -> dict[str, Any]:
    """Finish or undo what was begun, open the images, correct the route, start what should run.

    Waits at most `wait` seconds for the live colour to answer.
    """
    paths, state = context.paths, context.state
    if context.dry_run:
        return {"would": "finish or undo what was begun"}
    done: list[str] = []
    prepare_directories(context)
    done += [f"removed {name}" for name in prune.sweep(context)]
    problems = open_images(context)
    try:
        live, pending = state.live(), state.pending()
        state.fence()
    except BluegreenError:
        serve_route(context)
        raise
    reply, silence = ask(context, live, pending)
    # at boot nginx waits for this program, and nobody meets a colour that only starts
    done += settle_pending(context, live, pending, silence, wait if pending and outdated.nginx_runs() else 0)
    live, pending = state.live(), state.pending()
    if not pending and reply:
        done += gate(context, live, reply)
    known = outdated.read(context)
    if silence and not pending and known is None:
        done.append(f"serving what is confirmed here: {silence}")
    if known is not None:
        outdated.mark(context, known)  # a boot cleared the flag
        done.append(outdated.sentence(known))
    elif live and (not pending or pending.provisional):
        page = maintenance.read(context) is not None
        done += serve_page(context, live) if page else serve_live(context, live, wait)
    elif live is None and not pending and route.read(paths) is None:
        start.write_route(context, "blue")
        done.append("made the first route")
    if done:
        state.append_history("reconcile", done=done)
    register = (str(silence) if silence else "answers") if reply or silence else None
    return {"done": done, "problems": problems, "changed": bool(done), "outdated": known, "register": register}


def ask(context: Context, live: Live | None, pending: Pending | None) -> tuple[Reply | None, Silent | None]:
    """What the register knows, where that matters here; or why it does not say. The network may just be coming up."""
    global waited  # noqa: PLW0603  a boot reconciles several applications, and nginx waits for all
    if not context.config.register or (live is None and pending is None):
        return None, None
    if pending and pending.deadline.left() > 0 and not pending.provisional:
        return None, None  # somebody is at work
    begun = time.monotonic()
    while True:
        left = PATIENCE - waited - (time.monotonic() - begun)
        try:
            context.register.patience = max(PAUSE, left)
            return context.register.look(), None
        except Silent as silent:
            if left <= PAUSE:
                waited += time.monotonic() - begun
                return None, silent
            time.sleep(PAUSE)


def gate(context: Context, live: Live | None, reply: Reply) -> list[str]:
    """Serve nothing while the fleet has a newer release; serve again when it has not."""
    if live and reply.latest and outdated.newer(live, reply.latest):
        latest = reply.latest
        outdated.mark(context, {"live": live.sha, "sha": latest.sha, "release": latest.release, "at": latest.at})
    elif outdated.read(context) is not None:
        outdated.clear(context)
        return ["serving again: the release here is the fleet's"]
    return []


def serve_live(context: Context, live: Live, wait: float) -> list[str]:
    """Start what should run, and route everything to the live colour."""
    paths, done = context.paths, []
    if release.resolved(paths, live.colour) != live.release and release.complete(paths, live.release):
        files.replace_symlink(paths.colour(live.colour), f"releases/{live.release}")
        done.append(f"pointed {live.colour} at {live.release} again")
    done += start_live(context, live.colour, wait)
    warm = other(live.colour)
    if _start_warm(context, warm):
        done.append(f"started the warm {warm} colour")
    stand_ins = switch.stand_ins(context, warm)
    content = route.read(paths)
    if content != start.wanted_links(context, live.colour, 0, stand_ins):
        start.write_route(context, live.colour, 0, stand_ins)
        done.append(f"routed everything to {live.colour} again")
    return done


def serve_page(context: Context, live: Live) -> list[str]:
    """A maintenance window is open: nothing runs, and which release fits the schema is not for this host to say."""
    if route.read(context.paths) == start.wanted_links(context, live.colour, 0, ()):
        return []
    start.write_route(context, live.colour)
    return ["routed everything to the maintenance page again"]


def settle_pending(
    context: Context, live: Live | None, pending: Pending | None, silence: BluegreenError | None, wait: float
) -> list[str]:
    """Finish or undo a switch whose time has passed, and see that there is a timer exactly while one is pending.

    A colour that was committed and does not run gets `wait` seconds to come up before visitors are sent there.
    """
    done = []
    why = "the host restarted or the deadline passed before it was confirmed"
    if pending and (switch.committed(live, pending) or pending.deadline.left() <= 0 or pending.provisional):
        try:
            asks = context.registered(pending.deploy_id) and not pending.decided
            if silence and asks and not switch.committed(live, pending):
                raise silence
            told = switch.follow(context, pending, why, bad=False, wait=wait)
            what = "reverted the unconfirmed switch to" if told["reverted"] else "finished the confirmation of"
            done.append(f"{what} {pending.release}")
        except BluegreenError as problem:
            switch.go_back_provisionally(context, pending, why, bad=False, ask=True)
            done.append(f"reverted the switch to {pending.release} provisionally: {problem}")
    pending, armed = context.state.pending(), deadman.watching(context.app)
    if pending and not armed:
        timer, running = deadman.arm(context.app, pending.deploy_id, pending.deadline.left())
        running()
        context.state.set_pending(dataclasses.replace(pending, timer=timer))
        done.append("armed the dead-man's timer again")
    if armed and not pending:
        deadman.disarm(context.app)  # of a call that was killed between arming and its switch
    return done


def serve_route(context: Context) -> None:
    """Start what the route names: the state is damaged and nothing is guessed, but visitors are served as before."""
    shares = route.shares(route.read(context.paths), context.paths)
    for colour, share in shares.items():
        if share and not start.is_active(context.app, colour):
            units.systemctl("start", "--no-block", units.web_unit(context.app, colour), check=False)


def start_live(context: Context, colour: str, wait: float) -> list[str]:
    """Start the live colour and its processes, and wait until it answers."""
    unit = units.web_unit(context.app, colour)
    done = []
    if processes.sync(context.paths, colour, processes.of_colour(context.paths, colour)):
        units.systemctl("daemon-reload")
    if not start.is_active(context.app, colour):
        units.systemctl("reset-failed", unit, check=False)
        units.systemctl("start", "--no-block", unit)
        done.append(f"started {unit}")
    if processes.start_units(processes.belonging(context, colour)):
        done.append(f"started the processes of {colour}")
    deadline = time.monotonic() + wait
    while done and not start.is_active(context.app, colour) and time.monotonic() < deadline:
        time.sleep(start.POLL)
    return done


def _start_warm(context: Context, colour: str) -> bool:
    """Start the release before, so that a rollback stays instant. Never waits, never a bad one."""
    name = release.resolved(context.paths, colour)
    record = context.state.record(name) if name else None
    if (
        not name
        or not record
        or record.state != "confirmed"
        or record.cold
        or not release.complete(context.paths, name)
        or start.is_active(context.app, colour)
    ):
        return False
    units.systemctl("start", "--no-block", units.web_unit(context.app, colour))
    return True
