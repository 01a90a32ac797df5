"""What this host is doing, and where it differs from what it should be doing."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import Any

from bluegreen import deadman, images, processes, release, route, start, units
from bluegreen.config import COLOURS, SLOTS, other
from bluegreen.context import Context
from bluegreen.state import Live, Pending


def expected_slots(live: Live | None, pending: Pending | None) -> dict[str, int] | None:
    """The share each colour should have; None before the first deploy."""
    if pending:
        return {pending.colour: pending.share, other(pending.colour): 100 - pending.share}
    return {live.colour: 100, other(live.colour): 0} if live else None


def find_drift(
    context: Context, live: Live | None, pending: Pending | None, active: dict[str, bool], rows: list[dict[str, Any]]
) -> list[str]:
    """What is not as this host's state says, one sentence each."""
    paths = context.paths
    found = []
    content = route.read(paths)
    wanted = expected_slots(live, pending)
    shares = route.shares(content, paths)
    if wanted is not None and shares != wanted:
        found.append(f"the route gives blue {shares['blue']} % and green {shares['green']} %, expected {wanted}")
    if content is not None and len(content) != 4 * SLOTS + 1:
        found.append(f"the route has {len(content)} links instead of {4 * SLOTS + 1}")
    if live:
        if not active[live.colour]:
            found.append(f"{units.web_unit(context.app, live.colour)} is not running")
        if release.resolved(paths, live.colour) != live.release:
            held = release.resolved(paths, live.colour)
            found.append(f"{paths.colour(live.colour)} points at {held}, not at the live release {live.release}")
        elif not release.complete(paths, live.release):
            found.append(f"the live release {live.release} is not complete on disk")
        elif not images.is_open(paths.images / release.image_of(paths, live.release)):
            found.append(f"the image of {live.release} is not mounted")
        if not pending:
            found += [
                f"{row['unit']} is not running" for row in rows if row["colour"] == live.colour and not row["active"]
            ]
    if pending and not deadman.timers(context.app):
        found.append("a switch is pending without a dead-man's timer")
    return found


def status(context: Context, brief: bool = False) -> dict[str, Any]:
    """The answer of the verb `status`. `brief` leaves out the background processes."""
    state, paths = context.state, context.paths
    live, pending, lease = state.live(), state.pending(), state.lease()
    web = {colour: units.web_unit(context.app, colour) for colour in COLOURS}
    found = units.properties(list(web.values()), ["ActiveState"])
    active = {colour: found[unit].get("ActiveState") == "active" for colour, unit in web.items()}
    rows = [] if brief else processes.state(context)
    idle = start.idle_colour(context)
    idle_release = release.resolved(paths, idle)
    releases = []
    for record in state.records():
        here = release.complete(paths, record.id)
        releases.append({**dataclasses.asdict(record), "complete": here})
    return {
        "app": context.app,
        "host": context.config.host,
        "live": {
            "colour": live.colour,
            "release": live.release,
            "sha": live.sha,
            "since": live.since,
            "fence": live.fence,
        }
        if live
        else None,
        "idle": {
            "colour": idle,
            "release": idle_release,
            "sha": next((record["sha"] for record in releases if record["id"] == idle_release), None),
            "running": active[idle],
        },
        "share": route.shares(route.read(paths), paths),
        "releases": releases,
        "pending": {**dataclasses.asdict(pending), "expires_in": round(pending.deadline.left(), 1)}
        if pending
        else None,
        "lease": lease.public() if lease else None,
        "fence": state.fence(),
        "drift": find_drift(context, live, pending, active, rows),
        "processes": rows,
    }


def machine(context: Context) -> dict[str, Any]:
    """What preflight wants to know of the machine."""
    stats = os.statvfs(context.paths.images)
    memory = {}
    with open("/proc/meminfo", encoding="ascii") as stream:
        for line in stream:
            name, _, rest = line.partition(":")
            memory[name] = int(rest.split()[0])
    return {
        "free_mb": stats.f_bavail * stats.f_frsize >> 20,
        "free_inodes_pct": round(100 * stats.f_favail / stats.f_files) if stats.f_files else 100,
        "time": time.time(),
        "pythons": sorted(images.host_pythons()),
        "arch": os.uname().machine,
        "glibc": images.host_glibc(),
        "mem_available_mb": memory.get("MemAvailable", 0) >> 10,
    }
