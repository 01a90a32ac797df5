"""Put a snapshot back: into a new database, verified, then swapped by name. The one that served is kept under another.

Renaming takes a lock on both databases' names in one transaction: sessions of the old one are ended, new ones wait for
it, and a process that dies in the middle has changed nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from bluegreen.errors import BluegreenError, check_failed, refused
from bluegreen.schema import dumping, shadow

SWAP = 30.0  # seconds for the swap; a rename gives up after 5 s behind a session that does not end (PostgreSQL's own)
LENGTH = 63  # bytes of a name in PostgreSQL
RESTORED = "restored"  # always the same: pg_hba.conf, which knows no patterns before PostgreSQL 16, lets it in by name
# What a dump of one database does not hold: who may connect, its own settings, and the role's own in it.
PROPERTIES = """
SELECT format(CASE WHEN s.setrole = 0 THEN 'ALTER DATABASE %1$I SET %2$s TO %3$s;'
  ELSE 'ALTER ROLE CURRENT_USER IN DATABASE %1$I SET %2$s TO %3$s;' END, {new}, split_part(one, '=', 1),
  CASE WHEN split_part(one, '=', 1) IN ('search_path', 'DateStyle', 'session_preload_libraries')
    THEN substr(one, strpos(one, '=') + 1) ELSE quote_literal(substr(one, strpos(one, '=') + 1)) END)
FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) AS one
WHERE d.datname = {old} AND s.setrole IN (0, current_user::regrole)
UNION ALL
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC;', {new}) FROM pg_database
WHERE datname = {old} AND datacl IS NOT NULL
UNION ALL
SELECT format('GRANT %s ON DATABASE %I TO %s;', a.privilege_type, {new},
  CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = {old};
"""
LIKE = """
SELECT format('CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L;', {new},
  pg_encoding_to_char(encoding), datcollate, datctype) FROM pg_database WHERE datname = {old};
"""
MAY = """
SELECT current_user::text, r.rolsuper OR (r.rolcreatedb AND d.datdba = r.oid),
  coalesce(to_jsonb(d) ->> 'datlocprovider', 'c')
FROM pg_roles r, pg_database d WHERE r.rolname = current_user AND d.datname = current_database()
"""
END = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname IN ({old}, {new}) AND pid <> pg_backend_pid();
"""


def beside(name: str, word: str) -> str:
    """The name of a database beside another, as long as names may be."""
    tail = f"_{word}"
    return name.encode()[: LENGTH - len(tail)].decode("utf-8", "ignore") + tail


def place(order: Mapping[str, Any]) -> tuple[Any, str, shadow.Server, dict[str, str]]:
    """The connection of the order's `alias`, the name of its database, and where that is for psql."""
    from django.db import connections

    from bluegreen.schema import service

    service.setup(order, applications=False)
    connection = connections[str(order.get("alias") or "default")]
    server, secret = service.of_parameters(connection.get_connection_params())
    return connection, str(connection.settings_dict["NAME"]), server, secret


def compare(order: Mapping[str, Any]) -> dict[str, Any]:
    """What the database holds now, beside a snapshot of it: {database, at, rows, may_create}."""
    from django.db import DatabaseError, transaction

    from bluegreen.schema import service

    connection, name, _, _ = place(order)
    try:
        with transaction.atomic(using=connection.alias):
            told = dumping.header(connection)
            with connection.cursor() as cursor:
                cursor.execute(MAY)
                user, may, provider = cursor.fetchone()
    except DatabaseError as problem:
        why = service.without_secret(connection, problem)
        raise check_failed(f"the database {connection.alias!r} cannot be read", why) from None
    if provider != "c":
        todo = "restore it by hand: docs/migrations.md, Going back"
        raise refused(f"{name} has a locale that is not the system's", "a new database would sort otherwise", todo)
    return {**{key: told[key] for key in ("at", "rows", "bytes")}, "database": name, "user": user, "may": bool(may)}


def restore(order: Mapping[str, Any], dump: int) -> dict[str, Any]:
    """A dump, read from a descriptor, in a new database beside the one that serves; gone again if it fails.

    order: alias, `rows` that it must hold, `fits` (a kept footprint). Answers {new, misfits}.
    """
    from django.db import connections

    from bluegreen.schema import stored

    connection, name, server, secret = place(order)
    new = beside(name, RESTORED)
    names = {"new": shadow.literal(new), "old": shadow.literal(name)}
    drop({**order, "new": new})  # what a restore that died has left
    shadow.psql(server, name, shadow.psql(server, name, LIKE.format(**names), secret), secret)
    try:
        words = ["pg_restore", "--no-owner", "--no-comments", "--exit-on-error", "--single-transaction", "-d", new]
        environment = {**server.environment(), **secret}
        done = subprocess.run(words, env=environment, stdin=dump, capture_output=True, check=False)
        if done.returncode:
            raise check_failed("pg_restore failed", shadow.last(done.stderr.decode("utf-8", "replace")))
        shadow.psql(server, name, shadow.psql(server, name, PROPERTIES.format(**names), secret), secret)
        shadow.psql(server, new, "ANALYZE;", secret)
        other: Any = connections.create_connection(connection.alias)
        other.settings_dict = {**connection.settings_dict, "NAME": new}
        try:
            other.set_autocommit(False)
            found = dumping.header(other)["rows"]
            other.rollback()
            other.set_autocommit(True)
            wanted = order["rows"].items()
            if wrong := [
                f"{table}: {found.get(table)} of {rows} rows" for table, rows in wanted if found.get(table) != rows
            ]:
                raise check_failed("the restored database does not hold what it should", wrong[0])

            def ask(_alias: str, query: str) -> str:
                with other.cursor() as cursor:
                    cursor.execute(query)
                    return str(cursor.fetchone()[0])

            kept = order.get("fits") or {}
            mine = {alias: one for alias, one in (kept.get("databases") or {}).items() if alias == connection.alias}
            misfits = stored.misfits({**kept, "databases": mine}, ask) if mine else []
        finally:
            other.close()
    except FileNotFoundError:
        drop({**order, "new": new})
        raise check_failed("pg_restore is not installed", "", "run ansible-playbook provision.yml") from None
    except BaseException:
        drop({**order, "new": new})
        raise
    return {"new": new, "misfits": misfits}


def drop(order: Mapping[str, Any]) -> dict[str, Any]:
    """Remove a database that `restore` made."""
    _, name, server, secret = place(order)
    new = str(order["new"])
    if new != beside(name, RESTORED):
        raise refused(f"{new} is no database of ours", "", "leave it")
    shadow.psql(server, name, f"DROP DATABASE IF EXISTS {shadow.identifier(new)};", secret)
    return {"dropped": new}


def swap(order: Mapping[str, Any]) -> dict[str, Any]:
    """Give the restored database (`new`) the name of the one that serves, which becomes `kept`, in one transaction."""
    _, name, server, secret = place(order)
    new, kept = str(order["new"]), beside(name, str(order["kept"]))
    names = {"new": shadow.literal(new), "old": shadow.literal(name)}
    old, fresh, aside = (shadow.identifier(one) for one in (name, new, kept))
    over = threading.Event()

    def end() -> None:
        # until the rename has its lock, clients come back
        while not over.is_set():
            with contextlib.suppress(BluegreenError):
                shadow.psql(server, "postgres", END.format(**names), secret, SWAP)
            over.wait(0.05)

    thread = threading.Thread(target=end)
    thread.start()
    script = f"BEGIN;\nALTER DATABASE {old} RENAME TO {aside};\nALTER DATABASE {fresh} RENAME TO {old};\nCOMMIT;\n"
    try:
        shadow.psql(server, "postgres", script, secret, SWAP)
    except BluegreenError as problem:
        todo = (
            "nothing was changed; end the sessions of other roles (SELECT * FROM pg_stat_activity), then the same again"
        )
        raise check_failed(f"{name} could not be renamed", problem.why or problem.what, todo) from None
    finally:
        over.set()
        thread.join()
    return {"kept": kept}


def main() -> int:
    """The verb `restore`: a line of JSON on stdin, then the dump. What settings print goes to stderr."""
    sys.stdout.flush()
    out = os.dup(1)
    os.dup2(2, 1)
    line = bytearray()
    while not line.endswith(b"\n"):  # byte by byte: what follows is the dump's
        byte = os.read(0, 1)
        if not byte:
            break
        line += byte
    try:
        answer, status = restore(json.loads(line), 0), 0
    except BluegreenError as problem:
        print(f"bluegreen: {problem}", file=sys.stderr)
        answer, status = {"error": problem.as_dict("restore")}, int(problem.code)
    os.write(out, json.dumps(answer).encode() + b"\n")
    os.close(out)
    return status
