"""Start the idle colour with a release, wait until it answers, warm it. Traffic is not touched."""

from __future__ import annotations

import time
from collections.abc import Container
from typing import Any

from bluegreen import (
    files,
    images,
    inflight,
    maintenance,
    outdated,
    privileges,
    processes,
    release,
    route,
    secrets,
    smoke,
    units,
    web,
)
from bluegreen.config import COLOURS, other
from bluegreen.context import Context
from bluegreen.errors import check_failed, refused

POLL = 0.05


def idle_colour(context: Context) -> str:
    """The colour that does not serve."""
    live = context.state.live()
    return other(live.colour) if live else "blue"


def colour_of(context: Context, name: str) -> str | None:
    """The colour that holds a release, the one that serves first."""
    live = context.state.live()
    ordered = (live.colour, other(live.colour)) if live else COLOURS
    if outdated.read(context) is not None:
        ordered = (ordered[1], ordered[0])  # nothing of the live one runs
    return next((colour for colour in ordered if release.resolved(context.paths, colour) == name), None)


def is_active(app: str, colour: str) -> bool:
    """Whether the colour's web unit runs."""
    return units.state_of(units.web_unit(app, colour)) == "active"


def target(context: Context, colour: str, name: str) -> smoke.Target:
    """A colour's socket as checks see it."""
    static_root = str((context.paths.releases / name / "static").resolve())
    static_url = str(release.config_of(context.paths, name).get("static_url") or "/static/")
    return smoke.Target(web.Where(str(context.paths.socket(colour))), context.visitor(), name, static_url, static_root)


def answers(context: Context, colour: str, name: str, timeout: float) -> str:
    """Ask a colour once more, freshly, whether it is `name`. Returns what is wrong."""
    where = target(context, colour, name)
    return str(privileges.call(lambda: smoke.identity(where, 1, timeout)))


def held(context: Context) -> dict[str, str]:
    """The complete release that each colour holds."""
    names = {colour: release.resolved(context.paths, colour) for colour in COLOURS}
    return {colour: name for colour, name in names.items() if name and release.complete(context.paths, name)}


def statics(context: Context) -> dict[str, str]:
    """Each colour's directory of unhashed static files."""
    return {colour: str(context.paths.releases / name / "static") for colour, name in held(context).items()}


def websockets(context: Context) -> list[str]:
    """The colours with a socket for websockets alone: those whose release serves ASGI."""
    return [colour for colour, name in held(context).items() if release.config_of(context.paths, name).get("asgi")]


def prepare_route(context: Context, live: str, share: int = 0, stand_ins: Container[str] = ()) -> str:
    """Make a generation from the colours' releases. `share` goes to the colour that is not `live`.

    In a maintenance window it is the page's, unless something is shared: a switch ends the window.
    """
    return route.prepare(context.paths, wanted_links(context, live, share, stand_ins))


def wanted_links(context: Context, live: str, share: int, stand_ins: Container[str]) -> dict[str, str]:
    """The content of the generation that `prepare_route` makes."""
    if not share and maintenance.read(context) is not None:
        return route.page_links(context.paths, live, statics(context), context.state.directory / maintenance.NAME)
    return route.links(context.paths, live, share, statics(context), stand_ins, websockets(context))


def write_route(context: Context, live: str, share: int = 0, stand_ins: Container[str] = ()) -> str:
    """Make a route from the colours' releases, and follow it."""
    return route.write(context.paths, wanted_links(context, live, share, stand_ins))


def drain(context: Context, colour: str, ceiling: float) -> dict[str, int]:
    """Wait until nothing is in flight on a colour. Returns what is left: {requests, websockets}.

    Requests get `ceiling` seconds, websockets their own patience: they seldom end by themselves.
    """
    paths, begun = context.paths, time.monotonic()
    left = inflight.wait_idle(lambda: inflight.sample(str(paths.socket(colour))), ceiling)
    patience = min(ceiling, context.config.websocket_patience) - (time.monotonic() - begun)
    own = paths.websocket(colour)
    stay = inflight.wait_idle(lambda: inflight.sample(str(own)), patience) if own.exists() else 0
    return {"requests": left, "websockets": stay}


def stop_colour(context: Context, colour: str, ceiling: float) -> dict[str, int]:
    """Stop a colour and its processes once nothing is in flight on it. Returns what was cut off, as `drain` does."""
    left = {"requests": 0, "websockets": 0}
    if is_active(context.app, colour):
        left = drain(context, colour, ceiling)
    processes.stop(context, colour, wait=True)
    units.systemctl("stop", units.web_unit(context.app, colour), timeout=300)
    units.systemctl("reset-failed", units.web_unit(context.app, colour), check=False)
    return left


def wait_for_unit(unit: str, since: float, deadline: float) -> None:
    """Wait until a unit is active. Raises with its words since `since` when it fails or the deadline passes."""
    while True:
        values = units.properties([unit], ["ActiveState", "SubState", "Result", "NRestarts"])[unit]
        if values.get("ActiveState") == "active":
            return
        died = (
            values.get("ActiveState") == "failed"
            or values.get("SubState") == "auto-restart"
            or int(values.get("NRestarts") or 0) > 0
        )
        late = time.monotonic() > deadline
        if died or late:
            words = units.journal(unit, since, 30)
            what = f"{unit} did not start" if died else f"{unit} was not ready in time"
            raise check_failed(what, reason(words), f"journalctl -u {unit}", {"output": words})
        time.sleep(POLL)


def reason(words: list[str]) -> str:
    """The line of a log that most likely says why: the last one that looks like an error."""
    candidates = [line for line in words if "Error" in line or "error" in line or "Exception" in line]
    return (candidates or words or ["it said nothing"])[-1].strip()


def start(context: Context, name: str, timeout: float, warm: bool, alive: float) -> dict[str, Any]:
    """Start the idle colour with release `name`; see the verb `start`."""
    paths, state = context.paths, context.state
    settings = release.config_of(paths, name)
    if state.pending():
        raise refused(
            "a switch is pending on this host", "", f"bluegreen revert --app {context.app}, or wait for its deadline"
        )
    background = release.parse_processes(settings.get("processes") or {})
    processes.check_schedules(background)
    live = state.live()
    # a host that serves nothing gets even the release it has as a switch, which can be undone
    colour = live.colour if live and live.release == name and outdated.read(context) is None else idle_colour(context)
    if context.dry_run:
        return {"colour": colour, "release": name}
    started, begun = time.monotonic(), time.time()
    images.require_open(paths, context.config, release.image_of(paths, name))
    secrets.require(paths, name, context.key)
    unit = units.web_unit(context.app, colour)
    already = release.resolved(paths, colour) == name and is_active(context.app, colour)
    cut = None
    if live and colour != live.colour:
        # nginx must not fall back to a colour that is about to change
        write_route(context, live.colour)
    if not already:
        if colour != (live.colour if live else None):
            cut = stop_colour(context, colour, context.config.drain_ceiling)
        files.replace_symlink(paths.colour(colour), f"releases/{name}")
        if processes.sync(paths, colour, background) or processes.unread(context.app, colour, background):
            units.systemctl("daemon-reload")
        units.systemctl("reset-failed", unit, check=False)
        units.systemctl("start", "--no-block", unit)
    try:
        early = processes.start_early(context, colour)
        deadline = time.monotonic() + timeout
        wait_for_unit(unit, begun, deadline)
        problem = answers(context, colour, name, max(1.0, deadline - time.monotonic()))
        if problem:
            raise check_failed(
                f"the {colour} colour of {context.app} does not answer", problem, f"journalctl -u {unit}"
            )
        warmed = 0
        if warm and not already:
            where = target(context, colour, name)
            wanted = release.checks_of(paths, name).get("warm") or []
            times = int(settings.get("workers") or 2) * 4
            warmed = privileges.call(lambda: smoke.warm(where, wanted, times))
        processes.stay_alive(early, alive)
    except BaseException:
        if live is None or colour != live.colour:
            abandon(context)
        raise
    return {
        "colour": colour,
        "release": name,
        "already_running": already,
        "cut": cut,
        "warmed": warmed,
        "seconds": round(time.monotonic() - started, 2),
    }


def abandon(context: Context) -> dict[str, Any]:
    """Give up what was started on the idle colour, and make the release before the live one warm again there.

    Without the second half a failed deploy would cost the next rollback its speed.
    """
    live, state, paths = context.state.live(), context.state, context.paths
    if state.pending():
        raise refused("a switch is pending on this host", "", f"bluegreen revert --app {context.app}")
    colour = idle_colour(context)
    name = release.resolved(paths, colour)
    record = state.record(name) if name else None
    if context.dry_run or name is None or (record and record.state == "confirmed" and is_active(context.app, colour)):
        return {"abandoned": None, "warming": None}
    # after a revert it may still answer somebody
    stop_colour(context, colour, context.config.drain_ceiling)
    before = live.previous if live else None
    warming = str(before["release"]) if before and release.complete(paths, str(before["release"])) else None
    if maintenance.read(context) is not None:
        warming = None  # nothing of the application runs in a window
    if warming and (known := state.record(warming)) and known.state == "confirmed" and not known.cold:
        files.replace_symlink(paths.colour(colour), f"releases/{warming}")
        if processes.sync(paths, colour, release.processes_of(paths, warming)):
            units.systemctl("daemon-reload")
        units.systemctl("start", "--no-block", units.web_unit(context.app, colour))
        if live and outdated.read(context) is None:
            write_route(context, live.colour, stand_ins=[colour])
    state.append_history("abandon", release=name, warming=warming, deploy_id=context.deploy_id)
    return {"abandoned": name, "warming": warming}
