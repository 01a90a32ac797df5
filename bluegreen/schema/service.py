"""The verbs that judge (runner.py has the others). Each runs in a release's virtualenv, as the application's user."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bluegreen.errors import BluegreenError, Code, bad_input, check_failed, from_dict
from bluegreen.schema import catalog, decide, models, shadow, tryout
from bluegreen.schema.facts import FORMAT, Catalog, Finding, Footprint, Size, Verdict
from bluegreen.schema.rules import Setting
from bluegreen.schema.wall import Wall

METHODS = ("cluster", "scratch", "static")
POSTGRESQL = "django.db.backends.postgresql"
SCRATCH = "bluegreen_scratch_"
LEFT = 3600  # seconds after which a scratch database of ours was left behind by something that died
STATEMENT = "60s"  # on the shadow, where every table is empty
# libpq's environment for what Django's settings give as connection parameters.
LIBPQ = {
    "host": "PGHOST", "hostaddr": "PGHOSTADDR", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD",
    "passfile": "PGPASSFILE", "service": "PGSERVICE", "sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT", "sslkey": "PGSSLKEY", "channel_binding": "PGCHANNELBINDING", "gssencmode": "PGGSSENCMODE",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}  # fmt: skip


def settings_databases() -> dict[str, dict[str, Any]]:
    """DATABASES of the release's settings. Raises BluegreenError (BAD_INPUT) if they cannot be imported."""
    try:
        from django.conf import settings

        databases: dict[str, dict[str, Any]] = settings.DATABASES
    except Exception as problem:  # noqa: BLE001  whatever an import raises
        raise bad_input(
            "the settings cannot be imported", tryout.line(problem), "is DJANGO_SETTINGS_MODULE right?"
        ) from None
    return databases


def postgresql(entry: Mapping[str, Any]) -> bool:
    """Is this entry of DATABASES a PostgreSQL database? Engines of others (PostGIS, prometheus) count."""
    from django.db.utils import load_backend

    try:
        return str(load_backend(str(entry.get("ENGINE") or "")).DatabaseWrapper.vendor) == "postgresql"
    except Exception:  # noqa: BLE001  a driver that is missing, a dummy: not one that we can judge
        return False


def replace(databases: dict[str, dict[str, Any]], given: Mapping[str, Mapping[str, Any]]) -> None:
    """Put other connection values into DATABASES, in place, before Django connects anywhere."""
    for alias, values in given.items():
        entry = databases.setdefault(alias, {})
        if not postgresql(entry):
            entry.clear()
            entry["ENGINE"] = POSTGRESQL
        for key in ("OPTIONS", "PASSWORD", "PASSFILE", "TEST"):
            entry.pop(key, None)
        entry.update(values)


def setup(order: Mapping[str, Any], applications: bool = True) -> dict[str, dict[str, Any]]:
    """Import the settings, point them at the databases of the order, load the applications."""
    databases = settings_databases()
    replace(databases, order.get("databases") or {})
    direct(databases, order)
    if applications:
        load()
    return databases


def direct(databases: Mapping[str, dict[str, Any]], order: Mapping[str, Any]) -> None:
    """Go to the server itself where the settings name a pooler: `direct` {alias: {host, port}} of the order."""
    for alias, place in (order.get("direct") or {}).items():
        if alias in databases:
            databases[alias].update({str(key).upper(): str(value) for key, value in place.items()})


def load() -> None:
    """django.setup(). Raises BluegreenError (CHECK_FAILED)."""
    import django

    try:
        django.setup()
    except Exception as problem:  # noqa: BLE001  whatever an import raises
        raise check_failed("the release's applications cannot be loaded", tryout.line(problem)) from None


def aliases(databases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The PostgreSQL databases, each once: a second name of the same one (a replica's, a test mirror) is left out."""
    found: dict[tuple[str, str, str], str] = {}
    for alias in sorted(databases, key=lambda name: (name != "default", name)):
        entry = databases[alias]
        mirror = (entry.get("TEST") or {}).get("MIRROR")
        if postgresql(entry) and not mirror:
            found.setdefault(place_of(entry), alias)
    return list(found.values())


def footprint(order: Mapping[str, Any]) -> dict[str, Any]:
    """What this release expects: {format, databases: {alias: footprint}, drift}. Connects to nothing."""
    databases = setup(order)
    from django.db import connections
    from django.db.migrations.loader import MigrationLoader

    try:
        changes = models.drift(MigrationLoader(None))
    except Exception as problem:  # noqa: BLE001  the footprint stands without it
        changes = [f"not known: {tryout.line(problem)}"]
    found = {alias: models.of_release(connections[alias]).as_json() for alias in aliases(databases)}
    return {"format": FORMAT, "databases": found, "drift": changes}


def read(order: Mapping[str, Any]) -> dict[str, Any]:
    """What `judge` needs of the live databases: {format, databases: {alias: bundle}}. Holds no secret, no data."""
    databases = setup(order)
    from django.db import connections

    chosen = order.get("aliases")
    wanted = [alias for alias in aliases(databases) if chosen is None or alias in chosen]
    if not wanted:
        raise bad_input("none of DATABASES is PostgreSQL", "", "only PostgreSQL can be judged")
    return {"format": FORMAT, "databases": {alias: read_one(connections[alias]) for alias in wanted}}


def read_one(connection: Any) -> dict[str, Any]:
    """The bundle of one database. Raises BluegreenError (CHECK_FAILED) if it cannot be reached."""
    from django.db import DatabaseError
    from django.db.migrations.recorder import MigrationRecorder

    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT current_setting('server_version_num')::int, current_user, current_database(),"
                " (SELECT setting FROM pg_settings WHERE name = 'search_path'),"
                " (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),"
                " to_regclass('django_migrations')::oid::bigint,"
                " (SELECT quote_ident(n.nspname) || '.django_migrations' FROM pg_class c JOIN pg_namespace n"
                "  ON n.oid = c.relnamespace WHERE c.oid = to_regclass('django_migrations'))"
            )
            version, user, name, path, superuser, there, table = cursor.fetchone()
            cursor.execute(catalog.SIZES)
            sizes = json.loads(cursor.fetchone()[0])
            cursor.execute(
                "SELECT rolname FROM pg_roles WHERE rolname !~ '^pg_' AND rolname <> current_user ORDER BY 1"
            )
            roles = [row[0] for row in cursor.fetchall()]
            cursor.execute(catalog.INVALID)  # a dump would make them anew, and valid
            invalid = [list(row) for row in cursor.fetchall()]
        rows = MigrationRecorder(connection).migration_qs.order_by("id").values_list("app", "name") if there else []
        applied = [list(row) for row in rows]
        parameters = connection.get_connection_params()
    except DatabaseError as problem:
        raise silent(connection, problem) from None
    finally:
        connection.close()
    server, secret = of_parameters(parameters)
    try:
        schema = shadow.dump(server, str(name), secret)
        unread = ""
    except BluegreenError as problem:
        schema, unread = "", str(problem)
    return {
        "major": version // 10000, "user": user, "search_path": path, "superuser": bool(superuser), "applied": applied,
        "migrations_table": table, "sizes": sizes, "roles": roles, "schema_sql": schema, "unread": unread,
        "engine": connection.settings_dict["ENGINE"], "invalid_indexes": invalid,
    }  # fmt: skip


def silent(connection: Any, problem: Exception) -> BluegreenError:
    """The error for a database that does not answer, or not this role."""
    from django.db import OperationalError

    reached = not isinstance(problem, OperationalError)
    what = f"the database {connection.alias!r} cannot be {'read' if reached else 'reached'}"
    todo = "may its role read every table?" if reached else "is it running, and are the settings right?"
    return check_failed(what, without_secret(connection, problem), todo)


def without_secret(connection: Any, problem: Exception) -> str:
    """The error's line; a password in it is blotted out."""
    text = tryout.line(problem)
    secret = str(connection.settings_dict.get("PASSWORD") or "")
    return text.replace(secret, "…") if secret else text


def of_parameters(parameters: Mapping[str, Any]) -> tuple[shadow.Server, dict[str, str]]:
    """A server, and the environment that holds the rest, for psql and pg_dump."""
    secret = {LIBPQ[key]: str(value) for key, value in parameters.items() if key in LIBPQ and value not in (None, "")}
    host, port = secret.pop("PGHOST", ""), secret.pop("PGPORT", "")
    bare = shadow.Server(host, int(port or 5432), secret.pop("PGUSER", "") or os.environ.get("USER", ""))
    return bare, secret


def prepare(order: Mapping[str, Any]) -> dict[str, Any]:
    """Make this release's databases on the throwaway server of the order (`server`), all its migrations applied.

    Answers {databases: {alias: where}}. For a comparison without a live database.
    """
    server = shadow.Server(**(order.get("server") or {}))
    databases = settings_databases()
    places = {}
    for alias in aliases(databases) or ["default"]:
        name = f"base_{secrets.token_hex(4)}"
        shadow.psql(server, "postgres", f"CREATE DATABASE {name} TEMPLATE template0;")
        places[alias] = {"HOST": server.host, "PORT": str(server.port), "USER": server.user, "NAME": name}
    replace(databases, places)
    load()
    from django.core.management import call_command

    for alias in places:
        try:
            call_command("migrate", database=alias, interactive=False, verbosity=0, skip_checks=True)
        except Exception as problem:  # noqa: BLE001  whatever a migration raises
            raise check_failed(f"the migrations of the base fail on {alias!r}", tryout.line(problem)) from None
    _close()
    return {"format": FORMAT, "databases": places}


def judge(order: Mapping[str, Any]) -> dict[str, Any]:
    """Try the pending migrations on a shadow and judge them: the answer of the package's docstring."""
    started = time.monotonic()
    bundles = bundles_of(order)
    methods = [str(name) for name in order.get("methods") or METHODS]
    if wrong := [name for name in methods if name not in METHODS]:
        raise bad_input(f"there is no method {wrong[0]!r}", "", f"there are {', '.join(METHODS)}")
    with on_shadow(order, bundles, methods) as place:
        cases = [_case(alias, bundle, order, place.method, place.wall) for alias, bundle in bundles.items()]
    result = decide.answer(cases, "static" if place.method == "static" else "shadow", place.detail)
    new = {case.database: case.new.as_json() for case in cases}
    return {
        **result,
        "why_not_better": place.why_not,
        "footprint": {"format": FORMAT, "databases": new, "drift": []},
        "seconds": round(time.monotonic() - started, 2),
    }


def bundles_of(order: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """What `read` answered: alias → bundle. Raises BluegreenError (BAD_INPUT) if the order has none."""
    bundles: Mapping[str, Mapping[str, Any]] = (order.get("bundle") or {}).get("databases") or {}
    if not bundles:
        raise bad_input("there is no bundle of the live databases", "", "give what `read` answered as `bundle`")
    return bundles


class Place(NamedTuple):
    """Where migrations are tried: the method, a line about it, why none before it would do, the wall around it."""

    method: str
    detail: str
    why_not: list[str]
    wall: Wall


@contextlib.contextmanager
def on_shadow(
    order: Mapping[str, Any], bundles: Mapping[str, Mapping[str, Any]], methods: Sequence[str]
) -> Iterator[Place]:
    """The release's applications, loaded on shadows of the live databases; all else is out of their reach.

    methods: of METHODS; the first that works is taken. The shadows are gone afterwards. Raises BluegreenError.
    """
    databases = settings_databases()
    replace(databases, order.get("databases") or {})
    with contextlib.ExitStack() as stack:
        why_not: list[str] = []
        method, detail, redirect = _shadow(stack, methods, bundles, order, databases, why_not)
        twins = _twins(databases, redirect)
        replace(databases, redirect)
        wall = _separate(databases, bundles, twins)
        load()
        wall.up(lambda wanted: _is_shadow(wanted, redirect))
        yield Place(method, detail, why_not, wall)
        _close()


def _close() -> None:
    from django.db import connections

    connections.close_all()


def _shadow(
    stack: contextlib.ExitStack,
    methods: Sequence[str],
    bundles: Mapping[str, Mapping[str, Any]],
    order: Mapping[str, Any],
    databases: Mapping[str, Mapping[str, Any]],
    why_not: list[str],
) -> tuple[str, str, dict[str, dict[str, Any]]]:
    """The first method that works: its name, a line about it, and where each database's shadow is."""
    makers = {"cluster": _in_cluster, "scratch": _beside}
    for method in methods:
        if method == "static":
            return "static", "; ".join(why_not) or "as asked", {}
        with contextlib.ExitStack() as attempt:
            try:
                if unread := next((str(one["unread"]) for one in bundles.values() if one.get("unread")), ""):
                    raise check_failed("the live schema could not be read", unread)
                detail, redirect = makers[method](attempt, bundles, order, databases)
            except BluegreenError as problem:
                why_not.append(f"{method}: {problem}")
                continue
            stack.push(attempt.pop_all())
            return method, detail, redirect
    raise check_failed("there is no shadow to try the migrations on", "; ".join(why_not), "allow the method static")


def _in_cluster(
    stack: contextlib.ExitStack,
    bundles: Mapping[str, Mapping[str, Any]],
    order: Mapping[str, Any],
    _databases: Mapping[str, Mapping[str, Any]],
) -> tuple[str, dict[str, dict[str, Any]]]:
    """On a throwaway server, or on the one that the order names (`server`: host, port, user of a superuser)."""
    first = next(iter(bundles.values()))
    given = order.get("server")
    if given:
        server = shadow.Server(str(given["host"]), int(given["port"]), str(given["user"]), str(given.get("bin") or ""))
    else:
        place = shadow.find_binaries(int(first["major"]), str(order.get("pg_bin") or ""))
        if not place:
            raise check_failed(f"there are no server programs of PostgreSQL {first['major']} here")
        server = stack.enter_context(shadow.cluster(place, str(first["user"])))
    redirect = {}
    mark = secrets.token_hex(4)
    for number, (alias, bundle) in enumerate(bundles.items()):
        name = f"shadow_{mark}_{number}"
        shadow.psql(server, "postgres", f"CREATE DATABASE {name} TEMPLATE template0;\n{_properties(name, bundle)}")
        if given:
            stack.callback(_drop, server, name, {}, "postgres")
        shadow.fill(server, name, bundle, roles=True)
        redirect[alias] = {"HOST": server.host, "PORT": str(server.port), "USER": server.user, "NAME": name}
    return f"a throwaway server, PostgreSQL {first['major']}", redirect


def _beside(
    stack: contextlib.ExitStack,
    bundles: Mapping[str, Mapping[str, Any]],
    _order: Mapping[str, Any],
    databases: Mapping[str, Mapping[str, Any]],
) -> tuple[str, dict[str, dict[str, Any]]]:
    """In a scratch database on the live server, removed always. Needs the right to create databases."""
    from django.db.utils import ConnectionHandler

    handler = ConnectionHandler(copy.deepcopy(dict(databases)))
    redirect = {}
    for alias, bundle in bundles.items():
        entry = databases[alias]
        server, secret = of_parameters(handler[alias].get_connection_params())
        live = str(entry["NAME"])
        name = f"{SCRATCH}{int(time.time())}_{secrets.token_hex(4)}"
        _sweep(server, live, secret)
        shadow.psql(server, live, f"CREATE DATABASE {name} TEMPLATE template0;", secret)
        stack.callback(_drop, server, name, secret, live)
        shadow.psql(server, live, _properties(name, bundle), secret)
        shadow.fill(server, name, bundle, secret)
        redirect[alias] = {
            **{key: entry[key] for key in ("HOST", "PORT", "USER", "PASSWORD", "OPTIONS") if key in entry},
            "NAME": name,
        }
    return "a scratch database beside the live one", redirect


def _properties(name: str, bundle: Mapping[str, Any]) -> str:
    """SQL: a shadow looks for tables where the live database does, and no statement takes long on it."""
    path = str(bundle.get("search_path") or "public")
    return (
        f"ALTER DATABASE {name} SET search_path = {path};\nALTER DATABASE {name} SET statement_timeout = '{STATEMENT}';"
    )


def _drop(server: shadow.Server, name: str, secret: Mapping[str, str], live: str) -> None:
    shadow.psql(server, live, f"DROP DATABASE IF EXISTS {name} WITH (FORCE);", secret)


def _sweep(server: shadow.Server, live: str, secret: Mapping[str, str]) -> None:
    """Remove scratch databases that an earlier run, killed, left behind."""
    pattern = shadow.literal(f"^{SCRATCH}[0-9]+_[0-9a-f]{{8}}$")
    mine = "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = current_user AND datname ~ "
    for name in shadow.psql(server, live, f"{mine}{pattern};", secret).split():
        if int(name.split("_")[2]) < time.time() - LEFT:
            with contextlib.suppress(BluegreenError):
                _drop(server, name, secret, live)


def place_of(entry: Mapping[str, Any]) -> tuple[str, str, str]:
    """Which database an entry of DATABASES means."""
    return str(entry.get("HOST") or ""), str(entry.get("PORT") or ""), str(entry.get("NAME") or "")


def _twins(databases: Mapping[str, Mapping[str, Any]], redirect: Mapping[str, object]) -> dict[str, str]:
    """Second names of databases that have a shadow (a replica's, a test mirror): alias → the alias that has it."""
    found = {}
    for alias, entry in databases.items():
        mirror = (entry.get("TEST") or {}).get("MIRROR")
        same = (
            [mirror] if mirror in redirect else [one for one in redirect if place_of(databases[one]) == place_of(entry)]
        )
        if alias not in redirect and same and postgresql(entry):
            found[alias] = str(same[0])
    return found


def _separate(databases: dict[str, dict[str, Any]], bundles: Mapping[str, Any], twins: Mapping[str, str]) -> Wall:
    """Every other database, cache and mail server is out of reach."""
    from django.conf import settings

    for alias, entry in databases.items():
        if alias in twins:
            shadows = databases[twins[alias]]
            entry.update({key: shadows.get(key, "") for key in ("HOST", "PORT", "USER", "NAME", "PASSWORD")})
            entry["OPTIONS"] = shadows.get("OPTIONS") or {}
        elif alias not in bundles:
            entry.update({"HOST": "/nonexistent", "NAME": "unreachable", "PASSWORD": ""})
    settings.EMAIL_BACKEND = "django.core.mail.backends.dummy.EmailBackend"
    settings.CACHES = {alias: {"BACKEND": "django.core.cache.backends.dummy.DummyCache"} for alias in settings.CACHES}
    for key in [key for key in os.environ if key.startswith("PG")]:
        del os.environ[key]
    return Wall()


def _is_shadow(wanted: Mapping[str, Any], redirect: Mapping[str, Mapping[str, Any]]) -> bool:
    name, host = str(wanted.get("dbname") or wanted.get("database") or ""), str(wanted.get("host") or "")
    return any(name == one["NAME"] and host == str(one.get("HOST") or "") for one in redirect.values())


def _case(alias: str, bundle: Mapping[str, Any], order: Mapping[str, Any], method: str, wall: Wall) -> decide.Case:
    """One database, tried or predicted."""
    from django.db import connections
    from django.db.migrations.executor import MigrationExecutor

    connection = connections[alias]
    live_all = order.get("live")
    lives = (live_all or {}).get("databases", {}).get(alias)
    live = Footprint.from_json(lives) if lives else None
    new = models.of_release(connection)
    sizes = {name: Size(*pair) for name, pair in bundle["sizes"].items()}
    if order.get("sizes_unknown"):
        sizes = {}
    applied = [(str(app), str(name)) for app, name in bundle["applied"]]
    found: list[Finding] = []
    if method == "static":
        _pretend(applied)
    baseline = tryout.read_catalog(connection) if method != "static" else None
    try:
        executor = MigrationExecutor(connection)
    except Exception as problem:  # noqa: BLE001  whatever an import raises
        error = tryout.line(problem)
        found.append(Finding("does-not-load", Verdict.REFUSED, values={"error": error}))
        empty = Setting(baseline or Catalog(), live, sizes, bool(bundle["superuser"]))
        return decide.Case(alias, (), empty, live or Footprint(), found)
    found += tryout.problems(executor, connection, applied, order, (live_all or {}).get("drift") or ())
    if any(one.rule in ("conflict", "history") for one in found):
        setting = Setting(baseline or Catalog(), live, sizes, bool(bundle["superuser"]))
        return decide.Case(alias, (), setting, live or Footprint(), found)
    late = frozenset(str(one) for one in order.get("late") or ())
    plan = tryout.plan_of(executor, late)
    for table, name in bundle.get("invalid_indexes") or ():
        found.append(Finding("invalid-index", Verdict.REFUSED, str(table), values={"name": str(name)}))
    if baseline is None:
        baseline, steps = tryout.predictions(executor, connection, plan)
    else:
        steps = tryout.steps(executor, connection, plan, baseline, wall)
    if live is None and baseline.tables:
        found.append(Finding("no-live", Verdict.SAFE))
    engine = str(bundle.get("engine") or "")
    if "zero_downtime" in engine:
        found.append(Finding("engine", Verdict.SAFE, values={"engine": engine}))
    setting = Setting(baseline, live, sizes, bool(bundle["superuser"]))
    return decide.Case(alias, steps, setting, new, found, method != "static", late)


def _pretend(applied: Sequence[tuple[str, str]]) -> None:
    """Let Django believe in the recorded rows without a database."""
    from django.db.migrations.recorder import MigrationRecorder

    rows: dict[tuple[str, str], None] = dict.fromkeys(applied)
    recorder: Any = MigrationRecorder
    recorder.applied_migrations = lambda _self: dict(rows)
    recorder.has_table = lambda _self: True


def plan(order: Mapping[str, Any]) -> dict[str, Any]:
    """`read` and `judge`, each in a process of its own."""
    bundle = order.get("bundle") or call("read", order)
    return call("judge", {**order, "bundle": bundle})


def call(verb: str, order: Mapping[str, Any], python: str = "", timeout: float = 600, **where: Any) -> dict[str, Any]:
    """A verb in a process of its own. Raises BluegreenError with what the other one said."""
    words = [python or sys.executable, "-m", "bluegreen.schema", verb]
    environment = dict(where.pop("env", None) or os.environ)
    own = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(part for part in (own, environment.get("PYTHONPATH", "")) if part)
    try:
        done = subprocess.run(
            words, input=json.dumps(order), capture_output=True, encoding="utf-8", errors="replace", timeout=timeout,
            check=False, env=environment, **where,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise check_failed(f"{verb} did not end within {timeout:g} s") from None
    except OSError as problem:
        raise bad_input(f"{words[0]} cannot be run", str(problem)) from None
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise check_failed(f"{verb} ended with status {done.returncode}", shadow.last(done.stderr)) from None
    if "error" in result:
        raise from_dict(result["error"])
    return result


@contextlib.contextmanager
def answer_apart() -> Iterator[Callable[[str], None]]:
    """Only the answer goes to stdout: what settings and migrations print goes to stderr."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(kept, "w", encoding="utf-8") as out:

            def write(text: str) -> None:
                out.write(text + "\n")

            yield write
    finally:
        sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """One verb: JSON on stdin, JSON on stdout. The exit status is an errors.Code."""
    from bluegreen.schema import backwards, restoring, runner

    verbs: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
        "footprint": footprint,
        "read": read,
        "judge": judge,
        "plan": plan,
        "prepare": prepare,
        "pending": runner.pending,
        "run": runner.run,
        "fit": runner.fit,
        "known": backwards.known,
        "back": backwards.back,
        "undo": backwards.undo,
        "compare": restoring.compare,
        "swap": restoring.swap,
        "drop": restoring.drop,
    }
    if list(arguments) == ["dump"]:  # its answer is not JSON alone
        from bluegreen.schema import dumping

        return dumping.main(json.load(sys.stdin))
    if list(arguments) == ["restore"]:
        return restoring.main()
    if len(arguments) != 1 or arguments[0] not in verbs:
        print(f"usage: python -m bluegreen.schema {'|'.join(verbs)}   (JSON on stdin)", file=sys.stderr)
        return int(Code.BAD_INPUT)
    verb = arguments[0]
    with answer_apart() as write:
        try:
            order = json.loads(sys.stdin.read() or "{}")
            if not isinstance(order, dict):
                raise bad_input("stdin must hold one JSON object")
            write(json.dumps(verbs[verb](order)))
        except BluegreenError as problem:
            print(f"bluegreen: {problem}", file=sys.stderr)
            write(json.dumps({"error": problem.as_dict(verb)}))
            return int(problem.code)
        except ValueError as problem:
            wrong = bad_input("stdin is not what it should be", str(problem))
            print(f"bluegreen: {wrong}", file=sys.stderr)
            write(json.dumps({"error": wrong.as_dict(verb)}))
            return int(wrong.code)
    return int(Code.OK)
