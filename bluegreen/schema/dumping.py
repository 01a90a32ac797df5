"""A dump of one database for the host's program: one line of JSON on stdout, then pg_dump's own bytes.

The rows are counted in the very snapshot of the server that is dumped, so the two can be compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from bluegreen.errors import BluegreenError, check_failed

OPTIONS = ("-Fc", "-Z1", "--no-publications", "--no-subscriptions", "--lock-wait-timeout=10s")
TABLES = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), n.nspname || '.' || c.relname
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d
    WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e')
ORDER BY 2
"""


def header(connection: Any) -> dict[str, Any]:
    """What is about to be dumped; its transaction stays open, so that pg_dump sees the same rows."""
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute(
            "SELECT pg_export_snapshot(), current_database(), to_char(now() AT TIME ZONE 'UTC',"
            " 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), current_setting('server_version'),"
            " CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_lsn()::text END"
        )
        snapshot, name, moment, version, position = cursor.fetchone()
        cursor.execute(TABLES)
        counts, size = {}, 0
        for quoted, plain in cursor.fetchall():
            cursor.execute(f"SELECT count(*), pg_table_size(%s::regclass) FROM ONLY {quoted}", [quoted])  # noqa: S608  quote_ident
            counts[plain], bytes_ = cursor.fetchone()
            size += bytes_
    return {
        "snapshot": snapshot, "database": name, "at": moment, "server": version, "position": position,
        "rows": counts, "bytes": size,
    }  # fmt: skip


def dump(order: Mapping[str, Any], out: int) -> None:
    """Write the line and the dump to a descriptor. Raises BluegreenError before or instead of that."""
    from django.db import DatabaseError, connections, transaction

    from bluegreen.schema import service

    service.setup(order, applications=False)
    alias = str(order.get("alias") or "default")
    connection = connections[alias]
    try:
        with transaction.atomic(using=alias):
            told = header(connection)
            server, secret = service.of_parameters(connection.get_connection_params())
            os.write(out, json.dumps(told).encode() + b"\n")
            words = ["pg_dump", *OPTIONS, f"--snapshot={told['snapshot']}", "-d", told["database"]]
            status = subprocess.run(words, env={**server.environment(), **secret}, stdout=out, check=False).returncode
    except DatabaseError as problem:
        why = service.without_secret(connection, problem)
        raise check_failed(f"the database {alias!r} cannot be dumped", why) from None
    except FileNotFoundError:
        raise check_failed("pg_dump is not installed", "", "run ansible-playbook provision.yml") from None
    if status:
        raise check_failed("pg_dump failed", f"exit status {status}")


def main(order: Mapping[str, Any]) -> int:
    """The verb `dump`. What settings print goes to stderr."""
    sys.stdout.flush()
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        dump(order, out)
    except BluegreenError as problem:
        print(f"bluegreen: {problem}", file=sys.stderr)
        os.write(out, json.dumps({"error": problem.as_dict("dump")}).encode() + b"\n")
        return int(problem.code)
    finally:
        os.close(out)
    return 0
