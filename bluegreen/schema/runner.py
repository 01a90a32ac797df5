"""Run the pending migrations of the release whose virtualenv this is: one at a time, under a lock of the database.

The lock is taken on Django's own connection: it lasts exactly as long as the backend that does the work, also when this
process is killed. No statement ever waits for a lock without a limit, because all traffic on the table would queue
behind it. After a failure what is true is read again from the database, never concluded.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import random
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bluegreen.errors import BluegreenError, Code, check_failed, refused
from bluegreen.schema import catalog, decide, models, operations, sqltext, stored, tryout
from bluegreen.schema.facts import FORMAT, Finding

LOCK_TIMEOUT = 2.0  # seconds that traffic may queue behind a migration (docs/migrations.md, "Running")
STATEMENT_TIMEOUT = 900.0  # seconds for one statement; none for CONCURRENTLY and VALIDATE, which nobody waits for
ATTEMPTS = 10  # of a migration that got no lock
LONGEST_PAUSE = 30.0  # seconds between two attempts, at most
LONG = 5.0  # seconds from which on a transaction counts as a long one: it is waited for, not queued behind
PATIENCE = 120.0  # seconds to wait for long transactions
LOCK_PATIENCE = 5.0  # seconds for the lock: the server notices a client that died within 1 s
IDLE = 600.0  # seconds that a migration may do nothing inside its transaction
TRANSIENT = {"55P03", "40P01"}  # lock_not_available, deadlock_detected
KEPT_LINES = 30
# SHARE UPDATE EXCLUSIVE: nothing but other schema changes queues behind it.
PATIENT = re.compile(
    r"(?i)(?:CREATE (?:UNIQUE )?|DROP |REINDEX )INDEX CONCURRENTLY "
    r'|ALTER TABLE (?:IF EXISTS )?(?:ONLY )?(?:"[^"]+"|[\w.])+ VALIDATE CONSTRAINT (?:"[^"]+"|\w+)\Z'
)

LONG_TRANSACTIONS = """
SELECT a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''),
  extract(epoch FROM clock_timestamp() - a.xact_start)::float
FROM pg_stat_activity a
WHERE a.pid <> pg_backend_pid() AND a.datname = current_database() AND a.backend_type = 'client backend'
  AND a.xact_start < clock_timestamp() - make_interval(secs => %s)
  AND (%s OR EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.granted AND l.relation::bigint = ANY (
    SELECT to_regclass(name)::oid::bigint FROM unnest(%s::text[]) AS name)))
ORDER BY 4 DESC
"""
HOLDER = """
SELECT l.pid, coalesce(a.usename, ''), coalesce(host(a.client_addr), 'this machine'), coalesce(a.application_name, '')
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.classid::bigint = ((%s::bigint >> 32) & 4294967295) AND l.objid::bigint = (%s::bigint & 4294967295)
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


# pending: one start of Django, one catalog query


def pending(order: Mapping[str, Any]) -> dict[str, Any]:
    """What is pending, and what the release expects of its databases; see the package's docstring."""
    from bluegreen.schema import service

    databases = service.setup(order)
    names = [str(name) for name in order.get("aliases") or ["default"]]
    if missing := [name for name in names if name not in databases]:
        raise refused(
            f"there is no database {missing[0]!r} in DATABASES",
            f"there are {', '.join(sorted(databases)) or 'none'}",
            "correct migrations_databases",
        )
    found: dict[str, Any] = {
        "format": FORMAT, "pending": [], "plan": [], "problems": [], "unjudged": [], "empty": True, "footprint": None,
    }  # fmt: skip
    kept: dict[str, Any] = {}
    for name in names:
        _pending_of(name, order, found, kept, service.postgresql(databases[name]))
    if kept:
        changes = _drift()
        known = {alias: one["known"] for alias, one in kept.items()}
        expected = {alias: one["footprint"] for alias, one in kept.items()}
        found["footprint"] = {"format": FORMAT, "databases": expected, "known": known, "drift": changes}
        found["problems"] += _new_drift(changes, order)
    return found


def _pending_of(
    alias: str, order: Mapping[str, Any], found: dict[str, Any], kept: dict[str, Any], judged: bool
) -> None:
    """One database: adds to what was found."""
    from django.core.exceptions import ImproperlyConfigured
    from django.db import DatabaseError, connections
    from django.db.migrations.exceptions import InconsistentMigrationHistory

    from bluegreen.schema import service

    connection = connections[alias]
    try:
        executor = executor_of(connection)
        executor.loader.check_consistent_history(connection)
    except DatabaseError as problem:
        raise service.silent(connection, problem) from None
    except InconsistentMigrationHistory as problem:
        why = tryout.line(problem)
        raise check_failed("the migration history contradicts itself", why, "correct it in a new commit") from None
    except ImproperlyConfigured:
        found["unjudged"].append(f"{alias}: no database")
        return
    if conflicts := executor.loader.detect_conflicts():
        app, names = next(iter(conflicts.items()))
        raise check_failed(
            "migrations conflict",
            f"{app} has several leaves: {', '.join(sorted(names))}",
            "run makemigrations --merge and deploy a new commit",
        )
    whole = tryout.plan_of(executor)
    plan = [migration for migration, _ in whole]
    needs = tryout.needs(executor, whole) if order.get("late") else {}
    for migration in plan:
        key = {"database": alias, "app": migration.app_label, "name": migration.name}
        more = {"needs": needs[f"{migration.app_label}.{migration.name}"]} if needs else {}
        found["pending"].append({**key, "file_sha256": digest_of(migration), **more})
        found["plan"].append(f"{migration.app_label}.{migration.name}")
        found["plan"] += [f"    {operation.describe()}" for operation in migration.operations]
    applied = list(executor.loader.applied_migrations)
    ledger = order.get("ledger") or {}
    # what is there was made by migrations of ours that nobody ever used counts as nothing, where nothing is live
    found["empty"] = found["empty"] and all(f"{app}.{name}" in ledger for app, name in applied)
    if not judged:
        found["unjudged"].append(f"{alias}: {'SQLite' if connection.vendor == 'sqlite' else connection.vendor}")
        return
    footprint = models.of_release(connection)
    kept[alias] = {"footprint": footprint.as_json(), "known": []}
    if plan:
        return  # it is judged whole
    findings = tryout.ahead(executor.loader, applied, set(ledger)) + tryout.changed_files(executor.loader, ledger)
    misfits = stored.against(footprint, _catalog(connection))
    kept[alias]["known"] = [list(one.key) for one in misfits]
    live = order.get("live")
    if live:
        known = {tuple(key) for key in (live.get("known") or {}).get(alias, ())}
        findings += [one for one in misfits if one.key not in known]
    found["problems"] += [{"database": alias, **decide.reason(one)} for one in findings if one.verdict.word != "safe"]


def digest_of(migration: Any) -> str:
    """sha256 of a migration's file; empty if it has none."""
    file = operations.file_of(migration)
    with contextlib.suppress(OSError):
        if file:
            with open(file, "rb") as stream:
                return hashlib.sha256(stream.read()).hexdigest()
    return ""


def executor_of(connection: Any) -> Any:
    """Django's executor of a database's migrations. Raises BluegreenError (CHECK_FAILED) if one cannot be imported."""
    from django.core.exceptions import ImproperlyConfigured
    from django.db import Error
    from django.db.migrations.exceptions import InconsistentMigrationHistory
    from django.db.migrations.executor import MigrationExecutor

    try:
        return MigrationExecutor(connection)
    except (Error, InconsistentMigrationHistory, ImproperlyConfigured):
        raise
    except Exception as problem:  # noqa: BLE001  whatever an import raises
        todo = "correct it and deploy a new commit"
        raise check_failed("the migrations cannot be loaded", tryout.line(problem), todo) from None


def _catalog(connection: Any) -> str:
    with connection.cursor() as cursor:
        cursor.execute(catalog.QUERY)
        return str(cursor.fetchone()[0])


def _drift() -> list[str]:
    from django.db.migrations.loader import MigrationLoader

    try:
        return models.drift(MigrationLoader(None))
    except Exception as problem:  # noqa: BLE001  the rest stands without it
        return [f"not known: {tryout.line(problem)}"]


def _new_drift(changes: Sequence[str], order: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Model changes without a migration that the live release does not have as well."""
    live = order.get("live") or {}
    if "drift" not in live:
        return []
    found = [Finding("drift", tryout.REFUSED, values={"change": one}) for one in changes if one not in live["drift"]]
    return [{"database": "default", **decide.reason(one)} for one in found]


# fits: no start of Django


def fit(order: Mapping[str, Any]) -> dict[str, Any]:
    """Which stored releases fit the schema: {fits: {release: [why not]}}. The settings are imported, no more.

    order: `kept` {release: what `pending` or `run` gave as footprint}.
    """
    from django.db import OperationalError, connections

    from bluegreen.schema import service

    service.setup(order, applications=False)
    answers: dict[str, str] = {}

    def ask(alias: str, query: str) -> str:
        if alias not in answers:
            try:
                with connections[alias].cursor() as cursor:
                    cursor.execute("SET statement_timeout = '10s'")
                    cursor.execute(query)
                    answers[alias] = str(cursor.fetchone()[0])
            except OperationalError as problem:
                why = service.without_secret(connections[alias], problem)
                raise check_failed(f"the database {alias!r} cannot be reached", why) from None
        return answers[alias]

    return {"fits": {name: stored.misfits(kept, ask) for name, kept in (order.get("kept") or {}).items()}}


# run


class Step:
    """One migration to run: what the plan said of it."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.database, self.app, self.name = str(data["database"]), str(data["app"]), str(data["name"])
        self.file_sha256 = str(data.get("file_sha256") or "")
        self.tables = [str(one) for one in data.get("tables") or ()]
        self.back = bool(data.get("back"))  # it is undone
        self.late = bool(data.get("late"))  # it runs once the new release is live
        self.bridge = [str(one) for one in data.get("bridge") or ()]  # run before the switch, for a late one
        sql = [str(one) for one in data.get("sql") or ()]
        self.sql = [one for one in sql if sqltext.kind(one) is not sqltext.Kind.SETTING]

    @property
    def label(self) -> str:
        return f"{self.app}.{self.name}"

    @property
    def relaxed(self) -> bool:
        """Nobody queues behind it, and it takes as long as the table is large."""
        return bool(self.sql) and all(patient(one) for one in self.sql)


def patient(sql: str) -> bool:
    """Do these statements block neither reads nor writes, also while they wait: CONCURRENTLY or VALIDATE alone?"""
    return all(PATIENT.match(one) for one in sqltext.split(sql))


def lock_key(app: str, database: str) -> int:
    """The advisory lock of an application's migrations: 8 bytes, as PostgreSQL's bigint."""
    return int.from_bytes(hashlib.sha256(f"bluegreen:{app}:{database}".encode()).digest()[:8], "big", signed=True)


def pause(attempt: int, chance: Callable[[float, float], float] = random.uniform) -> float:
    """Seconds before attempt number `attempt` + 1: full jitter, so that two runs do not meet again and again."""
    return chance(0.0, min(LONGEST_PAUSE, 2.0**attempt))


def may_retry(state: str, atomic: bool, committed: int) -> bool:
    """Is it sound to run the migration again after an error with this SQLSTATE?

    Only where it found no lock, and nothing of it stayed: an atomic one was rolled back whole; of another, `committed`
    statements stay.
    """
    return state in TRANSIENT and (atomic or committed == 0)


def sqlstate(problem: BaseException) -> str:
    """PostgreSQL's code of an error that Django wraps; empty if there is none."""
    seen: BaseException | None = problem
    while seen is not None:
        code = getattr(seen, "sqlstate", None) or getattr(seen, "pgcode", None)
        if code:
            return str(code)
        seen = seen.__cause__
    return ""


def what_to_do(step: Step, truth: Mapping[str, Any], state: str, atomic: bool) -> str:
    """What a person does after a failure. truth: what `Session.truth` read."""
    todo = []
    for table, name in truth["invalid_indexes"]:
        todo.append(f"remove the index that is invalid now ({table}): DROP INDEX CONCURRENTLY {decide.quoted(name)}")
    done = list(truth["half_done"])
    if done and not atomic:
        first = done[0] if len(done[0]) <= 120 else done[0][:117] + "..."
        more = f" and {len(done) - 1} more" if len(done) > 1 else ""
        todo.append(f"{step.label} is not atomic and is half applied: undo by hand what stays ({first}{more})")
    if todo:
        return "; ".join(todo) + "; then the same again"
    if state in TRANSIENT:
        return "nothing of it stays; try again when the transaction that held the table has ended"
    if step.back:
        return "nothing of it was undone; correct the rows that it names, then the same again"
    if step.late:
        return "nothing of it stays, and the live release works without it; correct what it names, then the same again"
    return "nothing of it stays; correct the migration and deploy a new commit"


@contextlib.contextmanager
def unbreakable(lines: deque[str]) -> Iterator[None]:
    """Keep what is printed, and pass it on as long as somebody listens: a caller that died must not end a migration."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    out, err = os.dup(1), os.dup(2)
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.close(writer)

    def drain() -> None:
        with os.fdopen(reader, encoding="utf-8", errors="replace") as stream:
            for text in stream:
                if text.strip():
                    lines.append(text.rstrip())
                with contextlib.suppress(OSError):
                    os.write(err, text.encode())

    thread = threading.Thread(target=drain, daemon=True)
    thread.start()
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(out, 1)
        os.dup2(err, 2)
        thread.join(5)
        os.close(out)
        os.close(err)


def say(text: str) -> None:
    """One line of progress."""
    print(f"bluegreen: {text}", file=sys.stderr, flush=True)


class Session:
    """One database, its lock held, its timeouts set. Every failure is answered with what the database says."""

    def __init__(self, connection: Any, order: Mapping[str, Any]) -> None:
        self.connection = connection
        self.app = str(order.get("app") or "")
        self.lock_timeout = float(order.get("lock_timeout") or LOCK_TIMEOUT)
        self.statement_timeout = float(order.get("statement_timeout") or STATEMENT_TIMEOUT)
        self.attempts = int(order.get("attempts") or ATTEMPTS)
        self.patience = float(order.get("patience") or PATIENCE)
        self.long = float(order.get("long") or LONG)
        self.key = lock_key(self.app, str(connection.settings_dict.get("NAME") or ""))
        self.pid = 0
        self.invalid: list[list[str]] = []

    def ask(self, sql: str, *params: Any) -> list[Any]:
        """The rows that a query gives."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params or None)
            return list(cursor.fetchall())

    def begin(self) -> None:
        """Connect, refuse a pooler that gives every transaction another backend, take the lock, set the timeouts."""
        from django.db import OperationalError

        from bluegreen.schema import service

        try:
            self.connection.ensure_connection()
        except OperationalError as problem:
            why = service.without_secret(self.connection, problem)
            raise check_failed(f"the database {self.connection.alias!r} cannot be reached", why) from None
        self.refuse_pooler()
        self.pid = int(self.ask("SELECT pg_backend_pid()")[0][0])
        self.lock()
        self.timeouts(False)
        self.invalid = self.invalid_indexes()

    def refuse_pooler(self) -> None:
        """Refuse PgBouncer in transaction mode: it keeps neither a lock nor a timeout from one statement to the next.

        A pooler says a process id of its own at the start. In session mode a second connection never gets the backend
        of the first.
        """
        told = int(self.connection.connection.info.backend_pid)
        first = int(self.ask("SELECT pg_backend_pid()")[0][0])
        if told == first:
            return
        from django.db import connections

        other = connections.create_connection(self.connection.alias)
        try:
            with other.cursor() as cursor:
                cursor.execute("BEGIN")
                cursor.execute("SELECT pg_backend_pid()")
                second = int(cursor.fetchone()[0])
                again = int(self.ask("SELECT pg_backend_pid()")[0][0])
        finally:
            other.close()
        if second == first or again != first:
            raise refused(
                f"the database {self.connection.alias!r} is reached through a pooler in transaction mode",
                "neither a lock nor a timeout lasts there from one statement to the next",
                "name the server itself: migrations_databases: {default: {host: 192.0.2.31, port: 5432}}",
            )

    def lock(self) -> None:
        """Raises BluegreenError (BUSY) that says who has it."""
        until = time.monotonic() + LOCK_PATIENCE
        while not self.ask("SELECT pg_try_advisory_lock(%s)", self.key)[0][0]:
            if time.monotonic() > until:
                rows = self.ask(HOLDER, self.key, self.key)
                who = ", ".join(f"{user} from {place}, process {pid} of the server" for pid, user, place, _ in rows)
                todo = "wait for it, then try again"
                raise BluegreenError(Code.BUSY, f"migrations of {self.app} are at work already", who, todo)
            time.sleep(0.2)

    def timeouts(self, relaxed: bool) -> None:
        """Set them for the next migration: one before may have set others. Raises BluegreenError if they do not hold.

        relaxed: the statements block nobody while they wait or work. Then a lock may take as long as a statement may,
        and there is no limit on the work itself.
        """
        lock = self.statement_timeout if relaxed else self.lock_timeout
        wanted = {
            "lock_timeout": lock,
            "statement_timeout": 0.0 if relaxed else self.statement_timeout,
            "idle_in_transaction_session_timeout": IDLE,
        }
        with self.connection.cursor() as cursor:
            for name, seconds in wanted.items():
                cursor.execute(f"SET {name} = {int(seconds * 1000)}")
            with contextlib.suppress(Exception):  # PostgreSQL 14 and newer, and not on every system
                cursor.execute("SET client_connection_check_interval = 1000")
            cursor.execute("SET application_name = 'bluegreen migrate'")
        pid, holds = self.ask("SELECT pg_backend_pid(), current_setting('lock_timeout')::interval")[0]
        if pid != self.pid or abs(holds.total_seconds() - lock) > 0.001:
            raise check_failed(
                "the database does not keep the timeouts", "another session answers", "is there a pooler?"
            )

    def invalid_indexes(self) -> list[list[str]]:
        """[table, index] of what an interrupted CREATE INDEX CONCURRENTLY left."""
        return [list(row) for row in self.ask(catalog.INVALID)]

    def wait_for_long(self, step: Step) -> float:
        """Wait until no long transaction holds the tables of a migration (of CONCURRENTLY: anywhere). Seconds waited.

        Raises BluegreenError (CHECK_FAILED) that names the transaction.
        """
        began, said = time.monotonic(), -60.0
        names = [decide.quoted(name) for name in step.tables]
        while True:
            rows = self.ask(LONG_TRANSACTIONS, self.long, step.relaxed, names) if names or step.relaxed else []
            waited = time.monotonic() - began
            if not rows:
                return waited
            pid, user, program, age = rows[0]
            who = f"process {pid} ({program or user}) has had a transaction open for {age:.0f} s"
            if waited > self.patience:
                raise check_failed(
                    f"{step.label} would wait behind a long transaction",
                    who,
                    f"end it (SELECT pg_terminate_backend({pid})), or wait; then the same again",
                )
            if waited - said >= 15:
                said = waited
                say(f"{step.label}: waiting: {who}")
            time.sleep(0.2)

    def truth(self, step: Step, statements: Sequence[str]) -> dict[str, Any]:
        """What the database says after a failure: what is recorded, invalid indexes, what a half-applied one left."""
        from django.db.migrations.recorder import MigrationRecorder

        with contextlib.suppress(Exception):
            self.connection.rollback()
        if self.connection.connection is None or not self.connection.is_usable():
            self.connection.close()
        recorded = (step.app, step.name) in MigrationRecorder(self.connection).applied_migrations()
        before = {tuple(one) for one in self.invalid}
        new = [one for one in self.invalid_indexes() if tuple(one) not in before]
        finished = recorded is not step.back
        left = [] if finished else list(statements)
        return {"recorded": recorded, "finished": finished, "invalid_indexes": new, "half_done": left}


class Watched:
    """Counts what a migration has done: the statements that went through and change something."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def execute(self, run: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        """For connection.execute_wrapper."""
        answer = run(sql, params, many, context)
        if sqltext.kind(str(sql)) not in (sqltext.Kind.QUERY, sqltext.Kind.SETTING, sqltext.Kind.LOCK):
            self.done.append(" ".join(str(sql).split()))
        return answer


def run(order: Mapping[str, Any]) -> dict[str, Any]:
    """Run what was planned, and nothing else; see the package's docstring."""
    from bluegreen.schema import service

    service.setup(order)
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    steps = [Step(one) for one in order.get("steps") or ()]
    later = [Step(one) for one in order.get("later") or ()]
    answer: dict[str, Any] = {"applied": [], "bridged": [], "failed": None, "known": {}}
    with unbreakable(lines):
        for alias in dict.fromkeys(step.database for step in [*steps, *(one for one in later if one.bridge)]):
            mine = [[one for one in part if one.database == alias] for part in (steps, later)]
            answer["failed"] = _run_on(alias, mine[0], mine[1], order, answer)
            if answer["failed"]:
                break
    return answer | {"output": list(lines)}


def _run_on(
    alias: str, steps: Sequence[Step], later: Sequence[Step], order: Mapping[str, Any], answer: dict[str, Any]
) -> dict[str, Any] | None:
    """The migrations of one database, then the bridges of those that run `later`. Returns what failed."""
    from django.db import connections

    connection = connections[alias]
    session = Session(connection, order)
    session.begin()
    try:
        executor = executor_of(connection)
        todo = still_pending(executor, steps, later)
        if not todo and not any(step.bridge for step in later):
            return None  # somebody else was here first: each migration runs once
        before = executor._create_project_state(with_applied_migrations=True)
        plan = [(executor.loader.graph.nodes[step.app, step.name], False) for step in todo]
        if plan:
            send_signal("pre", connection, before.apps, plan)
        state = before.clone()
        for number, step in enumerate(todo, 1):
            say(f"{step.label} ({number} of {len(todo)})")

            def work(step: Step = step, state: Any = state) -> Any:
                return executor.apply_migration(state.clone(), executor.loader.graph.nodes[step.app, step.name])

            made, done, failed = perform(session, executor.loader.graph.nodes[step.app, step.name], step, work)
            if failed:
                return failed
            state = made
            answer["applied"].append(done)
            say(f"{step.label} applied in {done['seconds']:.2f} s")
        for step in later:
            if step.bridge:
                done, failed = _bridge(session, step)
                if failed:
                    return failed
                answer["bridged"].append(done)
        executor.check_replacements()
        session.timeouts(False)
        if plan and (problem := post_migrate(session, connection, state, plan)):
            return problem
        answer["known"][alias] = [
            list(one.key) for one in stored.against(models.of_release(connection), _catalog(connection))
        ]
    finally:
        connection.close()
    return None


def _bridge(session: Session, step: Step) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """What a late migration needs before the switch. Returns its record, and what failed."""
    from django.db import transaction

    class Together:
        atomic = True

    def work() -> None:
        with transaction.atomic(using=step.database), session.connection.cursor() as cursor:
            for statement in step.bridge:
                cursor.execute(statement)

    say(f"before the switch, for {step.label}: {' '.join(step.bridge)}")
    brief = copy.copy(step)
    brief.sql = []  # the migration may be one that nobody queues behind; this is none
    _, done, failed = perform(session, Together, brief, work)
    if failed:
        return done, failed | {
            "what": f"what {step.label} needs before the switch failed",
            "next": "nothing of it stays; try again when nothing holds the table, or leave it out of migrations_late",
        }
    return done | {"bridge": step.bridge}, None


def still_pending(executor: Any, steps: Sequence[Step], later: Sequence[Step] = ()) -> list[Step]:
    """The planned migrations that are pending now that the lock is held; those that run `later` may be as well.

    Raises BluegreenError if anything else is pending, or a file is another than the one that was judged.
    """
    now = [(migration.app_label, migration.name) for migration, _ in tryout.plan_of(executor)]
    planned = {(step.app, step.name): step for step in steps}
    waits = {(step.app, step.name) for step in later}
    if other := [name for name in now if name not in planned and name not in waits]:
        raise refused(
            f"{'.'.join(other[0])} is pending and was not planned", "the database has changed since", "the same again"
        )
    found = [planned[name] for name in now if name in planned]
    for step in found:
        same_file(executor, step)
    return found


def same_file(executor: Any, step: Step) -> None:
    """Raises BluegreenError (REFUSED) if the migration's file is another than the one that was looked at."""
    digest = digest_of(executor.loader.graph.nodes[step.app, step.name])
    if digest and step.file_sha256 not in ("", digest):
        raise refused(f"the file of {step.label} is not the one that was judged", digest, "the same again")


def perform(
    session: Session, migration: Any, step: Step, work: Callable[[], Any]
) -> tuple[Any, dict[str, Any], dict[str, Any] | None]:
    """One migration, with as many attempts as are sound. Returns what `work` made, its record, and what failed."""
    began, waited = time.monotonic(), 0.0
    record: dict[str, Any] = {"database": step.database, "app": step.app, "name": step.name}
    for attempt in range(1, session.attempts + 1):
        watched = Watched()
        try:
            session.timeouts(step.relaxed)
            waited += session.wait_for_long(step)
            with session.connection.execute_wrapper(watched.execute):
                after = work()
        except Exception as problem:  # noqa: BLE001  whatever a migration raises
            code = sqlstate(problem)
            # what an atomic one had done was rolled back
            truth = session.truth(step, [] if migration.atomic else watched.done)
            sound = may_retry(code, migration.atomic, len(watched.done)) and not truth["invalid_indexes"]
            if sound and not truth["finished"] and attempt < session.attempts:
                rest = pause(attempt)
                say(f"{step.label}: no lock within {session.lock_timeout:g} s; attempt {attempt + 1} in {rest:.1f} s")
                time.sleep(rest)
                waited += rest
                continue
            return None, record, _failure(step, problem, code, truth, migration.atomic, attempt)
        seconds = time.monotonic() - began
        return after, record | {"seconds": round(seconds, 3), "attempts": attempt, "waited": round(waited, 3)}, None
    raise AssertionError("unreachable")


def _failure(
    step: Step, problem: Exception, code: str, truth: Mapping[str, Any], atomic: bool, attempts: int
) -> dict[str, Any]:
    if isinstance(problem, BluegreenError):
        what, why, todo = problem.what, problem.why, problem.todo
    else:
        what, why, todo = f"{step.label} failed", tryout.line(problem), what_to_do(step, truth, code, atomic)
    if truth["finished"]:
        what_is = "undone" if step.back else "applied"
        todo = f"it is recorded as {what_is} all the same: the same again goes on after it"
    return {
        "database": step.database, "app": step.app, "name": step.name, "what": what, "why": why, "next": todo,
        "sqlstate": code, "attempts": attempts, **truth,
    }  # fmt: skip


def send_signal(which: str, connection: Any, apps: Any, plan: Sequence[Any]) -> None:
    """Tell the applications what Django's own migrate tells them (`pre` or `post`): so permissions are made."""
    from django.core.management.sql import emit_post_migrate_signal, emit_pre_migrate_signal

    emit = emit_pre_migrate_signal if which == "pre" else emit_post_migrate_signal
    emit(0, False, connection.alias, apps=apps, plan=list(plan))


def post_migrate(session: Session, connection: Any, state: Any, plan: Sequence[Any]) -> dict[str, Any] | None:
    """Send post_migrate, again where it got no lock: it finds what is there. Returns what failed."""
    from django.apps import apps as real
    from django.db.migrations.state import ModelState

    # as Django's own migrate: the models of applications without migrations get their relations too
    state.clear_delayed_apps_cache()
    apps = state.apps
    keys = [(one.app_label, one.name_lower) for one in apps.real_models]
    with apps.bulk_update():
        for key in keys:
            apps.unregister_model(*key)
    apps.render_multiple([ModelState.from_model(real.get_model(*key)) for key in keys])
    for attempt in range(1, session.attempts + 1):
        try:
            send_signal("post", connection, apps, plan)
        except Exception as problem:  # noqa: BLE001  whatever an application's receiver raises
            with contextlib.suppress(Exception):
                connection.rollback()
            if sqlstate(problem) in TRANSIENT and attempt < session.attempts:
                time.sleep(pause(attempt))
                continue
            what = "all migrations were applied, but what follows them (post_migrate) failed"
            return {
                "database": connection.alias, "app": "", "name": "", "what": what, "why": tryout.line(problem),
                "next": "correct the receiver and deploy a new commit", "sqlstate": sqlstate(problem),
                "attempts": attempt, "recorded": True, "invalid_indexes": [], "half_done": [],
            }  # fmt: skip
        return None
    raise AssertionError("unreachable")
