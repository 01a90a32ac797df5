"""What this host is doing, and where it differs from what it should be doing."""

from __future__ import annotations

import dataclasses
import os
import time
from typing import TYPE_CHECKING, Any

from bluegreen import deadman, images, maintenance, outdated, processes, release, route, secrets, start, units
from bluegreen.config import COLOURS, SLOTS, other
from bluegreen.context import Context
from bluegreen.errors import Silent
from bluegreen.state import COMMIT, Live, Pending

if TYPE_CHECKING:
    from bluegreen.register import Reply

RECONCILE = "bluegreen-reconcile.service"


def expected_slots(live: Live | None, pending: Pending | None) -> dict[str, int] | None:
    """The share each colour should have; None before the first deploy."""
    if pending and not pending.provisional:
        return {pending.colour: pending.share, other(pending.colour): 100 - pending.share}
    if live:
        return {live.colour: 100, other(live.colour): 0}
    return {pending.colour: 0, other(pending.colour): 100} if pending else None


def find_drift(
    context: Context, live: Live | None, pending: Pending | None, active: dict[str, bool], rows: list[dict[str, Any]]
) -> list[str]:
    """What is not as this host's state says, one sentence each."""
    paths = context.paths
    if closed := closed_drift(context, pending):
        return [closed]
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
    if pending and not deadman.watching(context.app):
        found.append("a switch is pending without a dead-man's timer")
    if pending and pending.provisional:
        found.append(f"the switch to {pending.sha[:12]} was reverted provisionally: the register could not be asked")
    return found


def closed_drift(context: Context, pending: Pending | None) -> str:
    """Why nothing of the application should run here; empty if it should."""
    known, window = outdated.read(context), maintenance.read(context)
    if known is not None:
        return outdated.sentence(known)
    return maintenance.sentence(window) if window is not None and not pending else ""


def held(context: Context) -> list[str]:
    """The complete releases that the colours hold."""
    return sorted(set(start.held(context).values()))


def image_drift(context: Context) -> list[str]:
    """The images of both colours whose bytes are not those of their manifests. Reads the whole files."""
    found = []
    for name in held(context):
        image = release.image_of(context.paths, name)
        manifest = images.manifest_of(context.paths, image)
        path = context.paths.images / f"{image}.squashfs"
        if manifest is None or not path.is_file():
            found.append(f"{path} is missing or has no manifest")
        elif images.digest(path) != manifest["image"]["sha256"]:
            found.append(f"{path} is not what was staged: its sha256 differs from the manifest's")
    return found


def secrets_drift(context: Context) -> list[str]:
    """What the releases of both colours would lack when they start again."""
    found = []
    for name in held(context):
        if secrets.kept(context.paths.releases / name) and (gone := secrets.lost(context.paths, name, context.key)):
            found.append(
                f"{name} cannot start again without {', '.join(gone)}: deploy its sha again, that restores them"
            )
    return found


def register_drift(live: Live | None, reply: Reply, pending: Pending | None, known: dict[str, Any] | None) -> list[str]:
    """Where this host differs from what the fleet decided."""
    found = []
    if live and reply.decision and reply.decision.decision != COMMIT:
        found.append(f"the register says ABORT of {live.sha[:12]}, which is confirmed here: a COMMIT was lost")
    if live and reply.latest and not pending and known is None and reply.latest.release != live.release:
        found.append(f"serves {live.sha[:12]}; the fleet's release is {reply.latest.sha[:12]}")
    return found


def ask_register(
    context: Context, live: Live | None, pending: Pending | None
) -> tuple[dict[str, Any] | None, list[str]]:
    """The register as `status` shows it, and the drift that it shows."""
    if not context.config.register:
        return None, []
    try:
        reply = context.register.look(live.deploy_id if live else "")
    except Silent as silent:
        return {"error": str(silent)}, []
    latest = dataclasses.asdict(reply.latest) if reply.latest else None
    shown = {"lease": reply.held.public() if reply.held else None, "latest": latest}
    return shown, register_drift(live, reply, pending, outdated.read(context))


def late(context: Context) -> dict[str, Any] | None:
    """Late migrations that wait though their release is live: see `migrations.waiting`."""
    if not context.paths.state.joinpath("migrations.json").is_file():
        return None  # most hosts judge none: they need not import what does
    from bluegreen import migrations

    return migrations.waiting(context)


def status(context: Context, brief: bool = False, ask: bool = True) -> dict[str, Any]:
    """The answer of the verb `status`. `brief` leaves out what takes time; `ask` asks the register too."""
    state, paths = context.state, context.paths
    live, pending, lease = state.live(), state.pending(), state.lease()
    web = {colour: units.web_unit(context.app, colour) for colour in COLOURS}
    found = units.properties([*web.values(), RECONCILE], ["ActiveState", "UnitFileState"])
    active = {colour: found[unit].get("ActiveState") == "active" for colour, unit in web.items()}
    rows = [] if brief else processes.state(context)
    idle = start.idle_colour(context)
    idle_release = release.resolved(paths, idle)
    drift = find_drift(context, live, pending, active, rows)
    if (enabled := found[RECONCILE].get("UnitFileState")) != "enabled":
        drift.append(f"{RECONCILE} is {enabled or 'missing'}: a boot would leave a pending switch as it is")
    register: dict[str, Any] | None = None
    if ask and not brief:
        register, more = ask_register(context, live, pending)
        drift += [*more, *image_drift(context), *secrets_drift(context)]
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
        "drift": drift,
        "outdated": outdated.read(context) is not None,
        "maintenance": maintenance.read(context),
        "late": None if brief else late(context),
        "register": register,
        "reverts": 0 if brief else state.reverts_in_a_row(),
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
