"""Does a release that was confirmed once still fit the schema? One catalog query by psql; Django is not started."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bluegreen.errors import bad_input
from bluegreen.schema import advice, catalog, fits
from bluegreen.schema.facts import FORMAT, Finding, Footprint

Ask = Callable[[str, str], str]  # alias of the database, SQL → what psql -At prints


def misfits(kept: Mapping[str, Any], ask: Ask) -> list[str]:
    """Why the release cannot come back, a line each; nothing if it fits.

    kept: what `pending` or `run` of the runner gave; its `known` {alias: keys} did not fit then already.
    Raises BluegreenError (BAD_INPUT) if it is of another format.
    """
    if kept.get("format") != FORMAT:
        raise bad_input(f"the stored footprint has format {kept.get('format')!r}", f"this program reads {FORMAT}")
    lines = []
    for alias, data in kept["databases"].items():
        known = {tuple(key) for key in (kept.get("known") or {}).get(alias, ())}
        for one in against(_read(data), ask(alias, catalog.QUERY), "older"):
            if one.key not in known:
                lines.append(_line(alias, one))
    return lines


def against(footprint: Footprint, text: str, release: str = fits.LIVE) -> list[Finding]:
    """What of a release does not fit the schema that catalog.QUERY found."""
    return fits.misfits(footprint, catalog.parse(text), release)


def _read(data: Mapping[str, Any]) -> Footprint:
    try:
        return Footprint.from_json(data)
    except (KeyError, TypeError, ValueError) as problem:
        raise bad_input("the stored footprint cannot be read", repr(problem)) from None


def _line(alias: str, one: Finding) -> str:
    place = ".".join(part for part in (one.table, one.column) if part)
    return f"{alias}: {place}: {advice.text(one).why}"
