"""Remove old releases, never one that serves, runs, is pending, or is needed for a rollback; and revoked secrets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bluegreen import files, images, release, secrets, start, units
from bluegreen.config import COLOURS
from bluegreen.context import Context
from bluegreen.errors import BluegreenError
from bluegreen.state import Record

ROLLBACK_MINIMUM = 2


def choose(records: Sequence[Record], present: set[str], in_use: set[str], keep: int) -> list[str]:
    """The releases to remove, oldest first.

    Kept: those in use, the newest `keep` confirmed ones (at least two), and the newest other one for inspection.
    Failed releases never push out a good one.
    """
    here = [record for record in records if record.id in present]
    confirmed = [record.id for record in sorted(here, key=lambda r: -r.confirmed_fence) if record.state == "confirmed"]
    others = [
        record.id for record in sorted(here, key=lambda r: r.staged_at, reverse=True) if record.state != "confirmed"
    ]
    kept = in_use | set(confirmed[: max(keep, ROLLBACK_MINIMUM)]) | set(others[:1])
    return [record.id for record in sorted(here, key=lambda r: r.staged_at) if record.id not in kept]


def in_use(context: Context) -> set[str]:
    """The releases of both colours and of a pending switch."""
    live, pending = context.state.live(), context.state.pending()
    used = {name for colour in COLOURS if (name := release.resolved(context.paths, colour))}
    return used | ({live.release} if live else set()) | ({pending.release} if pending else set())


def prune(context: Context, keep: int) -> dict[str, Any]:
    """Remove what `choose` names, and the images that no release needs any more."""
    paths, state = context.paths, context.state
    records = state.records()
    present = {path.name for path in paths.releases.iterdir() if release.complete(paths, path.name)}
    doomed = choose(records, present, in_use(context), keep)
    if context.dry_run:
        return {"removed": [], "would_remove": doomed}
    sweep(context)
    uploads = [path for path in paths.inbox.iterdir() if not path.name.endswith(f".{context.deploy_id}")]
    for path in uploads:
        files.remove_file(path)  # of runs that died: the one at work has the lease
    for name in doomed:
        files.remove_file(paths.releases / name / ".complete")
        files.remove_tree(paths.releases / name)
        files.remove_file(paths.checks / f"{name}.json")
    needed = {release.image_of(paths, name) for name in present - set(doomed)}
    # also what an interrupted or busy removal left: its manifest goes first
    here = {path.stem for path in paths.images.glob("[!.]*.squashfs")} | set(images.staged(paths))
    unneeded = sorted(here - needed)
    busy = []
    for name in unneeded:
        try:
            images.remove(paths, name)
        except BluegreenError:
            # a process that still finishes its work holds it; the next prune takes it
            busy.append(name)
    if doomed or unneeded:
        state.append_history("prune", releases=doomed, images=unneeded, busy=busy)
    images_gone = [name for name in unneeded if name not in busy]
    return {"removed": doomed, "images": images_gone, "busy": busy, "revoked": revoke(context)}


def revoke(context: Context) -> dict[str, list[str]]:
    """Put the live release's values in the place of those that it revokes, in every release from before it.

    One of those that is running, warm, is started again with them: what it has may not work any more. Returns release →
    names. Nothing to do once it has been done: a rollback to the live release later must not undo a newer value.
    """
    paths, state = context.paths, context.state
    live = state.live()
    marker = paths.releases / live.release / release.REVOKES if live else None
    wanted = files.read_json(marker) if marker else None
    mine = secrets.kept(paths.releases / live.release) if live else None
    if not live or not marker or not wanted or not mine or state.pending():
        return {}
    records = {record.id: record.staged_at for record in state.records() if release.complete(paths, record.id)}
    older = [name for name, staged_at in records.items() if staged_at < records.get(live.release, "")]
    changed: dict[str, list[str]] = {}
    for name in older:
        theirs = secrets.kept(paths.releases / name)
        if theirs and (names := secrets.replacements(mine, wanted["names"], theirs)):
            renew(context, name, names, live.release)
            changed[name] = names
    files.remove_file(marker)
    if changed:
        state.append_history("revoke", release=live.release, replaced=changed, deploy_id=context.deploy_id)
    return changed


def renew(context: Context, name: str, names: Sequence[str], source: str) -> None:
    """Give a release the values of another one for these names; if it runs, warm, it starts again with them."""
    paths = context.paths
    warm = next((each for each in COLOURS if release.resolved(paths, each) == name), "")
    running = bool(warm) and start.is_active(context.app, warm)
    if running:
        start.drain(context, warm, context.config.drain_ceiling)
        units.systemctl("stop", units.web_unit(context.app, warm), timeout=300)
    secrets.replace(paths.releases / name, paths.releases / source, names)
    if running:
        units.systemctl("start", "--no-block", units.web_unit(context.app, warm))


def sweep(context: Context) -> list[str]:
    """Remove what interrupted calls left aside. Half-made things are never candidates for anything."""
    paths = context.paths
    removed = []
    for directory in (
        paths.srv,
        paths.images,
        paths.releases,
        paths.state,
        paths.records,
        paths.checks,
        paths.routes,
        paths.units,
        *paths.releases.glob("[!.]*/"),
        *paths.releases.glob("[!.]*/secrets"),
    ):
        if directory.is_dir():
            removed += files.sweep(directory)
    for folder, _, _ in os.walk(paths.static):
        removed += files.sweep(Path(folder))
    for home in sorted(paths.releases.iterdir()) if paths.releases.is_dir() else []:
        if not release.complete(paths, home.name) and home.name not in in_use(context):
            files.remove_tree(home)
            removed.append(home.name)
    return removed
