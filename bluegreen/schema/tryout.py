"""Run the pending migrations of the release whose virtualenv this is, one by one, and write down what each one did."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bluegreen.schema import catalog, models, operations, predicted, sqltext
from bluegreen.schema.facts import Catalog, Finding, Statement, Step, Verdict
from bluegreen.schema.wall import Wall

REFUSED = Verdict.REFUSED


def read_catalog(connection: Any) -> Catalog:
    """Of the database that a Django connection is to."""
    with connection.cursor() as cursor:
        cursor.execute(catalog.QUERY)
        return catalog.parse(cursor.fetchone()[0])


class Recorder:
    """Notes every statement, of which operation it is, and what Python code could not do."""

    def __init__(self, connection: Any, wall: Wall | None) -> None:
        self.connection, self.wall = connection, wall
        self.statements: list[Statement] = []
        self.opaque: list[tuple[int | None, str]] = []
        self.operation: int | None = None
        self.failed: int | None = None
        self.source = "schema"
        self.paused = True

    def execute(self, run: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        """For connection.execute_wrapper."""
        if not self.paused:
            text = self.text(sql, params)
            first = (sqltext.words(text) or [""])[0]
            asks = self.source == "schema" and sqltext.kind(text) is sqltext.Kind.QUERY
            if first not in ("SAVEPOINT", "RELEASE", "ROLLBACK") and not asks:
                self.statements.append(Statement(text, self.operation, self.source))
        return run(sql, params, many, context)

    def text(self, sql: Any, params: Any) -> str:
        """The statement as the server gets it, where the backend can tell."""
        if not params:
            return str(sql)
        with contextlib.suppress(Exception):
            return str(self.connection.ops.compose_sql(str(sql), params))
        return f"{sql} -- {params!r}"

    @contextlib.contextmanager
    def watching(self, migration: Any) -> Iterator[None]:
        """While a migration is applied."""
        changed: list[Any] = []
        for number, operation in enumerate(migration.operations):
            for part in {id(one): one for one in [operation, *operations.inside(operation)]}.values():
                part.database_forwards = self._wrapped(part, number)
                changed.append(part)
        self.paused = False
        try:
            with self.connection.execute_wrapper(self.execute):
                yield
        finally:
            self.paused = True
            for part in changed:
                vars(part).pop("database_forwards", None)

    def _wrapped(self, part: Any, number: int) -> Callable[..., None]:
        run, kind = type(part).database_forwards, operations.runs(part)
        alone = part in list(operations.inside(part))

        def forwards(*args: Any) -> None:
            self.operation, self.source = number, (kind or "schema") if alone else "schema"
            try:
                if alone and kind == "python":
                    self._python(lambda: run(part, *args), number)
                else:
                    run(part, *args)
            except BaseException:
                self.failed = number if self.failed is None else self.failed
                raise
            finally:
                self.operation, self.source = None, "schema"

        return forwards

    def _python(self, run: Callable[[], None], number: int) -> None:
        """Code that fails for want of rows, or of things it must not reach, is no proof against the migration."""
        from django.db import transaction

        before = len(self.wall.hits) if self.wall else 0
        try:
            inside = self.connection.in_atomic_block
            with transaction.atomic(using=self.connection.alias) if inside else contextlib.nullcontext():
                run()
        except Exception as error:
            if broken(error):
                raise
            self.opaque.append((number, line(error)))
        else:
            for what in self.wall.hits[before:] if self.wall else ():
                self.opaque.append((number, f"it tried {what}"))


def broken(error: Exception) -> bool:
    """It fails on every database, with rows or without: a name, a module, a model, a column that does not exist."""
    from django.core.exceptions import FieldDoesNotExist, FieldError
    from django.db import ProgrammingError

    kinds = (ImportError, NameError, SyntaxError, FieldError, FieldDoesNotExist, ProgrammingError)
    return isinstance(error, kinds) or type(error) is LookupError


def line(error: BaseException) -> str:
    """An exception in one line."""
    text = next((part.strip() for part in str(error).splitlines() if part.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def tables_of(state: Any, app: str) -> dict[str, str]:
    """Model's name in small letters → its table, of one application, without making model classes."""
    return {
        name: str(model.options.get("db_table") or f"{app}_{name}")
        for (label, name), model in state.models.items()
        if label == app
    }


def facts(migration: Any, state: Any) -> dict[str, Any]:
    """What the files say of a migration, as arguments of a Step."""
    file = operations.file_of(migration)
    source = ""
    content = b""
    if file:
        with contextlib.suppress(OSError):
            content = Path(file).read_bytes()
            source = content.decode("utf-8", "replace")
    return {
        "app": migration.app_label,
        "name": migration.name,
        "operations": operations.describe(
            migration, tables_of(state, migration.app_label), operations.lines(source, len(migration.operations))
        ),
        "atomic": bool(migration.atomic),
        "file": file,
        "file_sha256": hashlib.sha256(content).hexdigest() if content else "",
    }


def steps(
    executor: Any, connection: Any, plan: Sequence[Any], baseline: Catalog, wall: Wall | None = None
) -> list[Step]:
    """Apply the migrations of a plan to the shadow. After one that fails the others are not tried."""
    state = executor._create_project_state(with_applied_migrations=True)
    state.apps  # noqa: B018  rendered once, the operations then change it: much faster
    done: list[Step] = []
    before, failed = baseline, ""
    for migration, _ in plan:
        known = {"database": connection.alias, "before": before, **facts(migration, state)}
        if failed:
            done.append(Step(after=before, failed=f"{failed} failed before", **known))
            continue
        recorder = Recorder(connection, wall)
        error = ""
        record = executor.record_migration

        def quietly(*args: Any, recorder: Recorder = recorder, record: Any = record) -> None:
            recorder.paused = True
            record(*args)

        executor.record_migration = quietly
        try:
            with recorder.watching(migration):
                if wall is not None:
                    wall.closed = True
                state = executor.apply_migration(state, migration)
        except Exception as problem:  # noqa: BLE001  whatever a migration raises is its verdict
            error = line(problem)
            failed = f"{migration.app_label}.{migration.name}"
        finally:
            if wall is not None:
                wall.closed = False
            del executor.record_migration
        after = before if error else read_catalog(connection)
        done.append(
            Step(
                after=after,
                statements=tuple(recorder.statements),
                failed=error,
                failed_operation=recorder.failed,
                opaque=tuple(recorder.opaque),
                **known,
            )
        )
        before = after
    return done


def predictions(executor: Any, connection: Any, plan: Sequence[Any]) -> tuple[Catalog, list[Step]]:
    """Without a shadow: the baseline and the steps as Django's own operations would make them."""
    state = executor._create_project_state(with_applied_migrations=True)
    database = state.clone()  # what SeparateDatabaseAndState does to the database only
    baseline = before = predicted.catalog(database.apps, connection)
    done = []
    for migration, _ in plan:
        known = facts(migration, state)
        opaque = []
        for number, operation in enumerate(migration.operations):
            for part in operations.inside(operation):
                if operations.runs(part) == "sql":
                    continue
                try:
                    part.state_forwards(migration.app_label, database)
                except Exception as problem:  # noqa: BLE001  not to be predicted: a person has to look
                    opaque.append((number, line(problem)))
            operation.state_forwards(migration.app_label, state)
        after = predicted.catalog(database.apps, connection)
        done.append(Step(database=connection.alias, before=before, after=after, opaque=tuple(opaque), **known))
        before = after
    return baseline, done


def plan_of(executor: Any, late: Collection[str] = ()) -> list[Any]:
    """The pending migrations in the order in which they run: those named in `late` (app.name) after all others."""
    found = [item for item in executor.migration_plan(executor.loader.graph.leaf_nodes()) if not item[1]]
    return sorted(found, key=lambda item: f"{item[0].app_label}.{item[0].name}" in late)


def needs(executor: Any, plan: Sequence[Any]) -> dict[str, list[str]]:
    """app.name of each migration of a plan → those of the plan that must run before it."""
    keys = {(migration.app_label, migration.name) for migration, _ in plan}
    return {
        ".".join(key): [".".join(one) for one in executor.loader.graph.forwards_plan(key) if one in keys - {key}]
        for key in keys
    }


def problems(
    executor: Any,
    connection: Any,
    applied: Sequence[tuple[str, str]],
    order: Mapping[str, Any],
    live_drift: Sequence[str],
) -> list[Finding]:
    """What is wrong before any migration runs: conflicts, history, a database that is ahead, drift, changed files."""
    from django.db.migrations.exceptions import InconsistentMigrationHistory

    loader = executor.loader
    found = []
    for app, names in loader.detect_conflicts().items():
        found.append(Finding("conflict", REFUSED, values={"app": app, "names": ", ".join(sorted(names))}))
    try:
        loader.check_consistent_history(connection)
    except InconsistentMigrationHistory as error:
        found.append(Finding("history", REFUSED, values={"error": line(error)}))
    found += ahead(loader, applied, set(order.get("known_ahead") or ()))
    found += changed_files(loader, order.get("ledger") or {})
    contradicts = any(one.rule in ("conflict", "history") for one in found)
    for change in [] if contradicts else models.drift(loader):
        lives = change in live_drift
        found.append(
            Finding("drift-live" if lives else "drift", Verdict.SAFE if lives else REFUSED, values={"change": change})
        )
    return found


def ahead(loader: Any, applied: Sequence[tuple[str, str]], known: set[str]) -> list[Finding]:
    """Rows of applied migrations that the release does not have. One with a later row of the same application, which
    the release has, was squashed away; the others come from a newer release."""
    on_disk = set(loader.disk_migrations)
    for migration in loader.disk_migrations.values():
        on_disk |= {tuple(pair) for pair in migration.replaces}
    found = []
    for position, (app, name) in enumerate(applied):
        if (app, name) in on_disk or app not in loader.migrated_apps or f"{app}.{name}" in known:
            continue
        later = any(other == app and (other, kept) in on_disk for other, kept in applied[position + 1 :])
        values = {"name": f"{app}.{name}", "app": app}
        found.append(Finding("left-over" if later else "ahead", Verdict.SAFE if later else REFUSED, values=values))
    return found


def changed_files(loader: Any, ledger: Mapping[str, str]) -> list[Finding]:
    """Applied migrations whose file is another than the one that was run."""
    found = []
    for (app, name), migration in loader.disk_migrations.items():
        before, file = ledger.get(f"{app}.{name}"), operations.file_of(migration)
        if not before or not file or (app, name) not in loader.applied_migrations:
            continue
        now = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        if now != before:
            values = {"name": f"{app}.{name}", "old": before[:12], "new": now[:12]}
            found.append(Finding("file-changed", REFUSED, values=values))
    return found
