"""A maintenance window is open on this host: nothing of the application runs, and nginx answers with a page (503).

maintenance.json, which only root writes, is the truth; every route made while it is there is the page's, but for a
switch, which ends the window. It outlives reboots and dead controllers: only a person or a deploy ends it, because
nobody else knows which release fits the schema. window.py opens and closes it.
"""

from __future__ import annotations

from typing import Any

from bluegreen import files
from bluegreen.context import Context
from bluegreen.errors import BluegreenError

NAME = "maintenance.json"  # in the state directory


def read(context: Context) -> dict[str, Any] | None:
    """What is known of the open window: {deploy_id, since, why}; None if there is none."""
    try:
        found = files.read_json(context.state.directory / NAME)
    except BluegreenError:
        return {}  # that it is there counts
    return found if found is None or isinstance(found, dict) else {}


def mark(context: Context, known: dict[str, Any]) -> None:
    """From here on every route is the page's."""
    files.write_json(context.state.directory / NAME, known)


def clear(context: Context) -> None:
    """From here on routes lead to a colour again."""
    files.remove_file(context.state.directory / NAME)


def sentence(known: dict[str, Any]) -> str:
    """It as drift: what visitors meet, since when, and what ends it."""
    since = f" since {str(known['since'])[:19]}" if known.get("since") else ""
    why = f" ({known['why']})" if known.get("why") else ""
    ways = "a deploy with -e migrations_maintenance_window=true ends it, or ansible-playbook rollback.yml"
    return f"visitors meet the maintenance page{since}{why}: {ways}"
