"""The register of a fleet: who holds the lease, and what became of each deploy. The first writer wins.

It is a few tables in a PostgreSQL database of its own (docs/decisions/0004-register.md). Everything here is text: SQL
for `psql`, and the JSON lines that come back. `Register` is what the rest of the program uses.
"""

# ruff: noqa: S608  every value in a statement went through `quote`

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bluegreen.errors import Silent, bad_input
from bluegreen.state import ABORT, COMMIT

FORMAT = 1
USER = "bluegreen"  # psql runs without privileges
PATIENCE = 5.0  # seconds for one question
CONNECT = 2  # seconds until the server must have answered the connection
STATEMENT = 2000  # milliseconds for one statement
LIBPQ = {"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT", "target_session_attrs": "PGTARGETSESSIONATTRS"}

URL = re.compile(
    r"postgres(?:ql)?://(?P<user>[^:@/?]+)(?::(?P<password>[^@/?]*))?"
    r"@(?P<places>[^/?]+)/(?P<base>[^/?]+)(?:\?(?P<more>.*))?"
)
PLACE = re.compile(r"(?P<host>\[[^]]*\]|[^:]*)(?::(?P<port>\d+))?")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A lease that is asked for; `fence` is the highest generation the asking host has accepted."""

    deploy_id: str
    holder: str
    host: str
    process: str
    run_url: str
    what: str
    ttl: float
    cap: float
    fence: int


@dataclasses.dataclass(frozen=True)
class Held:
    """The lease as the register knows it, perhaps expired. `left` and `cap_left`: seconds by the server's clock."""

    deploy_id: str
    holder: str
    host: str
    process: str
    run_url: str
    what: str
    since: str
    left: float
    cap_left: float
    generation: int
    hosts: list[str]

    def public(self) -> dict[str, Any]:
        """As `status` and refusals show it."""
        shown = dataclasses.asdict(self)
        del shown["cap_left"]
        return {**shown, "expires_in": round(shown.pop("left"))}


@dataclasses.dataclass(frozen=True)
class Decision:
    """What became of a deploy."""

    deploy_id: str
    decision: str
    host: str
    why: str
    generation: int
    release: str
    sha: str
    kind: str
    without: list[str]
    at: str


@dataclasses.dataclass(frozen=True)
class Reply:
    """What the register knows after a question; `done` if it wrote something for it."""

    done: bool
    lease: Held | None
    generation: int
    decision: Decision | None
    latest: Decision | None
    id: str = ""  # names this register: hosts that were given different ones find out
    made: bool = False  # its tables were missing and are there now

    @property
    def held(self) -> Held | None:
        """The lease, if it has not expired."""
        return self.lease if self.lease and self.lease.left > 0 else None


# SQL


def quote(text: str) -> str:
    """A literal, whatever the server's settings are. Raises BluegreenError for what PostgreSQL cannot store."""
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise bad_input("a text for the register holds a character that PostgreSQL cannot store", ascii(text)[:80])
    doubled = text.replace("'", "''")
    return " E'" + doubled.replace("\\", "\\\\") + "'" if "\\" in text else "'" + doubled + "'"


def array(texts: Sequence[str]) -> str:
    """An array of texts."""
    return f"ARRAY[{', '.join(quote(text) for text in texts)}]::text[]"


def seconds(value: float) -> str:
    """An interval."""
    return f"make_interval(secs => {float(value)!r})"


def stamp(column: str) -> str:
    """A time as the rest of the program writes it."""
    return f"""to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""


HEAD = f"""\\set ON_ERROR_STOP on
SET client_min_messages = warning;
SET statement_timeout = {STATEMENT};
SET lock_timeout = {STATEMENT};
"""

CREATE = f"""BEGIN;
SELECT pg_advisory_xact_lock(7262018651172);
SELECT to_regclass('public.about') IS NULL AS missing \\gset
\\if :missing
CREATE TABLE public.about (one boolean PRIMARY KEY DEFAULT true CHECK (one), app text NOT NULL, format int NOT NULL,
  id text NOT NULL DEFAULT left(md5(random()::text || clock_timestamp()::text), 12));
CREATE TABLE public.lease (one boolean PRIMARY KEY DEFAULT true CHECK (one),
  deploy_id text NOT NULL DEFAULT '', holder text NOT NULL DEFAULT '', host text NOT NULL DEFAULT '',
  process text NOT NULL DEFAULT '', run_url text NOT NULL DEFAULT '', what text NOT NULL DEFAULT '',
  since timestamptz NOT NULL DEFAULT now(), expires timestamptz NOT NULL DEFAULT now(),
  cap timestamptz NOT NULL DEFAULT now(), generation bigint NOT NULL DEFAULT 0, hosts text[] NOT NULL DEFAULT '{{}}');
CREATE TABLE public.decision (deploy_id text PRIMARY KEY,
  decision text NOT NULL CHECK (decision IN ('{COMMIT}', '{ABORT}')), host text NOT NULL, why text NOT NULL,
  generation bigint NOT NULL, release text NOT NULL, sha text NOT NULL, kind text NOT NULL, without text[] NOT NULL,
  at timestamptz NOT NULL DEFAULT now());
INSERT INTO public.lease DEFAULT VALUES;
INSERT INTO public.about (app, format) VALUES (%s, {FORMAT});
\\endif
COMMIT;
"""

LEASE = f"""json_build_object('deploy_id', deploy_id, 'holder', holder, 'host', host, 'process', process,
  'run_url', run_url, 'what', what, 'since', {stamp("since")}, 'left', extract(epoch FROM expires - now()),
  'cap_left', extract(epoch FROM cap - now()), 'generation', generation, 'hosts', hosts)"""

DECISION = f"""json_build_object('deploy_id', deploy_id, 'decision', decision, 'host', host, 'why', why,
  'generation', generation, 'release', release, 'sha', sha, 'kind', kind, 'without', without, 'at', {stamp("at")})"""


def create(app: str) -> str:
    """Make the tables where there are none."""
    return HEAD + CREATE % quote(app)


def ours(app: str) -> str:
    """True where the register is this application's and of this format: nothing is written to another."""
    return f"EXISTS (SELECT FROM public.about WHERE app = {quote(app)} AND format = {FORMAT})"


def question(deploy_id: str, write: str = "") -> str:
    """A whole script: whose register it is, what is to be written, and the state after it."""
    return f"""{HEAD}SELECT json_build_object('made', to_regclass('public.about') IS NOT NULL);
SELECT to_json(about) FROM public.about;
BEGIN;
{write}
SELECT json_build_object('lease', (SELECT {LEASE} FROM public.lease),
  'decision', (SELECT {DECISION} FROM public.decision WHERE deploy_id = {quote(deploy_id)}),
  'latest', (SELECT {DECISION} FROM public.decision WHERE decision = '{COMMIT}'
    ORDER BY generation DESC, at DESC LIMIT 1));
COMMIT;
"""


DONE = "RETURNING json_build_object('done', true);"


def take(app: str, wanted: Wanted) -> str:
    """Take the lease, or join one's own on another host. The generation never falls below that of any host asked."""
    me, host, fence = quote(wanted.deploy_id), quote(wanted.host), int(wanted.fence)
    return f"""UPDATE public.lease SET
  since = CASE WHEN deploy_id = {me} THEN since ELSE now() END,
  expires = CASE WHEN deploy_id = {me} THEN least(now() + {seconds(wanted.ttl)}, cap)
    ELSE now() + {seconds(min(wanted.ttl, wanted.cap))} END,
  cap = CASE WHEN deploy_id = {me} THEN cap ELSE now() + {seconds(wanted.cap)} END,
  generation = CASE WHEN deploy_id = {me} THEN greatest(generation, {fence + 1})
    ELSE greatest(generation, {fence}) + 1 END,
  hosts = CASE WHEN deploy_id = {me} THEN array_append(array_remove(hosts, {host}), {host}) ELSE ARRAY[{host}] END,
  holder = {quote(wanted.holder)}, host = {host}, process = {quote(wanted.process)},
  run_url = {quote(wanted.run_url)}, what = {quote(wanted.what)}, deploy_id = {me}
WHERE {ours(app)}
  AND CASE WHEN deploy_id = {me} THEN now() < cap ELSE deploy_id = '' OR expires <= now() END
{DONE}"""


def renew(app: str, deploy_id: str, ttl: float) -> str:
    """Renew one's lease up to its cap, also an expired one that nobody took."""
    return f"""UPDATE public.lease SET expires = least(now() + {seconds(ttl)}, cap)
WHERE {ours(app)} AND deploy_id = {quote(deploy_id)} AND now() < cap {DONE}"""


def release(app: str, deploy_id: str, host: str) -> str:
    """One host is done; the lease is free when all are."""
    left = f"array_remove(hosts, {quote(host)})"
    return f"""UPDATE public.lease SET hosts = {left}, deploy_id = CASE WHEN {left} = '{{}}' THEN '' ELSE deploy_id END
WHERE {ours(app)} AND deploy_id = {quote(deploy_id)} {DONE}"""


def take_away(app: str, deploy_id: str) -> str:
    """Break a lease: it is free, and its holder's generation is an old one."""
    return f"""UPDATE public.lease SET hosts = '{{}}', deploy_id = '', generation = generation + 1
WHERE {ours(app)} AND deploy_id = {quote(deploy_id)} {DONE}"""


def decide(app: str, wanted: Decision, leased: bool) -> str:
    """Write what becomes of a deploy unless somebody was first. `leased`: only while the lease names it."""
    values = (
        *(quote(text) for text in (wanted.deploy_id, wanted.decision, wanted.host, wanted.why)),
        str(int(wanted.generation)),
        *(quote(text) for text in (wanted.release, wanted.sha, wanted.kind)),
        array(wanted.without),
    )
    # a database that may lose its last commits in a crash would let two decisions be made
    return f"""SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';
INSERT INTO public.decision (deploy_id, decision, host, why, generation, release, sha, kind, without)
SELECT {", ".join(values)} FROM public.lease AS held
WHERE {ours(app)}{f" AND held.deploy_id = {quote(wanted.deploy_id)}" if leased else ""} FOR SHARE OF held
ON CONFLICT (deploy_id) DO NOTHING {DONE}"""


# what comes back


def understand(app: str, status: int, text: str, errors: str) -> Reply | None:
    """The reply in what psql printed; None where there are no tables yet. Raises Silent if it is none of ours."""
    found: dict[str, Any] = {}
    for line in text.splitlines():
        if line.startswith("{"):
            found |= json.loads(line)
    if found.get("made") is False:
        return None
    if found.get("app", app) != app:
        todo = "give each application a database of its own"
        raise Silent(f"the register is that of {found['app']}, not of {app}", "nothing was written", todo)
    if found.get("format", FORMAT) != FORMAT:
        what = f"the register has format {found['format']}, this program knows {FORMAT}"
        raise Silent(what, "nothing was written", "run the newest provision.yml")
    if status:
        raise Silent("the register cannot be asked", reason(errors), "is PostgreSQL up and reachable from this host?")
    if "lease" not in found or "app" not in found:
        raise Silent("the register is damaged", "its table about or lease is empty", "look at its database")
    row = found["lease"]
    decision, latest = (Decision(**found[key]) if found.get(key) else None for key in ("decision", "latest"))
    lease = Held(**row) if row["deploy_id"] else None
    return Reply(bool(found.get("done")), lease, int(row["generation"]), decision, latest, str(found.get("id") or ""))


def reason(errors: str) -> str:
    """The line of psql's words that says why."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    wanted = next((line for line in lines if "error:" in line or "FATAL:" in line or "ERROR:" in line), "")
    return re.sub(r"^psql:(?:<stdin>:\d+:)?\s*(?:error:)?\s*", "", wanted or (lines or ["it said nothing"])[0])


# psql


def environment(url: str) -> dict[str, str]:
    """libpq's variables for a URL: nothing of it becomes an argument. Raises Silent, without a word of the URL."""
    from urllib.parse import parse_qsl, unquote  # slow to import

    match = URL.fullmatch(url)
    more = dict(parse_qsl(match["more"] or "")) if match else {}
    places = [PLACE.fullmatch(place) for place in match["places"].split(",")] if match else []
    unknown = sorted(set(more) - set(LIBPQ))
    if not match or not all(places) or unknown or not unquote(url).isprintable():
        raise Silent(
            "the register's URL is not understood",
            f"unknown: {', '.join(unknown)}" if unknown else "wanted: postgresql://user:password@host:port/database",
            "correct it and run ansible-playbook provision.yml",
        )
    values = {
        "PGHOST": ",".join(unquote(place["host"]).strip("[]") for place in places if place),
        "PGPORT": ",".join(place["port"] or "5432" for place in places if place),
        "PGUSER": unquote(match["user"]),
        "PGPASSWORD": unquote(match["password"] or ""),
        "PGDATABASE": unquote(match["base"]),
        "PGCONNECT_TIMEOUT": str(CONNECT),
        "PGAPPNAME": "bluegreen",
        "PGCLIENTENCODING": "UTF8",
        **{LIBPQ[name]: value for name, value in more.items()},
    }
    return {name: value for name, value in values.items() if value}


def psql(url: str, sql: str, patience: float) -> subprocess.CompletedProcess[str]:
    """Run a script: SQL on stdin, the address in the environment. Raises Silent if it takes over `patience` seconds."""
    rights: dict[str, Any] = {}
    try:
        if os.getuid() == 0:
            entry = pwd.getpwnam(USER)
            rights = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        return subprocess.run(
            ("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-"),
            input=sql,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", **environment(url)},
            cwd="/",
            check=False,
            encoding="utf-8",
            errors="replace",
            capture_output=True,
            timeout=patience,
            **rights,
        )
    except FileNotFoundError:
        raise Silent("psql is not installed on this host", "", "run ansible-playbook provision.yml") from None
    except subprocess.TimeoutExpired:
        what = "the register did not answer"
        raise Silent(what, f"PostgreSQL took more than {patience:.0f} s", "is it reachable from this host?") from None
    except LookupError:
        raise Silent(f"there is no user {USER} on this host", "", "run ansible-playbook provision.yml") from None


class Register:
    """The register of one application. Each question may raise Silent, and answers with the state after it."""

    def __init__(self, app: str, send: Callable[[str, float], subprocess.CompletedProcess[str]]):
        self.app, self.send = app, send
        self.patience = PATIENCE

    def ask(self, deploy_id: str, write: str = "") -> Reply:
        """One question; makes the tables where there are none."""
        for again in (False, True):
            done = self.send(question(deploy_id, write), self.patience)
            reply = understand(self.app, done.returncode, done.stdout, done.stderr)
            if reply:
                return dataclasses.replace(reply, made=again)
            created = self.send(create(self.app), self.patience)
            if created.returncode:
                todo = "the role needs the right to create tables in its database"
                raise Silent("the register's tables cannot be made", reason(created.stderr), todo)
        raise Silent("the register's tables are not there", "", "look at its database")

    def look(self, deploy_id: str = "") -> Reply:
        """The lease, the newest COMMIT, and what became of one deploy."""
        return self.ask(deploy_id)

    def take(self, wanted: Wanted) -> Reply:
        """Take the lease; taken if the reply's lease names the deploy and `done` is set."""
        return self.ask(wanted.deploy_id, take(self.app, wanted))

    def renew(self, deploy_id: str, ttl: float) -> Reply:
        """Renew one's own lease; `done` if it was."""
        return self.ask(deploy_id, renew(self.app, deploy_id, ttl))

    def release(self, deploy_id: str, host: str) -> Reply:
        """One host of a deploy is done."""
        return self.ask(deploy_id, release(self.app, deploy_id, host))

    def take_away(self, deploy_id: str) -> Reply:
        """Break a lease."""
        return self.ask(deploy_id, take_away(self.app, deploy_id))

    def decide(self, wanted: Decision, leased: bool) -> Reply:
        """Write a decision unless there is one; the reply's `decision` is the one that counts."""
        return self.ask(wanted.deploy_id, decide(self.app, wanted, leased))


def connect(app: str, path: Path) -> Register:
    """The register whose URL is in a file. Raises Silent where there is none."""
    try:
        url = path.read_text().strip()
    except FileNotFoundError:
        raise Silent(f"{path} is missing", "", "run ansible-playbook provision.yml") from None
    return Register(app, lambda sql, patience: psql(url, sql, patience))
