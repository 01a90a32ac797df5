"""Remove old releases, never one that serves, runs, is pending, or is needed for a rollback."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bluegreen import files, images, release
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
    return {"removed": doomed, "images": [name for name in unneeded if name not in busy], "busy": busy}


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
