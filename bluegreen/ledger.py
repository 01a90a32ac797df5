"""What migrations ran: who, what, verdict, approval, durations, outcome. And what releases expect of a schema.

A row is a line in the migration host's state directory first; then it is copied into the register's database, where
another host finds it and neither the application nor a restore of its data touches it.
"""

# ruff: noqa: S608  every value in a statement went through `quote`

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bluegreen import files
from bluegreen.context import Context
from bluegreen.errors import Silent
from bluegreen.state import now

APPLIED, FAILED, UNDONE = "applied", "failed", "undone"
BRIDGED = "bridged"  # what a late migration needs before the switch was run, the migration itself not
Row = Mapping[str, Any]

TABLE = """CREATE TABLE IF NOT EXISTS public.ledger (id text PRIMARY KEY, at text NOT NULL, database text NOT NULL,
  app text NOT NULL, name text NOT NULL, outcome text NOT NULL, release text NOT NULL, row jsonb NOT NULL);
"""
SELECT = """SELECT to_regclass('public.ledger') IS NOT NULL AS there \\gset
\\if :there
SELECT row FROM public.ledger;
\\endif
"""


def insert(rows: Sequence[Row]) -> str:
    """SQL that adds rows, each once."""
    from bluegreen.register import quote

    columns = ("id", "at", "database", "app", "name", "outcome", "release")
    values = [
        f"({', '.join(quote(str(row[column])) for column in columns)}, {quote(json.dumps(row, sort_keys=True))}::jsonb)"
        for row in rows
    ]
    return f"INSERT INTO public.ledger VALUES {', '.join(values)} ON CONFLICT DO NOTHING;\n" if values else ""


def understand(text: str) -> list[dict[str, Any]]:
    """The rows in what psql printed."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def latest(rows: Iterable[Row]) -> dict[tuple[str, str, str], Row]:
    """The last word on each migration: (database, app, name) → its row. Only what ran or was undone says something."""
    ordered = sorted(
        (row for row in rows if row["outcome"] in (APPLIED, UNDONE)), key=lambda row: (row["at"], row["id"])
    )
    return {(row["database"], row["app"], row["name"]): row for row in ordered}


def applied(rows: Iterable[Row]) -> dict[str, str]:
    """app.name → sha256 of the file as it was run, of every migration that is applied."""
    found = latest(rows)
    return {
        f"{app}.{name}": str(row.get("file_sha256") or "")
        for (_, app, name), row in found.items()
        if row["outcome"] == APPLIED
    }


def read(context: Context) -> list[dict[str, Any]]:
    """Every row that this host or the register knows. A register that is silent costs nothing but its rows."""
    rows = _local(context)
    with contextlib.suppress(Silent):
        rows |= {row["id"]: row for row in _ask(context, SELECT)}
    return list(rows.values())


def local(context: Context) -> list[dict[str, Any]]:
    """Every row that this host wrote."""
    return list(_local(context).values())


def write(context: Context, rows: Sequence[dict[str, Any]]) -> str:
    """Add rows. Returns why the register does not have them yet; the next call tries again."""
    made = [{"id": uuid.uuid4().hex, "at": now(), "deploy_id": context.deploy_id, **row} for row in rows]
    path = context.paths.state / "ledger.jsonl"
    if made:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            text = "".join("\n" + json.dumps(row, sort_keys=True) for row in made)  # a torn line ends here
            os.write(descriptor, text.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    try:
        _ask(context, TABLE + insert(list(_local(context).values())))
    except Silent as silent:
        return str(silent)
    return ""


def _local(context: Context) -> dict[str, dict[str, Any]]:
    rows = {}
    with contextlib.suppress(FileNotFoundError):
        for line in (context.paths.state / "ledger.jsonl").read_text().splitlines():
            with contextlib.suppress(ValueError):
                row = json.loads(line)
                rows[row["id"]] = row
    return rows


def _ask(context: Context, sql: str) -> list[dict[str, Any]]:
    """Raises Silent."""
    if not context.config.register:
        return []
    from bluegreen.register import HEAD, reason

    register = context.register
    done = register.send(HEAD + sql, register.patience)
    if done.returncode:
        raise Silent("the ledger cannot be asked", reason(done.stderr))
    return understand(done.stdout)


# footprints


def keep_footprint(context: Context, release: str, footprint: Mapping[str, Any]) -> None:
    """Remember what a release expects of the schema; it counts once the release is confirmed."""
    directory = context.paths.state / "footprints"
    directory.mkdir(mode=0o750, exist_ok=True)
    files.write_json(directory / f"{release}.json", dict(footprint), 0o600)


def footprint(context: Context, release: str) -> dict[str, Any] | None:
    """What `keep_footprint` kept."""
    found = files.read_json(context.paths.state / "footprints" / f"{release}.json")
    return dict(found) if isinstance(found, dict) else None


def forget_footprints(context: Context, keep: set[str]) -> None:
    """Remove those of releases that are gone."""
    for path in (context.paths.state / "footprints").glob("*.json"):
        if path.stem not in keep:
            files.remove_file(path)
