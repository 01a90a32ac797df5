"""A host that was away serves nothing until it has the fleet's release.

What is known is kept in outdated.json, which only root writes. The empty flag in /run is for nginx's unit: nginx does
not start while there is one (a drop-in of provisioning).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from bluegreen import files, units
from bluegreen.context import Context
from bluegreen.errors import BluegreenError

if TYPE_CHECKING:
    from bluegreen.register import Decision
    from bluegreen.state import Live

NGINX = "nginx.service"


def newer(live: Live | None, latest: Decision | None) -> bool:
    """Whether the fleet's newest COMMIT is one that this host missed."""
    return (
        live is not None
        and latest is not None
        and latest.generation > live.fence
        and latest.release != live.release
        and latest.deploy_id != live.deploy_id
    )


def read(context: Context) -> dict[str, Any] | None:
    """What is known of the fleet's release while this host serves nothing; None while it serves."""
    try:
        found = files.read_json(context.state.directory / "outdated.json")
    except BluegreenError:
        return {}  # that it is there counts
    return {} if found is None and os.path.lexists(context.paths.outdated) else found


def mark(context: Context, known: dict[str, Any]) -> None:
    """Serve nothing: the flag before nginx is stopped, so that it does not come back by itself."""
    files.write_json(context.state.directory / "outdated.json", known)
    if not os.path.lexists(context.paths.outdated):
        files.write_file(context.paths.outdated, "")
    if nginx_runs():
        units.systemctl("stop", NGINX)


def clear(context: Context) -> None:
    """Serve again, if that was not so. What is known goes last: a crash before must not leave nginx down."""
    if read(context) is None:
        return
    files.remove_file(context.paths.outdated)
    if not nginx_runs():
        units.systemctl("start", "--no-block", NGINX)  # at boot it is queued behind this program
    files.remove_file(context.state.directory / "outdated.json")


def nginx_runs() -> bool:
    """Whether nginx is up, or on its way."""
    return units.state_of(NGINX) in ("active", "activating", "reloading")


def sentence(known: dict[str, Any]) -> str:
    """It as drift."""
    if known.get("why"):
        return f"serves nothing: {known['why']}"
    if not known.get("sha"):
        return "serves nothing: its release is older than the fleet's"
    return f"serves nothing: {str(known['live'])[:12]} is older than the fleet's {str(known['sha'])[:12]}"
