"""Open and end a maintenance window on this host. What it means while it is open: maintenance.py.

    begin   maintenance.json → route to the page → what is in flight ends → both colours and their processes stop
    end     the live colour starts and answers → maintenance.json goes → route to it

A switch ends one too (switch.py). Nothing else does: not a timer, not a boot.
"""

from __future__ import annotations

from typing import Any

from bluegreen import maintenance, processes, reconcile, start
from bluegreen.config import COLOURS
from bluegreen.context import Context
from bluegreen.errors import check_failed, refused
from bluegreen.state import now


def begin(context: Context, why: str) -> dict[str, Any]:
    """Show the page, then stop everything of the application; see the verb `maintenance`. The same again goes on."""
    live = context.state.live()
    if context.state.pending():
        raise refused("a switch is pending on this host", "", "confirm or revert it first")
    if live is None:
        raise refused("no release is live on this host", "there is nothing to stop", "deploy without a window")
    if context.dry_run:
        return {"maintenance": maintenance.read(context)}
    known = maintenance.read(context)
    if known is None:
        known = {"deploy_id": context.deploy_id, "since": now(), "why": why}
        maintenance.mark(context, known)
        context.state.append_history("maintenance", action="begin", why=why, deploy_id=context.deploy_id)
    start.write_route(context, live.colour)
    cut = [start.stop_colour(context, colour, context.config.drain_ceiling) for colour in COLOURS]
    if still := list(processes.running(context.app, *COLOURS)):
        raise check_failed(f"{still[0]} did not stop", "it may use the database", f"systemctl status {still[0]}")
    return {"maintenance": known, "cut": {what: sum(one[what] for one in cut) for what in cut[0]}}


def end(context: Context, wait: float, checked: bool) -> dict[str, Any]:
    """Serve the live release again, once it answers. Raises BluegreenError if it does not: the page stays.

    checked: somebody has asked whether it fits the schema; otherwise that is asked here.
    """
    live, known = context.state.live(), maintenance.read(context)
    if known is None or live is None:
        return {"ended": False}
    if not checked:
        require_fit(context, live.release)
    if context.dry_run:
        return {"ended": True}
    reconcile.start_live(context, live.colour, wait)
    if problem := start.answers(context, live.colour, live.release, max(1.0, wait)):
        todo = "look at it; the page stays until it answers"
        raise check_failed(f"{live.release} does not answer, so the maintenance page stays", problem, todo)
    maintenance.clear(context)
    reconcile.serve_live(context, live, 0)
    context.state.append_history("maintenance", action="end", release=live.release, deploy_id=context.deploy_id)
    return {"ended": True, "release": live.release}


def require_fit(context: Context, name: str) -> None:
    """Refuse to serve a release that does not fit the schema, or of which that is not known."""
    from bluegreen import migrations

    found = migrations.fits(context)
    if misfits := found["fits"].get(name):
        raise migrations.unfit(name, misfits)
    if name not in found["fits"]:
        why = found["why"] or "what it expects is kept on the migration host"
        raise refused(
            f"whether {name} fits the schema is not known", why, "ansible-playbook rollback.yml asks and ends it"
        )
